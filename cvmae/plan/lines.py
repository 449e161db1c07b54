"""A line of the plan: a figure, and how it comes about."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Line", "format_lines"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure with its arithmetic, or with the source where it is an input."""

    name: str
    value: float | str
    unit: str = ""
    why: str


def format_lines(title: str, lines: Sequence[Line]) -> str:
    """Return lines as text, below their title."""
    cells = [(line.name, f"{_shown(line.value)} {line.unit}".rstrip(), line.why) for line in lines]
    names, values = (max(len(row[place]) for row in cells) for place in (0, 1))
    rows = [f"  {name:<{names}}  {value:>{values}}  {why}" for name, value, why in cells]
    return "\n".join([title, *rows])


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"
