"""Results of a benchmark: rows with a goal, as a table and as JSON, and the machine's facts.

`cvmae.plan.inputs` reads that JSON.
"""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from cvmae.runtime.tables import shown, text_table

__all__ = ["Row", "format_table", "machine_rows", "write_rows"]

Value = float | int | str | None
HEADER = ("name", "value", "unit", "goal", "met")
PACKAGES = ("cvmae", "numpy", "pyarrow", "ray", "torch")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure; where it has a goal, whether the goal is met."""

    suite: str
    name: str
    value: Value  # None: not measured, the note says why
    unit: str = ""
    goal: float | None = None
    sense: Literal["<=", ">="] = "<="
    note: str = ""
    failed: bool = False  # its part ended in an error, which is the note

    @property
    def met(self) -> bool | None:
        """Tell whether the goal is met; None where there is none, or no value."""
        if self.goal is None or self.value is None or isinstance(self.value, str):
            return None
        value = float(self.value)  # a NaN meets nothing
        return value <= self.goal if self.sense == "<=" else value >= self.goal

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON shows it."""
        return asdict(self) | {
            "met": self.met,
            "sense": self.sense if self.goal is not None else "",
        }


def format_table(rows: Sequence[Row]) -> str:
    """Return rows as text: name, value, unit, goal, met (yes, no or -), notes below."""
    table = text_table(HEADER, list(map(_cells, rows)), align="<><")
    notes = [f"{row.name}: {row.note}" for row in rows if row.note]
    return "\n".join([table, *([""] if notes else []), *notes])


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON, aside first, so that a reader never sees half a file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.aside")
    text = ",\n".join(json.dumps(row.to_json(), allow_nan=False) for row in map(_finite, rows))
    aside.write_text(f"[\n{text}\n]\n", encoding="utf-8")
    os.replace(aside, target)


def machine_rows() -> list[Row]:
    """Return what the figures depend on beside the code: machine, versions, commit, date."""
    facts: dict[str, Value] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    facts |= {package: _version(package) for package in PACKAGES}
    return [Row(suite="machine", name=name, value=value) for name, value in facts.items()]


def _cells(row: Row) -> tuple[str, ...]:
    goal = "" if row.goal is None else f"{row.sense} {row.goal:g}"
    met = "-" if row.met is None else "yes" if row.met else "no"
    value = "not measured" if row.value is None else shown(row.value)
    return (row.name, value, row.unit, goal, met)


def _finite(row: Row) -> Row:
    """Return the row with a text in place of a number that JSON does not know."""
    if isinstance(row.value, float) and not abs(row.value) < float("inf"):
        return Row(**asdict(row) | {"value": None, "note": f"{row.note} value {row.value}".strip()})
    return row


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> Value:
    """Return the commit of the checkout that this file stands in, '+' where it was changed."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=9", "--dirty=+"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def _version(package: str) -> Value:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
