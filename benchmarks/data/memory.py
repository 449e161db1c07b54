"""Memory when the data grow tenfold: streamed once in a fresh process, and through Ray Data."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clock import progress
from benchmarks.data.ray_data import brick_source
from benchmarks.epochs import prepare
from benchmarks.hospitals import multiply, synthetic_hospital
from benchmarks.processes import Watcher, in_fresh_process, peak_memory
from benchmarks.rows import Row
from cvmae.batches.bricks import iterate_steps
from cvmae.batches.order import UNITS_PER_LANE
from cvmae.runtime.logs import setup_logging

__all__ = ["memory_rows"]

GROWTH = 10
SHARE = 3  # the small set is a third of the hospital: 5M of 15M rows
LANES = 8
SUPERSTEPS = 2  # of the small set; with fewer, the large one would have larger ones
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class RayMemory:
    """Peaks of memory that processes have for themselves, in bytes."""

    rank: int  # driver and rank
    worker: int  # the largest worker of Ray Data
    total: int  # of all processes at one time


def memory_rows(folder: Path, hospital: str, num_rows: int, rounds: int) -> Iterator[Row]:
    """Measure peaks of memory on a hospital and on one ten times as large."""
    small_rows = num_rows // SHARE
    # About 0.8 of the rows are of train, and a few more units stand at the ends of shards.
    unit_rows = max(1, int(0.8 * small_rows) // (SUPERSTEPS * LANES * UNITS_PER_LANE + 16))
    small = synthetic_hospital(folder, small_rows, row_group_rows=unit_rows)
    large = multiply(small, folder / f"{Path(small).name}_x{GROWTH}", GROWTH)
    roots = {"small": small, "large": large}
    for root in roots.values():
        prepared = prepare(root, unit_rows=unit_rows)
        supersteps = len(list(prepared.plan.train_order.supersteps(0)))
        progress("memory: %s rows in %d supersteps", f"{prepared.num_rows:,}", supersteps)
    here = {name: in_fresh_process(stream_peak, root, unit_rows) for name, root in roots.items()}
    yield from _growth_rows("in process", [here[name][0] for name in roots], 1.10)
    above = [here[name][0] - here[name][1] for name in roots]
    yield from _growth_rows("in process, above what imports take", above)
    ray = {name: in_fresh_process(ray_peaks, root, unit_rows) for name, root in roots.items()}
    yield from _growth_rows("driver and rank", [ray[name].rank for name in roots], 1.10)
    yield from _growth_rows("largest data worker", [ray[name].worker for name in roots], 1.10)
    yield from _growth_rows("all of Ray's processes", [ray[name].total for name in roots], 1.10)


def stream_peak(root: str, unit_rows: int) -> tuple[int, int]:
    """Stream an epoch in this fresh process; return its peak of memory, and that before."""
    prepared = prepare(root, unit_rows=unit_rows)
    before = peak_memory()
    prepared.stream(0)
    return peak_memory(), before


def ray_peaks(root: str, unit_rows: int) -> RayMemory:
    """Stream an epoch through Ray Data; return peaks."""
    setup_logging()
    prepared = prepare(root, unit_rows=unit_rows)
    with Watcher(root=os.getpid(), interval_s=0.05) as watcher:
        bricks = brick_source(prepared)
        steps = iterate_steps(bricks(0, 0), lanes=prepared.plan.train_order.lanes)
        num_measurements = 0
        for batches in steps:
            num_measurements += sum(batch.num_measurements for batch in batches)
        prepared.check_epoch(num_measurements)
    return RayMemory(
        rank=watcher.peak_of[os.getpid()],
        worker=max(watcher.peak_of[pid] for pid in watcher.workers()),
        total=watcher.peak_total,
    )


def _growth_rows(label: str, peaks: Sequence[int], goal: float | None = None) -> Iterator[Row]:
    small, large = peaks
    yield Row(
        suite="data",
        name=f"memory: {label}, growth with tenfold data",
        value=large / small,
        unit="x",
        goal=goal,
        note=f"peaks of {small / MIB:,.0f} and {large / MIB:,.0f} MiB",
    )
