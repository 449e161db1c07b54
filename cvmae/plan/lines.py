"""A line of the plan: a figure, and how it comes about."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cvmae.runtime.tables import shown, text_table

__all__ = ["Line", "Section", "format_lines", "hours_line", "told"]


SHORT_H = 0.1
DRY_RUN = "This is a dry run: nothing was started, and nothing was written."


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure with its arithmetic, or with the source where it is an input."""

    name: str
    value: float | str
    unit: str = ""
    why: str


def hours_line(hours: float, why: str) -> Line:
    """Return how long work takes beside its start, short work in seconds as well."""
    unit = "h" if hours >= SHORT_H else f"h ({hours * 3600:.0f} s)"
    return Line(name="hours", value=hours, unit=unit, why=f"{why}; a start takes 10 to 60 s more")


@dataclass(frozen=True, kw_only=True)
class Section:
    """Lines under a title."""

    title: str
    lines: Sequence[Line]


def told(sections: Iterable[Section]) -> str:
    """Return a dry run as text."""
    tables = [format_lines(section.title, "how", section.lines) for section in sections]
    return "\n\n".join([*tables, DRY_RUN])


def format_lines(title: str, why: str, lines: Sequence[Line]) -> str:
    """Return lines as a table; `title` and `why` head the first column and the last."""
    cells = [(line.name, f"{shown(line.value)} {line.unit}".rstrip(), line.why) for line in lines]
    return text_table((title, "", why), cells, align="<><")
