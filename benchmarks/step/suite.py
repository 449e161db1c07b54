"""The suite `step`: what a training step costs, against ceilings and peers of the same run."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

from benchmarks.parts import run_parts
from benchmarks.rows import Row
from benchmarks.settings import BenchmarkConfig

__all__ = ["PARTS", "run_step"]

# Part -> module and function of it: (folder for data, rows of a hospital, rounds) -> figures.
# Each is imported when it is run: a machine without Ray runs the others.
PARTS = {
    "model": ("step.model", "model_rows"),
    "peer": ("step.peer", "peer_rows"),
    "ranks": ("step.ranks", "rank_rows"),
    "ray": ("step.ray_train", "ray_step_rows"),
    "order": ("step.order", "order_rows"),
    "memory": ("step.memory", "memory_rows"),
}
NEEDS_PROC = ("memory",)  # processes are measured through Linux's /proc


def run_step(config: BenchmarkConfig) -> Iterator[Row]:
    """Yield the figures of the parts asked for, as they come.

    Raises:
        ValueError: There is no part of that name.
    """

    def run(module: str, function: str, folder: Path) -> Iterator[Row]:
        part: Callable[[Path, int, int], Iterator[Row]]
        part = getattr(import_module(f"benchmarks.{module}"), function)
        yield from part(folder, config.num_rows, config.rounds)

    parts = {name: partial(run, *place) for name, place in PARTS.items()}
    yield from run_parts(config, "step", parts, NEEDS_PROC)
