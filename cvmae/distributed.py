"""Rank, world size, sums over ranks, seeds, and the start of Ray; nobody else asks for a rank."""

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from cvmae.settings import ScalingConfig

__all__ = [
    "PreemptedError",
    "check_resources",
    "default_device",
    "is_distributed",
    "max_over_ranks",
    "rank",
    "setup_logging",
    "start_ray",
    "sum_over_ranks",
    "trains_on_gpu",
    "workers_that_fit",
    "world_size",
]


logger = logging.getLogger("cvmae")


class PreemptedError(BaseException):
    """The run was told to stop, wrote a checkpoint and can be continued: no failure.

    Like KeyboardInterrupt it passes what handles failures, such as a sweep's trials.
    """


def setup_logging() -> None:
    """Let this process's progress lines reach standard error."""
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    # Ray Train lets the root logger of a worker report every result, between which ours drown.
    logging.getLogger().setLevel(logging.WARNING)


def is_distributed() -> bool:
    """Tell whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return this process's rank, 0 outside a group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of ranks, 1 outside a group."""
    return dist.get_world_size() if is_distributed() else 1


def default_device() -> torch.device:
    """Return the device of work in the calling process: its GPU where it has one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def trains_on_gpu(scaling: ScalingConfig) -> bool:
    """Tell whether a run's ranks have GPUs; on Ray the settings say so, not the driver's node."""
    return scaling.use_gpu if scaling.num_workers else torch.cuda.is_available()


def sum_over_ranks(values: npt.NDArray[Any], device: torch.device) -> npt.NDArray[np.float64]:
    """Return the elementwise sum over ranks in float64 (collective)."""
    return _reduce(values, device, dist.ReduceOp.SUM)


def max_over_ranks(values: npt.NDArray[Any], device: torch.device) -> npt.NDArray[np.float64]:
    """Return the elementwise maximum over ranks in float64 (collective)."""
    return _reduce(values, device, dist.ReduceOp.MAX)


def _reduce(values: npt.NDArray[Any], device: torch.device, how: Any) -> npt.NDArray[np.float64]:
    own = np.asarray(values, np.float64)
    if world_size() == 1:
        return own
    tensor = torch.from_numpy(own.copy()).to(device)
    dist.all_reduce(tensor, how)
    return tensor.cpu().numpy()


def start_ray(scaling: ScalingConfig) -> None:
    """Join the running Ray cluster, or start a local one, and check that the work fits in it.

    A local Ray gets at least 8 logical CPUs: workers and readers are scheduled by these, and
    two physical cores serve them. The dashboard is on because Ray Train frees the resources of
    a killed worker group through it; it listens on loopback.

    Raises:
        ValueError: Less than one whole CPU would be left for Ray Data, or GPUs are too few:
            either would be waited for in silence; the message shows the arithmetic.
    """
    # Trials side by side say similar lines, of which Ray would swallow all but one.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    # A busy machine needs more than the minute that Ray gives its dashboard; read at import.
    os.environ.setdefault("RAY_DASHBOARD_STARTUP_TIMEOUT_S", "300")
    import ray

    if not ray.is_initialized():
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        options: dict[str, Any] = {"log_to_driver": True, "logging_level": "warning"}
        if "RAY_ADDRESS" in os.environ:
            ray.init(**options)
        else:
            num_cpus = max(8, os.cpu_count() or 1)
            logger.info("starting a local Ray")
            ray.init(address="local", num_cpus=num_cpus, include_dashboard=True, **options)
    resources = ray.cluster_resources()
    check_resources(scaling, resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def check_resources(scaling: ScalingConfig, cpus: float, gpus: float) -> None:
    """Refuse work that does not fit into a cluster; see `start_ray`."""
    setting = "scaling.min_workers" if scaling.min_workers else "scaling.num_workers"
    least = scaling.min_workers or scaling.num_workers
    # An elastic run takes as many workers as there are CPUs for.
    num_workers = max(least, min(scaling.num_workers, int(cpus / scaling.cpus_per_worker)))
    wanted = num_workers * scaling.cpus_per_worker
    if cpus - wanted < 1:
        raise ValueError(
            f"{num_workers} workers (scaling.num_workers={scaling.num_workers}) x "
            f"scaling.cpus_per_worker={scaling.cpus_per_worker} reserve {wanted:g} of the "
            f"cluster's {cpus:g} CPUs; Ray Data needs at least 1 whole CPU beside them: lower one "
            "of them"
        )
    if scaling.use_gpu and gpus < least:
        raise ValueError(
            f"scaling.use_gpu=True and {setting}={least} need as many GPUs, the cluster has "
            f"{gpus:g}: lower {setting}, or train on CPUs without scaling.use_gpu"
        )


def workers_that_fit(nodes: Iterable[Mapping[str, float]], scaling: ScalingConfig) -> int:
    """Return how many workers the nodes could hold if nothing else ran there.

    Args:
        nodes: Resources of each node that is alive.
        scaling: What a worker reserves; it cannot be divided between nodes.

    Example:
        >>> workers_that_fit([{"CPU": 3.0}, {"CPU": 5.0}], ScalingConfig(cpus_per_worker=2))
        3
    """
    wanted = {"CPU": scaling.cpus_per_worker} | ({"GPU": 1.0} if scaling.use_gpu else {})
    return sum(
        min(int(node.get(name, 0.0) / share) for name, share in wanted.items()) for node in nodes
    )
