"""The trial of a sweep whose model is handed on: which one, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cvmae.checkpoint import TRIALS
from cvmae.storage.folders import join
from cvmae.sweep_folder import NOT_COMPARABLE, is_sweep, read_trials

__all__ = ["Choice", "choose"]

SHOWN = 4  # digits of an error


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The run whose model is handed on."""

    path: str
    why: str = ""  # it was chosen; '' where it was given by itself


def choose(path: str) -> Choice:
    """Return a run as it is, and of a sweep the finished trial with the least last tuning error.

    Trials are compared on one fixed mask, so the least error is that of the best model; but it was
    chosen by that error, which is therefore too good, and it is one seed of its policy.

    Args:
        path: Of a run, a checkpoint or a sweep.

    Raises:
        ValueError: The sweep has not ended, has no finished trial, or its errors do not compare.
    """
    if not is_sweep(path):
        return Choice(path=path)
    given = f"infer.checkpoint={path}"
    trials = read_trials(path, given)
    finished = [trial for trial in trials if trial["status"] == "finished" and _has_error(trial)]
    if not finished:
        raise ValueError(
            f"{given}: none of the {len(trials)} trials of this sweep is finished: go on with "
            f"--resume {path}, or give one of {join(path, TRIALS)}"
        )
    for name in NOT_COMPARABLE:
        if len(values := {str(trial["axes"].get(name)) for trial in finished}) > 1:
            raise ValueError(
                f"{given}: its trials differ in {name} ({', '.join(sorted(values))}), under which "
                f"tuning errors do not compare: choose one of {join(path, TRIALS)} yourself"
            )
    best = min(finished, key=lambda trial: (_last_error(trial), trial["trial"]))
    return Choice(path=join(path, TRIALS, best["trial"]), why=_why(best, finished, len(trials)))


def _has_error(trial: Mapping[str, Any]) -> bool:
    errors = trial["curve"].get("tuning_mse") or [None]
    return errors[-1] is not None  # as JSON has what is no number


def _last_error(trial: Mapping[str, Any]) -> float:
    return float(trial["curve"]["tuning_mse"][-1])


def _why(best: Mapping[str, Any], finished: list[dict[str, Any]], num_trials: int) -> str:
    own = [_last_error(trial) for trial in finished if trial["label"] == best["label"]]
    errors = sorted(map(_last_error, finished))
    others = f", the next {errors[1]:.{SHOWN}f}" if len(errors) > 1 else ""
    seeds = f"one of {len(own)} seeds, whose mean is {sum(own) / len(own):.{SHOWN}f}"
    return (
        f"{best['trial']}: of {len(finished)} finished trials ({num_trials} in the sweep) it has "
        f"the least tuning error after the last epoch, {errors[0]:.{SHOWN}f}{others}. That is "
        f"{seeds if len(own) > 1 else 'one seed'} under {best['label']}: no claim about the policy"
    )
