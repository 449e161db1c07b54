"""The folder of a sweep as those see it who use its models: its trials, and how they ended.

`summary.json` of the sweep says which trials there are, and how they are called. Their folders lie
in that of the sweep, wherever it has been moved to.
"""

import json
from typing import Any

from cvmae.checkpoint import CHECKPOINTS, TRIALS
from cvmae.storage.folders import is_file, join, local_copy, names

__all__ = ["NOT_COMPARABLE", "is_sweep", "read_trials"]

SUMMARY = "summary.json"
# Settings under which the fixed mask hides other values, or the error is another quantity.
NOT_COMPARABLE = ("mask.ratio", "mask.target")


def is_sweep(path: str) -> bool:
    """Tell whether a folder holds trials, and no checkpoints of its own."""
    has_trials = is_file(join(path, SUMMARY)) or bool(names(join(path, TRIALS)))
    return has_trials and not names(join(path, CHECKPOINTS))


def read_trials(path: str, given: str) -> list[dict[str, Any]]:
    """Return what `summary.json` of a sweep has of each trial.

    Args:
        path: Of the sweep.
        given: The setting by which it was given, for the message.

    Raises:
        ValueError: The sweep has not ended.
    """
    if not is_file(join(path, SUMMARY)):
        raise ValueError(
            f"{given} is a sweep that has not ended (no {SUMMARY}): go on with --resume {path}, or "
            f"give folders below {join(path, TRIALS)}"
        )
    with local_copy(join(path, SUMMARY)) as file:
        summary = json.loads(file.read_text(encoding="utf-8"))
    trials: list[dict[str, Any]] = summary["trials"]
    return trials
