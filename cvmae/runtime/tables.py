"""Tables for the terminal: the one way in which every verb lines up columns."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest

__all__ = ["counted", "printable", "shown", "text_table"]

BETWEEN = "  "
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Return a text with every sign spelt out that a terminal would obey instead of showing it.

    Codes of a data set are anybody's; lines and tabs stay.

    Example:
        >>> print(printable("red \x1b[31m"))
        red \x1b[31m
    """
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shown(value: float | str) -> str:
    """Return a cell's text: a count in full, a number to three digits, a text as it is.

    Example:
        >>> shown(12_345), shown(12_345.6), shown(0.012345), shown("any")
        ('12,345', '12,346', '0.0123', 'any')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"


def counted(number: int, noun: str, nouns: str = "") -> str:
    """Return a number with what it counts.

    Args:
        number: How many.
        noun: What one of them is called.
        nouns: What several are called, where that is not the noun with an s.

    Example:
        >>> counted(1, "row"), counted(1_204, "row"), counted(0, "entry", "entries")
        ('1 row', '1,204 rows', '0 entries')
    """
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def text_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    align: str = "<>",
    wrapped: Mapping[int, int] | None = None,
) -> str:
    """Return lines of text: the header, a rule, and the rows, each column as wide as it needs.

    Args:
        header: A name for each column.
        rows: As many cells each.
        align: `<` (left) or `>` (right) for each column; the last one holds for the rest.
        wrapped: Columns, by number, whose longer texts go on below within so many characters.

    Example:
        >>> print(text_table(("code", "values"), [("sodium", "1,204"), ("pH", "97")]))
        code    values
        --------------
        sodium   1,204
        pH          97
    """
    wrapped = wrapped or {}
    cells = [
        [
            textwrap.wrap(cell, wrapped[column])
            if column in wrapped
            else [printable(cell.replace("\n", "\\n"))]
            for column, cell in enumerate(row)
        ]
        for row in (header, *rows)
    ]
    widths = [
        max(len(line) for row in cells for line in row[column] or [""])
        for column in range(len(header))
    ]
    signs = align.ljust(len(header), align[-1])
    lines = [
        BETWEEN.join(map(format, parts, map("{}{}".format, signs, widths))).rstrip()
        for row in cells
        for parts in zip_longest(*row, fillvalue="")
    ]
    rule = "-" * (sum(widths) + len(BETWEEN) * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:]])
