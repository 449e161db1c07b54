"""The suite `data`: the way from files to batches against reading the same files by pyarrow."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.data.code_statistics import statistics_rows
from benchmarks.data.embedding import embedding_rows
from benchmarks.data.memory import memory_rows
from benchmarks.data.ray_data import ray_rows
from benchmarks.data.shards import shard_rows
from benchmarks.data.streaming import balance_rows, streaming_rows
from benchmarks.hospitals import synthetic_hospital
from benchmarks.parts import run_parts
from benchmarks.rows import Row
from benchmarks.settings import BenchmarkConfig

__all__ = ["PARTS", "run_data"]

# (folder for data, hospital, its rows, rounds) -> figures
Part = Callable[[Path, str, int, int], Iterator[Row]]
PARTS: dict[str, Part] = {
    "streaming": streaming_rows,
    "balance": balance_rows,
    "statistics": statistics_rows,
    "shards": shard_rows,
    "ray": ray_rows,
    "memory": memory_rows,
    "embed": embedding_rows,
}
NEEDS_PROC = ("ray", "memory")  # processes are measured through Linux's /proc


def run_data(config: BenchmarkConfig) -> Iterator[Row]:
    """Yield the figures of the parts asked for, as they come.

    Raises:
        ValueError: There is no part of that name.
    """

    def run(part: Part, folder: Path) -> Iterator[Row]:
        hospital = synthetic_hospital(folder, config.num_rows)  # written once
        yield from part(folder, hospital, config.num_rows, config.rounds)

    parts = {name: partial(run, part) for name, part in PARTS.items()}
    yield from run_parts(config, "data", parts, NEEDS_PROC)
