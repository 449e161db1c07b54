"""Trials side by side on Ray: Tune starts a driver per trial, which builds a TorchTrainer."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from cvmae.config import Config
from cvmae.runtime.logs import setup_logging
from cvmae.runtime.ray_hooks import quiet_exit, trial_actor
from cvmae.runtime.start_ray import alive_nodes
from cvmae.statistics.fitted import TrainingData
from cvmae.sweep.attempt import Attempt
from cvmae.sweep.budget import Budget
from cvmae.sweep.concurrency import DRIVER_CPUS, num_on_nodes
from cvmae.sweep.halving import Halving
from cvmae.sweep.trials import Trial, run_trial

__all__ = ["num_on_ray", "run_on_ray"]

# (trial, epochs done) -> nothing: what is to be done when a scheduler has stopped a trial
OnStop = Callable[[Trial, int], None]


def run_on_ray(attempt: Attempt, on_stop: OnStop) -> dict[str, str]:
    """Run the trials as far side by side as resources allow; return why each failed did.

    A trial's own error is reported once; a driver that is lost with its node is started again,
    `scaling.max_failures` times at most, and resumes from the trial's folder.

    Args:
        attempt: What is to be run.
        on_stop: Called when a scheduler has stopped a trial.
    """
    events = _Events(attempt, on_stop)
    tuner = _tuner(attempt, events)
    try:
        results = tuner.fit()
    except BaseException:  # Tune stops its trials only at what is an Exception
        events.stop_trials()
        raise
    errors = {}
    for number in range(len(results)):
        result = results[number]
        name = (result.config or {})["trial"]
        if name in events.stopped:
            continue
        if result.error is not None:
            errors[name] = f"{type(result.error).__name__}: the trial's driver was lost"
        elif reason := (result.metrics or {}).get("error", "the trial's driver said nothing"):
            errors[name] = reason
    return errors


def _tuner(attempt: Attempt, events: "_Events") -> tune.Tuner:
    config = attempt.config
    folder = Path(config.output_dir) / "tune"
    folder.mkdir(exist_ok=True)
    trial = tune.with_parameters(
        _trial,
        trials={trial.name: trial for trial in attempt.waiting},
        parent_run_id=attempt.parent_run_id,
        data=attempt.data,
    )
    return tune.Tuner(
        tune.with_resources(trial, {"CPU": DRIVER_CPUS}),
        tune_config=tune.TuneConfig(
            search_alg=_InOrder(attempt.waiting, attempt.budget),
            scheduler=Halving(attempt.grid) if config.sweep.scheduler == "asha" else None,
            num_samples=len(attempt.waiting),
            max_concurrent_trials=attempt.num_at_once,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            # A new attempt is a new experiment: what a trial has done, its folder tells.
            name=f"attempt_{len(list(folder.iterdir())) + 1}",
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=config.scaling.max_failures),
            callbacks=[events],
            verbose=0,
        ),
    )


def _trial(
    settings: dict[str, Any], trials: dict[str, Trial], parent_run_id: str, data: TrainingData
) -> None:
    setup_logging(logging.WARNING)  # the sweep's table says how far it is
    error = run_trial(trials[settings["trial"]], parent_run_id, data)
    quiet_exit()  # Ray's signal to end may meet it on its way out
    tune.report({"error": error})


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial"])


def num_on_ray(config: Config) -> int:
    """Return how many trials may run at a time on the Ray that was started.

    Raises:
        ValueError: `sweep.max_concurrent` asks for more than there is room for.
    """
    return num_on_nodes(config, alive_nodes())


class _InOrder(Searcher):
    """Hands the trials out one by one when there is room, as long as the budget lasts."""

    def __init__(self, trials: Sequence[Trial], budget: Budget) -> None:
        super().__init__()
        self._waiting, self._budget = list(trials), budget

    def suggest(self, trial_id: str) -> Any:
        """Return the settings of the next trial, or that no other begins."""
        if self._waiting:
            trial = self._waiting.pop(0)
            if self._budget.begin(trial.name, trial.config.train.epochs):
                return {"trial": trial.name}
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Learn nothing: the order is the grid's."""

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: where trials stand, their folders tell."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing, as nothing is kept."""

    def __getstate__(self) -> dict[str, Any]:
        """Give Tune, which writes down what it is begun with, nothing: nobody reads it."""
        return {}


class _Events(tune.Callback):
    """Says on the driver what happens to trials, and can end those that run."""

    def __init__(self, attempt: Attempt, on_stop: OnStop) -> None:
        self._own = {trial.name: trial for trial in attempt.waiting}
        self._table, self._budget, self._on_stop = attempt.table, attempt.budget, on_stop
        self._trials: Any = []
        self.stopped: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see _InOrder

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._trials = trials
        self._table.begin(_trial_name(trial))

    def stop_trials(self) -> None:
        """End the trials' drivers, and with them their workers: this process may live on."""
        for actor in filter(None, map(trial_actor, self._trials)):
            ray.kill(actor)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
    ) -> None:
        if "tuning_mse" in result:
            self._table.epoch(_trial_name(trial), result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        name, last = _trial_name(trial), trial.last_result or {}
        if "error" in last:  # which is all that a driver says when it has come to its end
            self._table.end(name, "failed" if last["error"] else "finished")
            return
        self.stopped.add(name)
        self._budget.stopped(name, int(last["epoch"]))
        self._on_stop(self._own[name], int(last["epoch"]))
        self._table.end(name, "stopped")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._table.end(_trial_name(trial), "failed")
