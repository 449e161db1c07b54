"""The start of Ray, and whether the work fits into the cluster."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from cvmae.runtime.nodes import Node, check_labels, check_room
from cvmae.runtime.ray_environment import prepare_environment, prepare_local_start
from cvmae.runtime.tables import counted
from cvmae.settings import ScalingConfig

__all__ = [
    "alive_nodes",
    "check_nodes",
    "check_resources",
    "cluster_shape",
    "nodes_without_start",
    "start_ray",
    "trains_on_gpu",
]

logger = logging.getLogger("cvmae")

LOOPBACK = "127.0.0.1"  # whoever reaches the dashboard runs jobs as this user


def trains_on_gpu(scaling: ScalingConfig) -> bool:
    """Tell whether a run's ranks have GPUs; on Ray the settings say so, not the driver's node."""
    return scaling.use_gpu if scaling.num_workers else torch.cuda.is_available()


def start_ray(scaling: ScalingConfig) -> None:
    """Join the running Ray cluster, or start a local one, and check that the work fits in it.

    A local Ray gets at least 8 logical CPUs: workers and readers are scheduled by these, and
    two physical cores serve them. The dashboard is on because Ray Train frees the resources of
    a killed worker group through it; it listens on loopback.

    Raises:
        ValueError: No node would keep a whole CPU for Ray Data, or GPUs are too few: either would
            be waited for in silence; the message shows the arithmetic. Likewise where no node has
            the labels asked for. Or a local Ray has no folder for its sockets.
    """
    prepare_environment()
    is_local = "RAY_ADDRESS" not in os.environ
    is_running = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    if is_local and not is_running:
        prepare_local_start()
    import ray

    if not is_running:
        options: dict[str, Any] = {"log_to_driver": True, "logging_level": "warning"}
        if is_local:
            logger.info("starting a local Ray")
            options |= {"address": "local", "num_cpus": _local_cpus()}
            options |= {"include_dashboard": True, "dashboard_host": LOOPBACK}
        ray.init(**options)
    check_nodes(scaling, alive_nodes())


def check_nodes(scaling: ScalingConfig, nodes: Sequence[Node]) -> None:
    """Refuse work that does not fit into a cluster of these nodes; see `start_ray`."""
    cpus, gpus = (sum(node.resources.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    check_resources(scaling, cpus, gpus)
    check_labels(scaling, nodes)
    check_room(scaling, nodes)


def nodes_without_start() -> tuple[list[Node], bool]:
    """Return the nodes that work would find, and whether they are those of a running cluster.

    Such a one is joined; else they are what a local Ray would have, and none is started.

    Raises:
        OSError: RAY_ADDRESS names a cluster that does not answer.
    """
    is_running = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    if not is_running and "RAY_ADDRESS" not in os.environ:
        return [Node({"CPU": _local_cpus(), "GPU": torch.cuda.device_count()})], False
    prepare_environment()
    import ray

    if not is_running:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
        ray.init(**options)
    return alive_nodes(), True


def _local_cpus() -> int:
    return max(8, os.cpu_count() or 1)


def check_resources(scaling: ScalingConfig, cpus: float, gpus: float) -> None:
    """Refuse work that does not fit into a cluster; see `start_ray`."""
    setting = "scaling.min_workers" if scaling.min_workers else "scaling.num_workers"
    least = scaling.min_workers or scaling.num_workers
    # An elastic run takes as many workers as there are CPUs for.
    num_workers = max(least, min(scaling.num_workers, int(cpus / scaling.cpus_per_worker)))
    wanted = num_workers * scaling.cpus_per_worker
    if cpus - wanted < 1:
        raise ValueError(
            f"scaling.cpus_per_worker={scaling.cpus_per_worker} x "
            f"{counted(num_workers, 'worker')} (scaling.num_workers={scaling.num_workers}) reserve "
            f"{wanted:g} of the cluster's {cpus:g} CPUs; Ray Data needs at least 1 whole CPU "
            "beside them: lower one "
            "of them"
        )
    if scaling.use_gpu and gpus < least:
        raise ValueError(
            f"scaling.use_gpu=True and {setting}={least} need as many GPUs, the cluster has "
            f"{gpus:g}: lower {setting}, or train on CPUs without scaling.use_gpu"
        )


def alive_nodes() -> list[Node]:
    """Return the nodes of the cluster that this process has joined."""
    import ray

    return [
        Node(node["Resources"], node.get("Labels") or {}) for node in ray.nodes() if node["Alive"]
    ]


def cluster_shape() -> str:
    """Return nodes, CPUs and GPUs of the cluster that this process has joined, '' without one."""
    import ray

    if not ray.is_initialized():
        return ""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    resources = ray.cluster_resources()
    types = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    gpus = f"{resources.get('GPU', 0):g} GPUs" + (f" ({', '.join(types)})" if types else "")
    return f"{counted(len(nodes), 'node')}, {resources.get('CPU', 0):g} CPUs, {gpus}"
