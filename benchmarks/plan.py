"""The suite `plan`: what a hospital of any size needs, on paper, from measured parts.

Every line shows its arithmetic, every input where it comes from. What no machine here could
measure (the speed of a GPU) is an estimate and says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.clock import cpu_seconds, progress
from benchmarks.data import run_data
from benchmarks.plan_memory import memory_plan
from benchmarks.rows import Row, read_rows
from benchmarks.settings import BenchmarkConfig
from cvmae.batches.bricks import plan_tasks
from cvmae.batches.order import UNITS_PER_LANE, Order
from cvmae.meds.units import Unit
from cvmae.settings import DataConfig

__all__ = ["INPUTS", "Input", "plan_inputs", "plan_rows", "run_plan"]

SHORT_ROWS = 1_500_000  # of what the plan measures itself
SHORT_PARTS = ("streaming", "statistics", "shards", "ray")
BRICK_BYTES = 11  # a measurement in a brick: uint16 code, int32 minutes, float32 value, bool
GPUS_A_NODE = 8
EPOCHS = 100  # of preset paper
START_SHARE = 0.1  # of an epoch, that ranks may wait for its first bricks
ONE_GPU = "measured with preset paper, 64k measurements a step, on one H100, not here"
PROTOTYPE = "measured on a prototype, not here"
ASSUMED = "assumed"


@dataclass(frozen=True, kw_only=True)
class Input:
    """A figure that the plan starts from."""

    label: str
    unit: str
    row: str  # of the suite data; '' where that measures no such thing
    otherwise: float  # where it was not measured
    source: str  # of that
    scale: float = 1.0  # from the row's unit to ours


INPUTS: dict[str, Input] = {
    "gpu_speed": Input(
        label="a GPU takes", unit="measurements/s", row="", otherwise=4.75e6, source=ONE_GPU
    ),
    "node_network": Input(
        label=f"network of a node of {GPUS_A_NODE} GPUs",
        unit="bytes/s",
        row="",
        otherwise=25e9 / 8,
        source=f"{ASSUMED}: 25 Gbit/s",
    ),
    "gpu_cores": Input(
        label="cores beside a GPU", unit="cores", row="", otherwise=8, source=ASSUMED
    ),
    "rows_a_measurement": Input(
        label="rows a measurement",
        unit="rows",
        row="hospital: rows a measurement",
        otherwise=2.0,
        source=ASSUMED,
    ),
    "bytes_a_row": Input(
        label="bytes a row on storage",
        unit="bytes",
        row="hospital: bytes a row",
        otherwise=4.3,
        source=PROTOTYPE,
    ),
    "ray_cpu": Input(
        label="streaming through Ray Data, CPU a measurement",
        unit="s",
        row="ray: steady epochs, CPU a measurement",
        otherwise=165e-9,
        source=PROTOTYPE,
        scale=1e-9,
    ),
    "ray_brick": Input(
        label="measurements a brick in that",
        unit="measurements",
        row="ray: steady epochs, measurements a brick",
        otherwise=1.2e6,
        source=PROTOTYPE,
    ),
    "brick_cpu": Input(
        label="fixed cost of a brick, CPU",
        unit="s",
        row="ray: fixed cost of a brick, CPU",
        otherwise=0.011,
        source=PROTOTYPE,
        scale=1e-3,
    ),
    "first_brick": Input(
        label="first brick of an epoch after",
        unit="s",
        row="ray: steady epochs, first brick after",
        otherwise=0.8,
        source=PROTOTYPE,
    ),
    "worker_bytes": Input(
        label="memory of a data worker",
        unit="bytes",
        row="ray: steady epochs, largest data worker",
        otherwise=0.5 * 2**30,
        source=ASSUMED,
        scale=2**20,
    ),
    "pass_1": Input(
        label="statistics, pass 1, CPU a row",
        unit="s",
        row="statistics: pass 1, CPU a row",
        otherwise=40e-9,
        source=PROTOTYPE,
        scale=1e-9,
    ),
    "pass_2": Input(
        label="statistics, pass 2, CPU a row",
        unit="s",
        row="statistics: pass 2, CPU a row",
        otherwise=40e-9,
        source=PROTOTYPE,
        scale=1e-9,
    ),
    "footer": Input(
        label="opening a footer, CPU",
        unit="s",
        row="shards: open a footer, CPU",
        otherwise=200e-6,
        source=PROTOTYPE,
        scale=1e-6,
    ),
}


def run_plan(config: BenchmarkConfig) -> Iterator[Row]:
    """Yield inputs and arithmetic of the plan.

    Raises:
        FileNotFoundError: The file `measured` is not there.
        ValueError: It holds no rows of a benchmark.
    """
    if config.measured:
        rows, source = read_rows(config.measured), f"measured, {config.measured}"
    else:
        progress("plan: measuring a short version of the suite data, since --measured names none")
        num_rows = min(SHORT_ROWS, config.num_rows)
        short = replace(config, suite="data", only=SHORT_PARTS, num_rows=num_rows, rounds=3)
        rows, source = list(run_data(short)), f"measured here, short version of {num_rows:,} rows"
    values, sources = plan_inputs(rows, source)
    units = _num_units(values, config.num_measurements)
    planning, tasks = _planning_seconds(config, units)
    values["planning"], sources["planning"] = planning, f"measured now, {units:,} units"
    yield from _input_rows(values, sources)
    progress("plan: order of an epoch in %.2f s, %d tasks a rank", planning, tasks)
    yield from plan_rows(values, config.num_measurements, config.num_gpus)
    yield from memory_plan()


def plan_inputs(rows: Sequence[Row], source: str) -> tuple[dict[str, float], dict[str, str]]:
    """Return the value and the source of every input, measured ones first."""
    found = {row.name: row.value for row in rows if isinstance(row.value, (int, float))}
    values, sources = {}, {}
    for key, wanted in INPUTS.items():
        measured = wanted.row in found
        values[key] = float(found[wanted.row]) * wanted.scale if measured else wanted.otherwise
        sources[key] = source if measured else wanted.source
    return values, sources


def plan_rows(given: Mapping[str, float], num_measurements: float, num_gpus: int) -> Iterator[Row]:
    """Yield the plan, a line a figure, each with its arithmetic.

    Args:
        given: Inputs by the names of `INPUTS`, and `planning`, CPU seconds of an epoch's order.
        num_measurements: Measurements of an epoch.
        num_gpus: Ranks, a GPU each.
    """
    lanes = max(DataConfig().lanes, num_gpus)
    units = _num_units(given, num_measurements)
    supersteps = units // (lanes * UNITS_PER_LANE)
    bricks = max(supersteps, 1) * lanes
    in_brick = num_measurements / bricks
    speed = num_gpus * given["gpu_speed"]
    epoch = num_measurements / speed
    rows = num_measurements * given["rows_a_measurement"]
    yield _line("rows", rows, "", f"{num_measurements:.3g} x {given['rows_a_measurement']:.3g}")
    stored = rows * given["bytes_a_row"]
    yield _line("storage", stored / 1e9, "GB", f"rows x {given['bytes_a_row']:.3g} bytes")
    yield _line("units", units, "", f"rows / {DataConfig().unit_rows:,} (data.unit_rows)")
    shown = (
        f"{supersteps} supersteps of {lanes} lanes x {UNITS_PER_LANE} units (data.lanes={lanes})"
    )
    yield _line("bricks an epoch", bricks, "", shown)
    yield _line("measurements a brick", in_brick, "", "measurements / bricks")
    yield _line(
        "speed of the GPUs", speed, "measurements/s", f"{num_gpus} x {given['gpu_speed']:.3g}"
    )
    yield _line("an epoch, GPUs never waiting", epoch, "s", "measurements / speed")
    yield from _rate_lines(given, num_gpus, speed, in_brick)
    yield from _once_lines(given, rows)
    yield from _end_lines(given, num_measurements, num_gpus, in_brick, units)


def _rate_lines(
    given: Mapping[str, float], num_gpus: int, speed: float, in_brick: float
) -> Iterator[Row]:
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


def _once_lines(given: Mapping[str, float], rows: float) -> Iterator[Row]:
    """Yield what is done once: statistics, footers, and the order of each epoch."""
    passes = rows * (given["pass_1"] + given["pass_2"])
    ns = f"{given['pass_1'] * 1e9:.3g} + {given['pass_2'] * 1e9:.3g}"
    yield _line("statistics, once", passes / 3600, "core hours", f"rows x ({ns}) ns")
    yield _line(
        "opening 10,000 footers, once", 1e4 * given["footer"], "core s", "10,000 x a footer"
    )
    yield _line(
        "order of an epoch, each rank", given["planning"], "core s", "measured at this size"
    )


def _end_lines(
    given: Mapping[str, float], num_measurements: float, num_gpus: int, in_brick: float, units: int
) -> Iterator[Row]:
    """Yield how many GPUs each part carries, and which part ends first."""
    own = _cpu_a_measurement(given) + given["brick_cpu"] / in_brick
    # The first brick here may have been smaller than the plan's.
    start = max(given["first_brick"], given["planning"] + own * in_brick)
    epoch = num_measurements / (num_gpus * given["gpu_speed"])
    yield _line(
        "waiting for the first bricks of an epoch",
        start / (start + epoch),
        "of the time",
        f"{start:.2g} s a start (measured, or order + one brick) beside {epoch:.3g} s",
    )
    total = EPOCHS * (start + epoch) / 3600
    yield _line(f"{EPOCHS} epochs", total, "hours", f"{EPOCHS} x (a start + an epoch)")
    a_gpu = given["gpu_speed"] * (given["rows_a_measurement"] * given["bytes_a_row"] + BRICK_BYTES)
    # A part that each GPU brings with it carries any number of them, or none.
    ends = {
        "start of an epoch": (
            START_SHARE * num_measurements / (given["gpu_speed"] * start),
            f"start at most {START_SHARE:.0%} of an epoch",
        ),
        "lanes of their own": (units / UNITS_PER_LANE, f"units / {UNITS_PER_LANE} (shared below)"),
        "cores beside a GPU": (
            _all_or_none(given["gpu_cores"] >= own * given["gpu_speed"]),
            f"{own * given['gpu_speed']:.2g} of {given['gpu_cores']:g} cores needed",
        ),
        "a rank's thread": (
            _all_or_none(given["gpu_speed"] / in_brick * given["brick_cpu"] < 1),
            f"{given['gpu_speed'] / in_brick * given['brick_cpu']:.2g} of a core for taking bricks",
        ),
        "network of a node": (
            _all_or_none(GPUS_A_NODE * a_gpu <= given["node_network"]),
            f"{GPUS_A_NODE * a_gpu / 1e9:.2g} of {given['node_network'] / 1e9:.2g} GB/s needed",
        ),
    }
    for name, (gpus, arithmetic) in ends.items():
        shown = "any number" if np.isinf(gpus) else float(gpus)
        yield _line(f"ends: {name} carries", shown, "GPUs", arithmetic)
    first = min(ends, key=lambda name: ends[name][0])
    fits = "beyond" if ends[first][0] >= num_gpus else "below"
    yield _line("ends first", first, "", f"{fits} the {num_gpus} GPUs asked for")


def _line(name: str, value: float | str, unit: str, arithmetic: str) -> Row:
    return Row(suite="plan", name=name, value=value, unit=unit, note=arithmetic)


def _cpu_a_measurement(given: Mapping[str, float]) -> float:
    """Return what a measurement costs apart from its share of a brick's fixed cost."""
    return max(0.0, given["ray_cpu"] - given["brick_cpu"] / given["ray_brick"])


def _all_or_none(fits: bool) -> float:
    return float("inf") if fits else 0.0


def _num_units(values: Mapping[str, float], num_measurements: float) -> int:
    rows = num_measurements * values["rows_a_measurement"]
    return max(1, round(rows / DataConfig().unit_rows))


def _planning_seconds(config: BenchmarkConfig, units: int) -> tuple[float, int]:
    """Return the CPU seconds of ordering an epoch of so many units, and a rank's tasks."""
    sequences = max(1, round(config.num_measurements / units / 250))  # of 250 measurements each
    lanes = max(DataConfig().lanes, config.num_gpus)
    order = Order(
        num_sequences_U=np.full(units, sequences),
        num_measurements_U=np.random.default_rng(0).integers(1, 250 * sequences + 1, units),
        seed=0,
        lanes=lanes,
        batch_sequences=32 * lanes,
    )
    empty = [Unit(pieces=(), num_rows=0)] * units
    tasks: list[Any] = []
    seconds = cpu_seconds(lambda: tasks.extend(plan_tasks(order, empty, 0, 0, 0, lanes)))
    return seconds, len(tasks)


def _input_rows(values: Mapping[str, float], sources: Mapping[str, str]) -> Iterator[Row]:
    for key, source in sources.items():
        wanted = INPUTS.get(key)
        label = wanted.label if wanted else "order of an epoch, CPU"
        unit = wanted.unit if wanted else "s"
        yield Row(suite="plan", name=f"input: {label}", value=values[key], unit=unit, note=source)
