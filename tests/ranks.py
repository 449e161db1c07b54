"""Groups of processes on this machine, each a copy of one that has imported what they need."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing

# What a rank would spend its first seconds on: the last four come with an optimiser of torch's, and
# with DeepSpeed's engine.
IMPORTED = [
    "pytest",
    "torch.distributed",
    "cvmae.train.loop",
    "cvmae.train.deepspeed_engine",
    "torch._dynamo",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
]


def on_ranks(function: Callable[..., Any], args: tuple[Any, ...], *, world: int) -> None:
    """Call `function(rank, *args)` in `world` fresh processes, and wait until all have ended.

    They are forked from a server that lives as long as the tests do: nothing that one group
    leaves behind in torch or in DeepSpeed reaches another. The server has the environment that
    the first group was started with.

    Raises:
        ProcessRaisedException: With the traceback of the first rank that failed.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
    torch.multiprocessing.start_processes(function, args, nprocs=world, start_method="forkserver")
