"""How many trials may run side by side on a cluster."""

import os
from collections.abc import Sequence

from cvmae.config import Config
from cvmae.runtime.nodes import Node, workers_beside_data

__all__ = ["DRIVER_CPUS", "num_concurrent", "num_on_nodes"]

DRIVER_CPUS = 0.01  # of a trial's driver, which only waits for its workers


def num_concurrent(config: Config, nodes: Sequence[Node], num_cores: int) -> int:
    """Return how many trials may run at a time.

    Trials reserve ``num_workers x cpus_per_worker`` CPUs and one hundredth for the driver,
    and one whole CPU of one node must stay free for Ray Data, which waits for it in silence.
    Workers without a GPU compute on real cores, so there trials x workers x threads stay within
    `num_cores` (at least one trial runs).

    Args:
        config: Of the sweep.
        nodes: Of the cluster.
        num_cores: Of all nodes.

    Raises:
        ValueError: `sweep.max_concurrent` asks for more than the reservations allow.
    """
    scaling = config.scaling
    per_trial = DRIVER_CPUS + scaling.num_workers * scaling.cpus_per_worker
    cpus, gpus = (sum(node.resources.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    beside_data = workers_beside_data(nodes, scaling)
    fit = min(int((cpus - 1) / per_trial + 1e-9), beside_data // scaling.num_workers)
    if config.sweep.max_concurrent > fit or fit < 1:
        raise ValueError(
            f"sweep.max_concurrent={config.sweep.max_concurrent} (0: as many as fit): a trial "
            f"reserves {per_trial:g} CPUs"
            + (f" and {scaling.num_workers} GPUs" if scaling.use_gpu else "")
            + f", the cluster has {cpus:g} CPUs and {gpus:g} GPUs on {len(nodes)} nodes, and Ray "
            f"Data needs 1 whole CPU: {fit} fit; lower it, scaling.num_workers or "
            "scaling.cpus_per_worker"
        )
    if config.sweep.max_concurrent:
        return config.sweep.max_concurrent
    if not scaling.use_gpu:
        cores_per_trial = scaling.num_workers * config.train.num_threads
        fit = min(fit, max(1, num_cores // cores_per_trial))
    return fit


def num_on_nodes(config: Config, nodes: Sequence[Node]) -> int:
    """Return how many trials may run at a time on these nodes; see `num_concurrent`."""
    cpus = int(sum(node.cpus for node in nodes))
    # A local Ray counts more CPUs than there are.
    return num_concurrent(
        config, nodes, min(cpus, os.cpu_count() or 1) if len(nodes) == 1 else cpus
    )
