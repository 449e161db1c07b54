"""The rates that a plan starts from, each with its source.

They come from a file of the benchmark's suite `data`. What it does not hold, or all without such a
file, were measured or assumed elsewhere, and say where and when.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cvmae.plan.lines import Line

__all__ = ["GPUS_A_NODE", "INPUTS", "Input", "input_lines", "read_measured", "resolve_inputs"]

GPUS_A_NODE = 8
ONE_GPU = "measured on an H100, 2026-11-27: preset paper, 64k measurements a step"
TWO_CORES = "measured on 2 busy cores of an AMD EPYC, 2026-11-29, 1.5M rows"
EARLIER = "measured on 2 cores of an AMD EPYC, 2026-11-27"
QUIET = "measured on 2 cores of an AMD EPYC, 2026-11-30, 204M rows in 918 units"
ASSUMED = "assumed"
HOSPITAL = f"{ASSUMED}: as in the synthetic hospital"


@dataclass(frozen=True, kw_only=True)
class Input:
    """A figure that the plan starts from."""

    label: str
    unit: str
    row: str  # of the suite data of the benchmark; '' where that measures no such thing
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
        otherwise=2.08,
        source=HOSPITAL,
    ),
    "bytes_a_row": Input(
        label="bytes a row on storage",
        unit="bytes",
        row="hospital: bytes a row",
        otherwise=5.4,
        source=HOSPITAL,
    ),
    "ray_cpu": Input(
        label="streaming through Ray Data, CPU a measurement",
        unit="s",
        row="ray: steady epochs, CPU a measurement",
        otherwise=169e-9,
        source=f"{TWO_CORES}: 114 ns in process; and 40 ms a brick, 2026-11-27",
        scale=1e-9,
    ),
    "ray_brick": Input(
        label="measurements a brick in that",
        unit="measurements",
        row="ray: steady epochs, measurements a brick",
        otherwise=730e3,
        source=EARLIER,
    ),
    "brick_cpu": Input(
        label="fixed cost of a brick, CPU",
        unit="s",
        row="ray: fixed cost of a brick, CPU",
        otherwise=0.019,
        source=EARLIER,
        scale=1e-3,
    ),
    "first_brick": Input(
        label="first brick of an epoch after",
        unit="s",
        row="ray: steady epochs, first brick after",
        otherwise=0.15,
        source=EARLIER,
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
        otherwise=62e-9,
        source=TWO_CORES,
        scale=1e-9,
    ),
    "pass_2": Input(
        label="statistics, pass 2, CPU a row",
        unit="s",
        row="statistics: pass 2, CPU a row",
        otherwise=56e-9,
        source=TWO_CORES,
        scale=1e-9,
    ),
    "check": Input(
        label="validate, CPU a row beside these", unit="s", row="", otherwise=140e-9, source=QUIET
    ),
    "unit_cpu": Input(
        label="a task of a unit on Ray, CPU beside its rows",
        unit="s",
        row="",
        otherwise=24e-3,
        source=QUIET,
    ),
    "footer": Input(
        label="opening a footer, CPU",
        unit="s",
        row="shards: open a footer, CPU",
        otherwise=160e-6,
        source=TWO_CORES,
        scale=1e-6,
    ),
}


def read_measured(path: str) -> dict[str, float]:
    """Return the figures by name of a file that the benchmark wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no figures of a benchmark.
    """
    remedy = "write it with jobs/benchmark.py --suite data --output FILE"
    if not Path(path).is_file():
        raise FileNotFoundError(f"measured={path} does not exist: {remedy}")
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        found = {row["name"]: row["value"] for row in rows if row["suite"] == "data"}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"measured={path} holds no figures of a benchmark ({error!r}): {remedy}"
        ) from None
    figures = {name: value for name, value in found.items() if isinstance(value, (int, float))}
    if not any(wanted.row in figures for wanted in INPUTS.values()):
        raise ValueError(f"measured={path} holds no figure that a plan starts from: {remedy}")
    return figures


def resolve_inputs(
    measured: Mapping[str, float], source: str
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the value and the source of every input, measured ones first."""
    values, sources = {}, {}
    for key, wanted in INPUTS.items():
        known = wanted.row in measured
        values[key] = float(measured[wanted.row]) * wanted.scale if known else wanted.otherwise
        sources[key] = source if known else wanted.source
    return values, sources


def input_lines(values: Mapping[str, float], sources: Mapping[str, str]) -> list[Line]:
    """Return a line an input, with its source."""
    return [
        Line(name=wanted.label, value=values[key], unit=wanted.unit, why=sources[key])
        for key, wanted in INPUTS.items()
    ]
