"""ASHA among trials of one policy, length and question, whose errors may be compared early."""

import types
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from cvmae.sweep.trials import Trial, progress_of

__all__ = ["GRACE_EPOCHS", "REDUCTION", "Halving"]

GRACE_EPOCHS = 3  # before which no trial is stopped
REDUCTION = 3  # the better third goes on at each rung: 3, 9, 27, ... epochs


class Halving(FIFOScheduler):
    """An ASHA for each policy, length, ratio and target, on the tuning error of the fixed mask.

    Policies learn at different speeds, and under a schedule the epochs of runs of different length
    are no match: a race between them would be decided by that. Under another ratio or target the
    error is of other hidden values. What earlier attempts have shown is
    told again, so that a resumed sweep asks no less of its trials.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._trials = {trial.name: trial for trial in trials}
        self._races: dict[tuple[Any, ...], Any] = {}
        self._entered: dict[str, Any] = {}
        for trial in trials:
            for metrics in progress_of(trial.config.output_dir).history:
                self._decide(trial, metrics)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Stop a trial that is behind at a rung; never at its last epoch, when it is done."""
        if "tuning_mse" not in result:
            return str(TrialScheduler.CONTINUE)
        return self._decide(self._trials[trial.config["trial"]], result)

    def _decide(self, trial: Trial, metrics: Mapping[str, Any]) -> str:
        epochs = trial.config.train.epochs
        if metrics["epoch"] >= epochs:
            return str(TrialScheduler.CONTINUE)
        mask = trial.config.mask
        key = (mask.policy, epochs, mask.ratio, mask.target)
        if key not in self._races:
            self._races[key] = ASHAScheduler(
                time_attr="epoch",
                metric="tuning_mse",
                mode="min",
                max_t=max(epochs, GRACE_EPOCHS),
                grace_period=GRACE_EPOCHS,
                reduction_factor=REDUCTION,
            )
        if trial.name not in self._entered:
            # By its name, which is the same in every attempt.
            self._entered[trial.name] = types.SimpleNamespace(trial_id=trial.name)
            self._races[key].on_trial_add(None, self._entered[trial.name])
        entry = self._entered[trial.name]
        return str(self._races[key].on_trial_result(None, entry, dict(metrics)))
