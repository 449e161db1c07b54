"""What an evaluation computes after reconstruction, part by part: none costs what is there."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cvmae.evaluate.downstream.predictions import Predictions
from cvmae.evaluate.results import Failure, Results
from cvmae.runtime.tables import counted
from cvmae.tracking.origin import first_line

__all__ = ["NOT_REACHED", "Part", "Write", "add_parts", "require_all"]

logger = logging.getLogger("cvmae")

NOT_REACHED = "not reached: the evaluation ended before it"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing to compute: results without it -> results with it, and predictions to be kept."""

    name: str
    add: Callable[[Results], tuple[Results, Sequence[Predictions]]]
    is_long: bool = False  # the report is written before the first such part


class Write(Protocol):
    """Writes what there is."""

    def __call__(
        self, results: Results, predictions: Sequence[Predictions], *, report: bool
    ) -> None:
        """Replace what is there; the report takes some seconds."""


def add_parts(results: Results, parts: Sequence[Part], write: Write) -> Results:
    """Compute part after part and write what there is before each and after the last.

    One that fails is logged and said in the results, and the others are done. Where the process
    itself ends, the parts that it did not reach are said to be missing in what lies there.
    """
    predictions: list[Predictions] = []
    is_reported = False
    for place, part in enumerate(parts):
        waiting = tuple(Failure(part=later.name, reason=NOT_REACHED) for later in parts[place:])
        report = part.is_long and not is_reported
        _write(write, replace(results, failed=(*results.failed, *waiting)), predictions, report)
        is_reported |= report
        try:
            results, own = part.add(results)
        except Exception as error:
            is_users = isinstance(error, (ValueError, OSError))  # says all by itself
            logger.error("%s failed: %s", part.name, error, exc_info=not is_users)
            results = _with_failure(results, part.name, error)
        else:
            predictions += own
    return _write(write, results, predictions, True)


def _write(
    write: Write, results: Results, predictions: Sequence[Predictions], report: bool
) -> Results:
    """Write what there is; a page that cannot be made is a failed part, and numbers stay."""
    try:
        write(results, predictions, report=report)
    except OSError:  # nor could it be said there
        raise
    except Exception as error:
        if not report:
            raise
        logger.exception("the report failed; numbers are in results.json")
        results = _with_failure(results, "report", error)
        write(results, predictions, report=False)
    return results


def _with_failure(results: Results, part: str, error: Exception) -> Results:
    reason = f"{type(error).__name__}: {first_line(error)}"
    return replace(results, failed=(*results.failed, Failure(part=part, reason=reason)))


def require_all(results: Results, told: str) -> None:
    """Refuse results in which a part is missing, after all else is done and written.

    Args:
        results: Of an evaluation.
        told: Its tables, which the message holds.

    Raises:
        ValueError: A part failed.
    """
    if not results.failed:
        return
    reasons = "\n".join(f"  {failure.part}: {failure.reason}" for failure in results.failed)
    raise ValueError(
        f"{counted(len(results.failed), 'part')} of the evaluation failed; the others are "
        f"done:\n{told}\n"
        f"{reasons}\nwhen the cause is mended, evaluate again into a new folder"
    )
