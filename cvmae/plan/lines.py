"""A line of the plan: a figure, and how it comes about."""

from collections.abc import Sequence
from dataclasses import dataclass

from cvmae.runtime.tables import text_table

__all__ = ["Line", "format_lines"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure with its arithmetic, or with the source where it is an input."""

    name: str
    value: float | str
    unit: str = ""
    why: str


def format_lines(title: str, why: str, lines: Sequence[Line]) -> str:
    """Return lines as a table; `title` and `why` head the first column and the last."""
    cells = [(line.name, f"{_shown(line.value)} {line.unit}".rstrip(), line.why) for line in lines]
    return text_table((title, "", why), cells, align="<><")


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"
