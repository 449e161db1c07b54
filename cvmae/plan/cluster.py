"""The arithmetic of the plan: storage, cores, network and memory, and which part ends first."""

import time
from collections.abc import Iterator, Mapping

import numpy as np

from cvmae.batches.bricks import plan_tasks
from cvmae.batches.order import UNITS_PER_LANE, Order
from cvmae.meds.units import Unit
from cvmae.plan.inputs import GPUS_A_NODE
from cvmae.plan.lines import Line
from cvmae.plan.size import Size
from cvmae.settings import DataConfig

__all__ = ["cluster_lines", "num_units", "planning_seconds"]

BRICK_BYTES = 11  # a measurement in a brick: uint16 code, int32 minutes, float32 value, bool
EPOCHS = 100  # of preset paper
START_SHARE = 0.1  # of an epoch, that ranks may wait for its first bricks


def num_units(size: Size) -> int:
    """Return the units that so many rows are cut into."""
    return max(1, round(size.rows / DataConfig().unit_rows))


def planning_seconds(size: Size, units: int, num_gpus: int) -> float:
    """Measure the CPU seconds that ordering an epoch of so many units takes a rank."""
    sequences = max(1, round(size.num_measurements / units / 250))  # of 250 measurements each
    lanes = max(DataConfig().lanes, num_gpus)
    order = Order(
        num_sequences_U=np.full(units, sequences),
        num_measurements_U=np.random.default_rng(0).integers(1, 250 * sequences + 1, units),
        seed=0,
        lanes=lanes,
        batch_sequences=32 * lanes,
    )
    empty = [Unit(pieces=(), num_rows=0)] * units
    begin = time.process_time()
    for _ in plan_tasks(order, empty, 0, 0, 0, lanes):
        pass
    return time.process_time() - begin


def cluster_lines(
    given: Mapping[str, float], planning_s: float, size: Size, num_gpus: int
) -> Iterator[Line]:
    """Yield the plan, a line a figure, each with its arithmetic.

    Args:
        given: Inputs by the names of `INPUTS`.
        planning_s: What ordering an epoch takes a rank.
        size: Of the data.
        num_gpus: Ranks, a GPU each.
    """
    lanes, units = max(DataConfig().lanes, num_gpus), num_units(size)
    yield from _size_lines(given, size, units)
    what = f"measured now, {units:,} units"
    yield _line("order of an epoch, each rank", planning_s, "core s", what)
    if units < lanes:  # bricks of next to nothing, and absurd rates of them
        what = f"units / lanes (data.lanes={lanes}): too little to share out; train in one process"
        yield _line("units a lane", units / lanes, "", what)
        return
    supersteps = units // (lanes * UNITS_PER_LANE)
    bricks = max(supersteps, 1) * lanes
    in_brick = size.num_measurements / bricks
    speed = num_gpus * given["gpu_speed"]
    epoch = size.num_measurements / speed
    shown = f"{supersteps} supersteps of {lanes} lanes x {UNITS_PER_LANE} units"
    if not supersteps:
        shown = f"1 superstep, whose units all {lanes} lanes share"
    yield _line("bricks an epoch", bricks, "", f"{shown} (data.lanes={lanes})")
    yield _line("measurements a brick", in_brick, "", "measurements / bricks")
    yield _line(
        "speed of the GPUs", speed, "measurements/s", f"{num_gpus} x {given['gpu_speed']:.3g}"
    )
    yield _line("an epoch, GPUs never waiting", epoch, "s", "measurements / speed")
    yield from _rate_lines(given, num_gpus, speed, in_brick)
    own = _cpu_a_measurement(given) + given["brick_cpu"] / in_brick
    # The first brick of the measured epoch may have been smaller than the plan's.
    start = max(given["first_brick"], planning_s + own * in_brick)
    yield from _epoch_lines(start, epoch)
    ends = _ends(given, in_brick)
    ends["start of an epoch"] = (
        START_SHARE * size.num_measurements / (given["gpu_speed"] * start),
        f"start at most {START_SHARE:.0%} of an epoch",
    )
    ends["lanes of their own"] = (
        units / UNITS_PER_LANE,
        f"units / {UNITS_PER_LANE}; with more GPUs lanes share units",
    )
    yield from _end_lines(ends, num_gpus)


def _size_lines(given: Mapping[str, float], size: Size, units: int) -> Iterator[Line]:
    """Yield how much there is, and what is done with it once: statistics and footers."""
    yield _line("rows", size.rows, "", size.rows_why)
    yield _line("measurements of train", size.num_measurements, "", size.measurements_why)
    stored = size.rows * given["bytes_a_row"]
    yield _line("storage", stored / 1e9, "GB", f"rows x {given['bytes_a_row']:.3g} bytes")
    yield _line("units", units, "", f"rows / {DataConfig().unit_rows:,} (data.unit_rows)")
    passes = size.rows * (given["pass_1"] + given["pass_2"]) + 2 * units * given["unit_cpu"]
    ns = f"{given['pass_1'] * 1e9:.3g} + {given['pass_2'] * 1e9:.3g}"
    tasks = f"2 tasks a unit x {given['unit_cpu'] * 1e3:.3g} ms"
    yield _line("statistics, once", passes / 3600, "core hours", f"rows x ({ns}) ns + {tasks}")
    what = f"{size.num_files:,} x a footer ({size.files_why})"
    yield _line("opening files, once", size.num_files * given["footer"], "core s", what)


def _rate_lines(
    given: Mapping[str, float], num_gpus: int, speed: float, in_brick: float
) -> Iterator[Line]:
    """Yield what runs while GPUs run: bricks, cores, network, memory."""
    a_rank = given["gpu_speed"] / in_brick
    yield _line("bricks a second and rank", a_rank, "", "speed of a GPU / measurements a brick")
    own = _cpu_a_measurement(given)
    cores = speed * own + num_gpus * a_rank * given["brick_cpu"]
    arithmetic = f"speed x {own * 1e9:.3g} ns + bricks/s x {given['brick_cpu'] * 1e3:.3g} ms"
    yield _line("cores for data", cores, "cores", arithmetic)
    yield _line("cores for data a GPU", cores / num_gpus, "cores", "cores / GPUs")
    read = speed * given["rows_a_measurement"] * given["bytes_a_row"]
    nodes = -(-num_gpus // GPUS_A_NODE)
    yield _line("from storage", read / 1e9, "GB/s", "speed x rows a measurement x bytes a row")
    moved = speed * BRICK_BYTES
    what = f"speed x {BRICK_BYTES} bytes, if every brick is made on another node"
    yield _line("bricks between nodes", moved / 1e9, "GB/s", what)
    both = (read + moved) / nodes
    yield _line("network of a node", both / 1e9, "GB/s", f"(storage + bricks) / {nodes} nodes")
    workers = cores / nodes
    memory = workers * given["worker_bytes"] + GPUS_A_NODE * 4 * in_brick * BRICK_BYTES
    what = f"{workers:.1f} workers x {given['worker_bytes'] / 2**20:.0f} MiB + 4 bricks a rank"
    yield _line("memory for data a node", memory / 2**30, "GiB", what)


def _epoch_lines(start: float, epoch: float) -> Iterator[Line]:
    """Yield how long ranks wait for an epoch's first bricks, and how long training takes."""
    what = f"{start:.2g} s a start (measured, or order + one brick) beside {epoch:.3g} s"
    share = start / (start + epoch)
    yield _line("waiting for the first bricks of an epoch", share, "of the time", what)
    total = EPOCHS * (start + epoch) / 3600
    yield _line(f"{EPOCHS} epochs", total, "hours", f"{EPOCHS} x (a start + an epoch)")


def _ends(given: Mapping[str, float], in_brick: float) -> dict[str, tuple[float, str]]:
    """Return how many GPUs each part carries that comes with every GPU or node, and the arithmetic.

    Such a part is enough for any number of GPUs, or for none.
    """
    own = _cpu_a_measurement(given) + given["brick_cpu"] / in_brick
    a_gpu = given["gpu_speed"] * (given["rows_a_measurement"] * given["bytes_a_row"] + BRICK_BYTES)
    cores = own * given["gpu_speed"]
    thread = given["gpu_speed"] / in_brick * given["brick_cpu"]
    network = GPUS_A_NODE * a_gpu
    return {
        "cores beside a GPU": (
            _all_or_none(given["gpu_cores"] >= cores),
            f"{cores:.2g} of {given['gpu_cores']:g} cores needed",
        ),
        "a rank's thread": (
            _all_or_none(thread < 1),
            f"{thread:.2g} of a core for taking bricks",
        ),
        "network of a node": (
            _all_or_none(network <= given["node_network"]),
            f"{network / 1e9:.2g} of {given['node_network'] / 1e9:.2g} GB/s needed",
        ),
    }


def _end_lines(ends: Mapping[str, tuple[float, str]], num_gpus: int) -> Iterator[Line]:
    """Yield how many GPUs each part carries, and which part ends first."""
    for name, (gpus, arithmetic) in ends.items():
        shown = "any number of" if np.isinf(gpus) else float(gpus)
        yield _line(f"{name} carries", shown, "GPUs", arithmetic)
    first = min(ends, key=lambda name: ends[name][0])
    fits = "beyond" if ends[first][0] >= num_gpus else "below"
    yield _line("ends first", first, "", f"{fits} the {num_gpus} GPUs asked for")


def _line(name: str, value: float | str, unit: str, arithmetic: str) -> Line:
    return Line(name=name, value=value, unit=unit, why=arithmetic)


def _cpu_a_measurement(given: Mapping[str, float]) -> float:
    """Return what a measurement costs apart from its share of a brick's fixed cost."""
    return max(0.0, given["ray_cpu"] - given["brick_cpu"] / given["ray_brick"])


def _all_or_none(fits: bool) -> float:
    return float("inf") if fits else 0.0
