"""Trials side by side on Ray: Tune starts a driver per trial, which builds a TorchTrainer."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from cvmae.config import Config
from cvmae.runtime.logs import setup_logging
from cvmae.statistics.fitted import TrainingData
from cvmae.sweep.concurrency import DRIVER_CPUS, num_concurrent
from cvmae.sweep.trials import Trial, report_progress, run_trial

__all__ = ["run_on_ray"]


def run_on_ray(
    trials: Sequence[Trial], config: Config, parent_run_id: str, data: TrainingData
) -> dict[str, str]:
    """Run the trials as far side by side as resources allow; return why each failed did.

    A trial's own error is reported once; a driver that is lost with its node is started again,
    `scaling.max_failures` times at most, and resumes from the trial's folder.
    """
    folder = Path(config.output_dir) / "tune"
    folder.mkdir(exist_ok=True)
    # The newer output prints a frame about the experiment even where it should be silent.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Ctrl-C would end the experiment as if its trials were done.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    limit = num_concurrent(config, ray.cluster_resources(), _num_cores())
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(
                _trial,
                trials={trial.name: trial for trial in trials},
                parent_run_id=parent_run_id,
                data=data,
            ),
            {"CPU": DRIVER_CPUS},
        ),
        param_space={"trial": tune.grid_search([trial.name for trial in trials])},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=limit,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            # A new attempt is a new experiment: what a trial has done, its folder tells.
            name=f"attempt_{len(list(folder.iterdir())) + 1}",
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=config.scaling.max_failures),
            callbacks=[_Progress(len(trials))],
            verbose=0,
        ),
    )
    results = tuner.fit()
    errors = {}
    for number in range(len(results)):
        result = results[number]
        name = (result.config or {})["trial"]
        if result.error is not None:
            errors[name] = f"{type(result.error).__name__}: the trial's driver was lost"
        elif reason := (result.metrics or {}).get("error", "the trial's driver said nothing"):
            errors[name] = reason
    return errors


def _trial(
    settings: dict[str, Any], trials: dict[str, Trial], parent_run_id: str, data: TrainingData
) -> None:
    setup_logging()
    tune.report({"error": run_trial(trials[settings["trial"]], parent_run_id, data)})


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial"])


def _num_cores() -> int:
    """Return real cores: a local Ray counts more CPUs than there are."""
    cpus = int(ray.cluster_resources().get("CPU", 0))
    return min(cpus, os.cpu_count() or 1) if len(ray.nodes()) == 1 else cpus


class _Progress(tune.Callback):
    """Says on the driver when a trial ends."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._start = total, 0, time.monotonic()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._report(trial, str((trial.last_result or {}).get("error", "")))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._report(trial, "lost")

    def _report(self, trial: Any, reason: str) -> None:
        self._done += 1
        report_progress(self._done, self._total, self._start, _trial_name(trial), reason)
