"""The suite `step`: what a training step costs, against ceilings and peers of the same run."""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from cvmae.benchmark.clock import progress
from cvmae.benchmark.rows import Row
from cvmae.benchmark.settings import BenchmarkConfig
from cvmae.config import resolved_path

__all__ = ["PARTS", "run_step"]

# Part -> module and function of it: (folder for data, rows of a hospital, rounds) -> figures.
# Each is imported when it is run: a machine with a GPU and without Ray runs the part `gpu`.
PARTS = {
    "model": ("step_model", "model_rows"),
    "peer": ("step_peer", "peer_rows"),
    "ranks": ("step_ranks", "rank_rows"),
    "ray": ("step_ray", "ray_step_rows"),
    "order": ("step_order", "order_rows"),
    "memory": ("step_memory", "memory_rows"),
    "gpu": ("step_gpu", "gpu_rows"),
}
NEEDS_PROC = ("memory",)  # processes are measured through Linux's /proc


def run_step(config: BenchmarkConfig) -> Iterator[Row]:
    """Yield the figures of the parts asked for, as they come.

    Raises:
        ValueError: There is no part of that name.
    """
    unknown = [name for name in config.only if name not in PARTS]
    if unknown:
        raise ValueError(
            f"only={unknown[0]!r} is no part of the suite step: give some of {', '.join(PARTS)}"
        )
    with contextlib.ExitStack() as stack:
        kept = resolved_path(config.root)
        folder = Path(kept or stack.enter_context(tempfile.TemporaryDirectory(prefix="cvmae-")))
        folder.mkdir(parents=True, exist_ok=True)
        for name, (module, function) in PARTS.items():
            if config.only and name not in config.only:
                continue
            progress("part %s", name)
            if name in NEEDS_PROC and sys.platform != "linux":
                yield Row(suite="step", name=name, value=None, note="needs Linux's /proc")
                continue
            part: Callable[[Path, int, int], Iterator[Row]]
            part = getattr(import_module(f"cvmae.benchmark.{module}"), function)
            yield from part(folder, config.num_rows, config.rounds)
