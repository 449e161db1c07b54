"""A line of the plan: a figure, and how it comes about."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cvmae.runtime.tables import shown, text_table

__all__ = ["Line", "Section", "format_lines", "told"]


DRY_RUN = "This is a dry run: nothing was started, and nothing was written."


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure with its arithmetic, or with the source where it is an input."""

    name: str
    value: float | str
    unit: str = ""
    why: str


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
