"""Trials one after another in the calling process, without Ray."""

from collections.abc import Mapping

from cvmae.runtime.logs import warnings_only
from cvmae.sweep.attempt import Attempt
from cvmae.sweep.trials import run_trial

__all__ = ["run_in_process"]


def run_in_process(attempt: Attempt) -> dict[str, str]:
    """Run the trials that the budget allows; return the reason of each that failed."""
    errors: dict[str, str] = {}
    table = attempt.table
    for trial in attempt.waiting:
        if not attempt.budget.begin(trial.name, trial.config.train.epochs):
            break
        table.begin(trial.name)

        def listen(metrics: Mapping[str, float], name: str = trial.name) -> None:
            table.epoch(name, metrics)

        with warnings_only():  # the table says how far it is
            reason = run_trial(trial, attempt.parent_run_id, attempt.data, listen)
        if reason:
            errors[trial.name] = reason
        table.end(trial.name, "failed" if reason else "finished")
    return errors
