"""A sweep's folder as a checkpoint: it stands for the finished trials of a label, which are seeds.

`summary.json` of the sweep says which trials there are, and how they are called. Their folders lie
in that of the sweep, wherever it has been moved to.
"""

import json
from collections.abc import Sequence
from typing import Any

from cvmae.checkpoint import CHECKPOINTS
from cvmae.config import resolved_path
from cvmae.storage.folders import is_file, join, local_copy, names
from cvmae.train.run_folder import TRIALS

__all__ = ["ALL", "runs_of", "sweep_notes"]

ALL = "all"  # the name that stands for every label of a sweep
SUMMARY = "summary.json"


def runs_of(name: str, path: str) -> list[tuple[str, str]]:
    """Return the name and path of each run that an entry of `evaluate.checkpoints` stands for.

    Args:
        name: For a sweep a label of it, such as a policy, or `ALL`; for a run any.
        path: Of a run, a checkpoint or a sweep.

    Raises:
        ValueError: A sweep has not ended, or has no finished trial of that label.
    """
    path = resolved_path(path)
    if not _is_sweep(path):
        return [(name, path)]
    trials = _trials(name, path)
    found = [
        (str(trial["label"]), join(path, TRIALS, trial["trial"]))
        for trial in trials
        if trial["status"] == "finished" and name in (ALL, trial["label"])
    ]
    if not found:
        labels = dict.fromkeys(t["label"] for t in trials if t["status"] == "finished")
        raise ValueError(
            f"evaluate.checkpoints={name}={path}: this sweep has no finished trial of label "
            f"{name!r}; there are {', '.join(labels) or 'none'}: give one of them, {ALL} for every "
            f"label, or folders below {join(path, TRIALS)} under names of your own"
        )
    return found


def sweep_notes(entries: Sequence[str]) -> list[str]:
    """Say of which trials of a sweep, that entries stand for, there is no model to compare."""
    notes = []
    for name, _, given in (entry.partition("=") for entry in entries):
        path = resolved_path(given)
        if not _is_sweep(path):
            continue
        own = [trial for trial in _trials(name, path) if name in (ALL, trial["label"])]
        out = [f"{t['trial']} ({t['status']})" for t in own if t["status"] != "finished"]
        if out:
            notes.append(
                f"Of the {len(own)} trials of {name} in the sweep {path.rpartition('/')[2]}, "
                f"{len(out)} are left out, having no end: {', '.join(out)}. Where a scheduler has "
                "stopped trials by their errors, those that are left were chosen by them."
            )
    return notes


def _is_sweep(path: str) -> bool:
    has_trials = is_file(join(path, SUMMARY)) or bool(names(join(path, TRIALS)))
    return has_trials and not names(join(path, CHECKPOINTS))


def _trials(name: str, path: str) -> list[dict[str, Any]]:
    if not is_file(join(path, SUMMARY)):
        raise ValueError(
            f"evaluate.checkpoints={name}={path} is a sweep that has not ended (no {SUMMARY}): go "
            f"on with --resume {path}, or give folders below {join(path, TRIALS)}"
        )
    with local_copy(join(path, SUMMARY)) as file:
        summary = json.loads(file.read_text(encoding="utf-8"))
    trials: list[dict[str, Any]] = summary["trials"]
    return trials
