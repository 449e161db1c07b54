"""The suite `data`: the way from files to batches against reading the same files by pyarrow."""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cvmae.benchmark.clock import progress
from cvmae.benchmark.data_memory import memory_rows
from cvmae.benchmark.data_ray import ray_rows
from cvmae.benchmark.data_shards import shard_rows
from cvmae.benchmark.data_statistics import statistics_rows
from cvmae.benchmark.data_streaming import balance_rows, streaming_rows
from cvmae.benchmark.hospitals import synthetic_hospital
from cvmae.benchmark.rows import Row
from cvmae.benchmark.settings import BenchmarkConfig
from cvmae.config import resolved_path

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
}
NEEDS_PROC = ("ray", "memory")  # processes are measured through Linux's /proc


def run_data(config: BenchmarkConfig) -> Iterator[Row]:
    """Yield the figures of the parts asked for, as they come.

    Raises:
        ValueError: There is no part of that name.
    """
    unknown = [name for name in config.only if name not in PARTS]
    if unknown:
        raise ValueError(
            f"only={unknown[0]!r} is no part of the suite data: give some of {', '.join(PARTS)}"
        )
    with contextlib.ExitStack() as stack:
        kept = resolved_path(config.root)
        folder = Path(kept or stack.enter_context(tempfile.TemporaryDirectory(prefix="cvmae-")))
        hospital = synthetic_hospital(folder, config.num_rows)
        for name, part in PARTS.items():
            if config.only and name not in config.only:
                continue
            progress("part %s", name)
            if name in NEEDS_PROC and sys.platform != "linux":
                yield Row(suite="data", name=name, value=None, note="needs Linux's /proc")
            else:
                yield from part(folder, hospital, config.num_rows, config.rounds)
