"""Numbers and names as readers see them, in figures, tables and sentences alike."""

import math
from collections.abc import Iterable, Sequence

from cvmae.evaluate.significance import Comparison

__all__ = [
    "count",
    "epochs",
    "estimated",
    "listed",
    "noun",
    "number",
    "p_value",
    "percent",
    "signed",
    "significant",
    "spread",
    "verdict",
]

ABSENT = "-"


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with fixed digits, a dash where there is none."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value:.{digits}f}"


def significant(value: float | None) -> str:
    """Write a number with three significant digits and no exponent.

    Example:
        >>> significant(0.012345), significant(1234.5)
        ('0.0123', '1230')
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):.{max(digits, 0)}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """Write a difference with its sign.

    Example:
        >>> signed(0.0123), signed(-0.5, 1)
        ('+0.012', '-0.5')
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value:+.{digits}f}"


def spread(bounds: Iterable[float | None], digits: int = 3) -> str:
    """Write an interval as ``low to high``, a dash where neither is known.

    Example:
        >>> spread((0.1, None)), spread((None, float("nan")))
        ('0.100 to -', '-')
    """
    texts = [number(bound, digits) for bound in bounds]
    return ABSENT if set(texts) == {ABSENT} else " to ".join(texts)


def estimated(
    value: float | None, interval: Iterable[float | None], digits: int = 3, said: str = ""
) -> str:
    """Write a difference with its interval and a remark, one dash where there is none.

    Example:
        >>> estimated(0.1, (0.05, 0.2), 2, "; undecided"), estimated(None, (None, None))
        ('+0.10 (0.05 to 0.20; undecided)', '-')
    """
    text = signed(value, digits)
    return text if text == ABSENT else f"{text} ({spread(interval, digits)}{said})"


def percent(share: float | None, digits: int = 0) -> str:
    """Write a share in percent, a dash where there is none.

    Example:
        >>> percent(0.25), percent(float("nan"))
        ('25%', '-')
    """
    text = number(None if share is None else 100 * share, digits)
    return text if text == ABSENT else f"{text}%"


def count(value: float | None) -> str:
    """Write a count with separated thousands."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:,.0f}"


def epochs(value: float | None, num_reached: int = 0, num_runs: int = 1) -> str:
    """Write after how many epochs something was reached, or how many of the seeds reached it.

    Example:
        >>> epochs(17.04, 5, 5), epochs(None, 2, 5), epochs(None, 0, 5)
        ('17', '2 of 5 seeds', 'never')
    """
    if value is None:
        return f"{num_reached} of {num_runs} seeds" if num_reached else "never"
    return f"{round(value, 1):g}"


def p_value(value: float | None) -> str:
    """Write a p with its relation, e.g. ``p = 0.031`` or ``p < 0.0001``."""
    if value is None or not math.isfinite(value):
        return "p undefined"
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def noun(codes: Iterable[str]) -> str:
    """Return what to call the codes: labs, where all of them are laboratory codes."""
    return "labs" if all(code.startswith("LAB//") for code in codes) else "codes"


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does.

    Example:
        >>> listed(["cv"]), listed(["cv", "variance", "entropy"])
        ('cv', 'cv, variance and entropy')
    """
    return " and ".join([", ".join(names[:-1]), *names[-1:]] if names[1:] else names)


def verdict(pair: Comparison) -> str:
    """Write what is claimed of a pair with its adjusted p, or why nothing is."""
    if pair.verdict == "undecided":
        few = [number for number in pair.num_runs if number]
        return f"undecided ({listed([str(number) for number in few])} runs)"
    return f"{pair.verdict} ({p_value(pair.p_adjusted)})"
