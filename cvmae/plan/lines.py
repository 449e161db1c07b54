"""A line of the plan: a figure, and how it comes about."""

from collections.abc import Sequence
from dataclasses import dataclass

from cvmae.runtime.tables import shown, text_table

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
    cells = [(line.name, f"{shown(line.value)} {line.unit}".rstrip(), line.why) for line in lines]
    return text_table((title, "", why), cells, align="<><")
