"""Rank, world size, and sums over ranks; nobody else asks for a rank."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from cvmae.arrays import Floats, Ints

__all__ = [
    "default_device",
    "is_distributed",
    "max_over_ranks",
    "rank",
    "sum_counts_over_ranks",
    "sum_over_ranks",
    "world_size",
]


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


def sum_over_ranks(values: npt.NDArray[Any], device: torch.device) -> Floats:
    """Return the elementwise sum over ranks in float64 (collective)."""
    return _reduce(values, device, dist.ReduceOp.SUM)


def sum_counts_over_ranks(counts: Ints, device: torch.device) -> Ints:
    """Return the elementwise sum over ranks of whole numbers, exactly (collective)."""
    if world_size() == 1:
        return counts
    tensor = torch.from_numpy(counts.copy()).to(device)
    dist.all_reduce(tensor)
    return tensor.cpu().numpy()


def max_over_ranks(values: npt.NDArray[Any], device: torch.device) -> Floats:
    """Return the elementwise maximum over ranks in float64 (collective)."""
    return _reduce(values, device, dist.ReduceOp.MAX)


def _reduce(values: npt.NDArray[Any], device: torch.device, how: Any) -> Floats:
    own = np.asarray(values, np.float64)
    if world_size() == 1:
        return own
    tensor = torch.from_numpy(own.copy()).to(device)
    dist.all_reduce(tensor, how)
    return tensor.cpu().numpy()
