"""A sweep as a checkpoint: it stands for the finished trials of a label, which are seeds."""

from collections.abc import Sequence

from cvmae.checkpoint import TRIALS
from cvmae.config import resolved_path
from cvmae.storage.folders import join
from cvmae.sweep_folder import is_sweep, read_trials

__all__ = ["ALL", "runs_of", "sweep_notes"]

ALL = "all"  # the name that stands for every label of a sweep


def runs_of(name: str, path: str) -> list[tuple[str, str]]:
    """Return the name and path of each run that an entry of `evaluate.checkpoints` stands for.

    Args:
        name: For a sweep a label of it, such as a policy, or `ALL`; for a run any.
        path: Of a run, a checkpoint or a sweep.

    Raises:
        ValueError: A sweep has not ended, or has no finished trial of that label.
    """
    path = resolved_path(path)
    if not is_sweep(path):
        return [(name, path)]
    trials = read_trials(path, f"evaluate.checkpoints={name}={path}")
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
        if not is_sweep(path):
            continue
        trials = read_trials(path, f"evaluate.checkpoints={name}={path}")
        own = [trial for trial in trials if name in (ALL, trial["label"])]
        out = [f"{t['trial']} ({t['status']})" for t in own if t["status"] != "finished"]
        if out:
            notes.append(
                f"Of the {len(own)} trials of {name} in the sweep {path.rpartition('/')[2]}, "
                f"{len(out)} are left out, having no end: {', '.join(out)}. Where a scheduler has "
                "stopped trials by their errors, those that are left were chosen by them."
            )
    return notes
