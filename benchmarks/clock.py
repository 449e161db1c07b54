"""CPU time of functions that take turns, so that a busy machine is busy for all of them."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

__all__ = ["cpu_seconds", "interleave", "median_ratio", "progress"]

logger = logging.getLogger("cvmae")


def progress(message: str, *values: object) -> None:
    """Say what is being measured: the whole takes minutes."""
    logger.info(message, *values)


def cpu_seconds(function: Callable[[], object]) -> float:
    """Return the CPU time of a call, over all threads of this process."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def interleave(
    functions: Mapping[str, Callable[[], object]], rounds: int, label: str
) -> dict[str, list[float]]:
    """Time the functions one after another, round after round, in CPU seconds.

    The first round, in which files and code are met for the first time, is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        taken = {name: cpu_seconds(function) for name, function in functions.items()}
        shown = ", ".join(f"{name} {value:.2f}" for name, value in taken.items())
        progress("%s: round %d of %d, CPU s: %s", label, number, rounds, shown)
        for name, value in taken.items() if number else ():
            seconds[name].append(value)
    return seconds


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median over rounds of the ratio of two figures of the same round.

    Example:
        >>> median_ratio([1.0, 4.0, 9.0], [2.0, 2.0, 2.0])
        2.0
    """
    return statistics.median(a / b for a, b in zip(over, under, strict=True))
