"""Streaming through Ray Data: CPU of all processes in steady epochs, and what a brick costs.

Runs in a process of its own with a local Ray of its own; that process is driver and only rank.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.clock import cpu_seconds, median_ratio, progress
from benchmarks.epochs import Prepared, prepare
from benchmarks.hospitals import tiny_files
from benchmarks.processes import Watcher, in_fresh_process
from benchmarks.rows import Row
from cvmae.batches.bricks import Brick, iterate_steps, stream_bricks
from cvmae.batches.order import UNITS_PER_LANE
from cvmae.runtime.logs import setup_logging
from cvmae.runtime.start_ray import start_ray
from cvmae.settings import ScalingConfig

__all__ = ["EpochCosts", "brick_source", "own_unit_rows", "ray_rows"]

BrickSource = Callable[[int, int], Iterator[Brick]]  # (epoch, first step) -> bricks

TINY_SUPERSTEPS = 10  # of the hospital whose bricks are nearly empty
IDLE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """What shall be measured: the epochs of a data set from a share of their steps on."""

    root: str
    unit_rows: int
    rounds: int
    from_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EpochCosts:
    """Seconds of each steady epoch, CPU where nothing else is said."""

    ray: list[float]  # through Ray Data, over all processes
    wall: list[float]
    first_brick: list[float]  # wall, until it came
    in_process: list[float]
    raw: list[float]
    num_bricks: int
    worker_bytes: int  # most memory that a data worker has had for itself so far


@dataclass(frozen=True, kw_only=True)
class RayCosts:
    """What was measured in one session of Ray."""

    start: float  # CPU seconds until the first epoch had passed, workers' starts included
    idle: float  # cores busy while nothing is asked
    epochs: list[EpochCosts]


def ray_rows(folder: Path, hospital: str, num_rows: int, rounds: int) -> Iterator[Row]:
    """Measure steady epochs through Ray Data over the raw read, and the cost of a brick."""
    default = prepare(hospital)
    # Units so small that every lane has its own, as in a large hospital.
    own = prepare(hospital, unit_rows=own_unit_rows(default))
    # More than are needed: a lane of few units would share them with others.
    num_files = TINY_SUPERSTEPS * default.config.data.lanes * (UNITS_PER_LANE + 1)
    tiny = prepare(tiny_files(folder, num_files), unit_rows=1)
    progress("ray: measuring in a process of its own, which starts Ray")
    jobs = [
        *(_epochs(prepared, rounds) for prepared in (own, default)),
        *(_epochs(tiny, min(rounds, 3), share) for share in (0.0, 0.5)),
    ]
    costs = in_fresh_process(measure_ray, jobs)
    yield from _epoch_rows("", own, costs.epochs[0], 1.3)
    yield from _epoch_rows(" of default units", default, costs.epochs[1], None)
    yield from _brick_rows(*costs.epochs[2:])
    name = "ray: start and first epoch, CPU"
    yield Row(suite="data", name=name, value=costs.start, unit="s")
    yield Row(suite="data", name="ray: at rest, CPU", value=costs.idle, unit="cores")


def own_unit_rows(prepared: Prepared) -> int:
    """Return rows a unit with which every lane has units of its own, as in a large hospital."""
    num_units = prepared.config.data.lanes * (UNITS_PER_LANE + 1)
    return max(1, min(prepared.num_train_rows // num_units, prepared.config.data.unit_rows))


def _epochs(prepared: Prepared, rounds: int, from_share: float = 0.0) -> Epochs:
    unit_rows = prepared.config.data.unit_rows
    return Epochs(root=prepared.root, unit_rows=unit_rows, rounds=rounds, from_share=from_share)


def measure_ray(jobs: Sequence[Epochs]) -> RayCosts:
    """Start Ray and measure; to be run in a fresh process."""
    setup_logging()
    with Watcher(root=os.getpid(), interval_s=0.25) as watcher:
        before = watcher.cpu_seconds()
        first = prepare(jobs[0].root, unit_rows=jobs[0].unit_rows)
        _take(first, brick_source(first), 0, 0)
        start = watcher.cpu_seconds() - before
        before = watcher.cpu_seconds()
        time.sleep(IDLE_S)
        idle = (watcher.cpu_seconds() - before) / IDLE_S
        return RayCosts(start=start, idle=idle, epochs=[_measure(job, watcher) for job in jobs])


def brick_source(prepared: Prepared) -> BrickSource:
    """Start a local Ray; return what gives the bricks of one rank, as Ray Train would."""
    os.environ.pop("RAY_ADDRESS", None)  # a cluster's processes are not ours to measure
    start_ray(ScalingConfig(num_workers=1))
    from cvmae.batches.on_ray import (  # Ray only where it is measured
        Cursor,
        brick_dataset,
        ray_bricks,
    )

    plan = prepared.plan
    dataset = brick_dataset(plan.train_reader, plan.train_order, plan.units)
    dataset.context.execution_options.preserve_order = True
    shard = dataset.iterator()

    def bricks(epoch: int, step: int) -> Iterator[Brick]:
        weight_C = plan.train_reader.weight_C
        return ray_bricks(shard, Cursor(epoch=epoch, step=step, rank=0, world=1, weight_C=weight_C))

    return bricks


def _measure(job: Epochs, watcher: Watcher) -> EpochCosts:
    """Let Ray, this process and the raw read take turns, after an epoch that is not counted."""
    prepared = prepare(job.root, unit_rows=job.unit_rows)
    order, plan = prepared.plan.train_order, prepared.plan
    step = int(job.from_share * order.num_steps(1))
    bricks = brick_source(prepared)

    def here(epoch: int, first: int) -> Iterator[Brick]:
        return stream_bricks(plan.train_reader, order, plan.units, epoch=epoch, step=first)

    ray, wall, first_brick, in_process, raw = [], [], [], [], []
    _take(prepared, bricks, 0, 0)
    for number in range(1, job.rounds + 1):
        before, begin = watcher.cpu_seconds(), time.monotonic()
        first_brick.append(_take(prepared, bricks, number, step))
        wall.append(time.monotonic() - begin)
        ray.append(watcher.cpu_seconds() - before)
        in_process.append(cpu_seconds(partial(_take, prepared, here, number, step)))
        raw.append(cpu_seconds(prepared.read_raw))
        progress(
            "ray: round %d of %d, CPU s: through Ray %.2f, in process %.2f, raw %.2f",
            *(number, job.rounds, ray[-1], in_process[-1], raw[-1]),
        )
    return EpochCosts(
        ray=ray,
        wall=wall,
        first_brick=first_brick,
        in_process=in_process,
        raw=raw,
        num_bricks=len(list(order.seek(1, step))) * order.lanes,
        worker_bytes=max(watcher.peak_of[pid] for pid in watcher.workers()),
    )


def _take(prepared: Prepared, bricks: BrickSource, epoch: int, step: int) -> float:
    """Take the steps of an epoch as a rank does; return the seconds until the first brick came."""
    begin, first = time.monotonic(), 0.0

    def timed() -> Iterator[Brick]:
        nonlocal first
        for brick in bricks(epoch, step):
            first = first or time.monotonic() - begin
            yield brick

    lanes = prepared.plan.train_order.lanes
    steps = iterate_steps(timed(), lanes=lanes, step=step)
    num_measurements = sum(batch.num_measurements for batches in steps for batch in batches)
    if step == 0:
        prepared.check_epoch(num_measurements)
    return first


def _epoch_rows(
    label: str, prepared: Prepared, epochs: EpochCosts, goal: float | None
) -> Iterator[Row]:
    measurements = prepared.num_measurements
    yield Row(
        suite="data",
        name=f"ray: steady epochs{label} over the raw read, CPU",
        value=median_ratio(epochs.ray, epochs.raw),
        unit="x",
        goal=goal,
        note=(
            f"{epochs.num_bricks} bricks of {measurements / epochs.num_bricks:,.0f} measurements; "
            "user and system time of driver and rank, workers and Ray's own processes"
        ),
    )
    yield Row(
        suite="data",
        name=f"ray: steady epochs{label} over the same in process, CPU",
        value=median_ratio(epochs.ray, epochs.in_process),
        unit="x",
    )
    for name, value, unit in (
        ("CPU a measurement", statistics.median(epochs.ray) / measurements * 1e9, "ns"),
        ("speed here", measurements / statistics.median(epochs.wall), "measurements/s"),
        ("first brick after", statistics.median(epochs.first_brick), "s"),
        ("largest data worker", epochs.worker_bytes / 2**20, "MiB"),
        ("measurements a brick", measurements / epochs.num_bricks, "measurements"),
    ):
        yield Row(suite="data", name=f"ray: steady epochs{label}, {name}", value=value, unit=unit)


def _brick_rows(whole: EpochCosts, half: EpochCosts) -> Iterator[Row]:
    """Fit a line through epochs of many and of half as many bricks, the work in them apart."""
    more, less = (
        statistics.median(ray - here for ray, here in zip(c.ray, c.in_process, strict=True))
        for c in (whole, half)
    )
    a_brick = (more - less) / (whole.num_bricks - half.num_bricks)
    bricks = f"{whole.num_bricks} and {half.num_bricks} bricks with next to nothing in them"
    yield Row(
        suite="data",
        name="ray: fixed cost of a brick, CPU",
        value=a_brick * 1e3,
        unit="ms",
        note=bricks,
    )
    an_epoch = more - a_brick * whole.num_bricks
    yield Row(suite="data", name="ray: fixed cost of an epoch, CPU", value=an_epoch, unit="s")
    a_second = whole.num_bricks / statistics.median(whole.wall)
    yield Row(
        suite="data", name="ray: bricks a second and rank here", value=a_second, unit="bricks/s"
    )
