"""Small files: the same rows in a hundred and in ten thousand shards."""

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.clock import cpu_seconds, interleave, median_ratio, progress
from benchmarks.epochs import Prepared, prepare
from benchmarks.hospitals import reshard
from benchmarks.rows import Row
from cvmae.batches.bricks import plan_tasks
from cvmae.meds.dataset import open_dataset

__all__ = ["shard_rows"]

ROWS_PER_SHARD = 1500
FEW = 100  # times fewer


def shard_rows(folder: Path, hospital: str, num_rows: int, rounds: int) -> Iterator[Row]:
    """Measure what small shards cost: opening, streaming, statistics, tasks."""
    many = max(FEW, min(10_000, num_rows // ROWS_PER_SHARD))
    few = many // FEW
    unit_rows = max(1, num_rows // few)  # a unit holds one of the few, or many of the many
    prepared: dict[int, Prepared] = {}
    for num_shards in (few, many):
        root = reshard(hospital, folder / f"{Path(hospital).name}_in_{num_shards}", num_shards)
        seconds, wall = _open_seconds(root)
        name = f"shards: open {num_shards:,} footers"
        yield Row(suite="data", name=f"{name}, CPU", value=seconds, unit="s")
        yield Row(suite="data", name=f"{name}, wall", value=wall, unit="s")
        begin = time.process_time()
        prepared[num_shards] = prepare(root, unit_rows=unit_rows)
        fitted = time.process_time() - begin
        name = f"shards: fit statistics to {num_shards:,}, CPU"
        yield Row(suite="data", name=name, value=fitted, unit="s")
        progress("%s: %.1f s", name, fitted)
    # The last is of the many.
    footer = seconds / many * 1e6
    yield Row(suite="data", name="shards: open a footer, CPU", value=footer, unit="us")
    yield from _streaming_rows(prepared[few], prepared[many], rounds)
    tasks = {number: _num_tasks(prepared[number]) for number in prepared}
    for number, num_tasks in tasks.items():
        name = f"shards: read tasks an epoch, {number:,} shards"
        yield Row(suite="data", name=name, value=num_tasks, unit="tasks")
    # Tasks are few here, and jump by whole supersteps; units are what they are made of.
    units = {number: len(prepared[number].plan.units) for number in prepared}
    yield Row(
        suite="data",
        name="shards: units, many over few",
        value=units[many] / units[few],
        unit="x",
        goal=1.1,
    )


def _streaming_rows(few: Prepared, many: Prepared, rounds: int) -> Iterator[Row]:
    seconds = interleave(
        {
            "few": lambda: few.stream(1),
            "many": lambda: many.stream(1),
            "raw few": few.read_raw,
            "raw many": many.read_raw,
        },
        min(rounds, 3),
        "small shards",
    )
    numbers = {"few": len(few.dataset.shards), "many": len(many.dataset.shards)}
    for name, number in numbers.items():
        yield Row(
            suite="data",
            name=f"shards: an epoch from {number:,}, CPU",
            value=statistics.median(seconds[name]),
            unit="s",
        )
    yield Row(
        suite="data",
        name="shards: an epoch from many over few, CPU",
        value=median_ratio(seconds["many"], seconds["few"]),
        unit="x",
    )
    yield Row(
        suite="data",
        name="shards: that ratio over the raw read's own",
        value=median_ratio(
            _ratios(seconds["many"], seconds["few"]),
            _ratios(seconds["raw many"], seconds["raw few"]),
        ),
        unit="x",
        goal=1.0,
    )
    files = len(many.train_shards) - len(few.train_shards)
    for name, label in (("", "a further file"), ("raw ", "a further file, raw read")):
        more = statistics.median(
            a - b for a, b in zip(seconds[f"{name}many"], seconds[f"{name}few"], strict=True)
        )
        yield Row(suite="data", name=f"shards: {label}, CPU", value=more / files * 1e6, unit="us")
    yield Row(
        suite="data",
        name="shards: raw read of many over few, CPU",
        value=median_ratio(seconds["raw many"], seconds["raw few"]),
        unit="x",
    )


def _ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(over, under, strict=True)]


def _open_seconds(root: str) -> tuple[float, float]:
    """Return CPU and wall seconds of listing a data set and reading its footers."""
    begin = time.monotonic()
    cpu = cpu_seconds(lambda: open_dataset(root))
    return cpu, time.monotonic() - begin


def _num_tasks(prepared: Prepared) -> int:
    plan = prepared.plan
    return len(list(plan_tasks(plan.train_order, plan.units, 0, 0, 0, 1)))
