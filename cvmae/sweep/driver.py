"""A sweep: every policy x epochs x seed as a pretraining of its own, told apart by its folder.

A trial's name and folder follow from its cell of the grid alone. So an interrupted sweep
resumes by looking at the folders: finished trials are skipped, begun ones go on from their
checkpoint, and no state of Ray Tune has to survive.
"""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cvmae.config import Config, override
from cvmae.meds.dataset import open_dataset
from cvmae.runtime.start_ray import start_ray
from cvmae.statistics.fitted import TrainingData
from cvmae.storage.places import is_remote
from cvmae.sweep.summary import Trial, format_table, summarise, trial_status, write_rows
from cvmae.tracking.tracker import open_tracker, prepare_store, store_uri
from cvmae.train.pretrain import SPLITS_TRAINED_ON, check_settings, fit_data, pretrain
from cvmae.train.run_folder import TRIALS, begin_folder, prepare_run_folder

__all__ = ["num_concurrent", "plan_trials", "resumable", "run_in_process", "run_trial", "sweep"]

logger = logging.getLogger("cvmae")

DRIVER_CPUS = 0.01  # of a trial's driver, which only waits for its workers


def sweep(config: Config) -> str:
    """Pretrain every cell of the grid and return a table of the trials.

    Raises:
        ValueError: The grid or a cell of it is not allowed, the output folder is taken or
            remote, or a trial failed (after the others have ended; the message holds the table).
        FileNotFoundError: There is no sweep to resume.
    """
    if is_remote(config.output_dir):
        raise ValueError(
            f"output_dir={config.output_dir}: a sweep needs a folder that all nodes share, for its "
            "database and Ray Tune; a single pretraining can write to object storage"
        )
    config = prepare_run_folder(config, "sweep")
    trials = plan_trials(config)
    check_settings(config)
    dataset = open_dataset(config.data.root, SPLITS_TRAINED_ON)
    folder = Path(config.output_dir)
    begin_folder(config, "sweep")
    prepare_store(config)
    if config.scaling.num_workers > 0:
        start_ray(config.scaling)
    data = fit_data(config, dataset)
    waiting = [trial for trial in trials if trial_status(trial) != "finished"]
    logger.info("%d trials, %d finished before", len(trials), len(trials) - len(waiting))
    tracker = open_tracker(config, run_name=f"sweep {folder.name}")
    tracker.log_params({"sweep.trials": len(trials)} | dict(_grid(config)))
    try:
        errors = _run(waiting, config, tracker.run_id, data)
        rows = summarise(trials, errors)
        write_rows(rows, folder / "trials.parquet")
        tracker.log_artifact(str(folder / "trials.parquet"))
    except BaseException:
        tracker.close("FAILED")
        raise
    tracker.close("FAILED" if errors else "FINISHED")
    table = f"{format_table(rows)}\ntable: {folder / 'trials.parquet'}"
    if config.scaling.num_workers > 0:
        table += f"\ncurves: mlflow ui --backend-store-uri {tracker.location}"
    if errors:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in errors.items())
        raise ValueError(
            f"{len(errors)} of {len(trials)} trials failed; the others are done:\n{table}\n"
            f"{reasons}\nwhen the cause is mended, repeat with --resume {folder}"
        )
    return table


def plan_trials(config: Config) -> list[Trial]:
    """Return the grid's cells in order of policy, epochs and seed, each one parsed.

    Raises:
        ValueError: An axis names a value twice, or a cell's settings are not allowed.
    """
    folder, grid = Path(config.output_dir), _grid(config)
    for setting, values in grid.items():
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise ValueError(f"{setting}={values!r} names {twice[0]!r} twice: name it once")
    trials = []
    for policy, epochs, seed in itertools.product(*grid.values()):
        name = f"{policy}_epochs{epochs}_seed{seed}"
        changes = {
            "mask.policy": policy,
            "train.epochs": epochs,
            "seed": seed,
            "output_dir": str(folder / TRIALS / name),
            "resume": "",
            # One fit and one store for all; workers do not see the driver's environment.
            "data.statistics": config.data.statistics or str(folder / "statistics"),
            "tracking.uri": store_uri(config) if config.scaling.num_workers else "",
        }
        trials.append(Trial(name=name, config=override(config, changes)))
    return trials


def resumable(trial: Trial) -> Config:
    """Return the trial's settings as they must be now: a folder that holds a run is resumed."""
    begun = trial_status(trial) != "new"
    return replace(trial.config, resume=trial.config.output_dir if begun else "")


def run_trial(trial: Trial, parent_run_id: str, data: TrainingData) -> str:
    """Run one trial to its end; return '' or, where it failed, the reason in one line.

    A failure is logged and returned, not raised, because one trial must not take the others
    down.
    """
    try:
        pretrain(resumable(trial), parent_run_id=parent_run_id, data=data)
    except Exception as error:
        is_users = isinstance(error, (ValueError, FileNotFoundError))  # says all by itself
        logger.error("trial %s failed: %s", trial.name, error, exc_info=not is_users)
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]
    return ""


def run_in_process(
    trials: Sequence[Trial], parent_run_id: str, data: TrainingData
) -> dict[str, str]:
    """Run the trials one after another; return the reason of each that failed."""
    errors: dict[str, str] = {}
    start = time.monotonic()
    for done, trial in enumerate(trials):
        logger.info("trial %d of %d: %s", done + 1, len(trials), trial.name)
        if reason := run_trial(trial, parent_run_id, data):
            errors[trial.name] = reason
        report_progress(done + 1, len(trials), start, trial.name, reason)
    return errors


def num_concurrent(config: Config, resources: Mapping[str, float], num_cores: int) -> int:
    """Return how many trials may run at a time.

    Trials reserve ``num_workers x cpus_per_worker`` CPUs and one hundredth for the driver,
    and one whole CPU must stay free for Ray Data, which waits for it in silence. Workers
    without a GPU compute on real cores, so there trials x workers x threads stay within
    `num_cores` (at least one trial runs).

    Raises:
        ValueError: `sweep.max_concurrent` asks for more than the reservations allow.
    """
    scaling = config.scaling
    per_trial = DRIVER_CPUS + scaling.num_workers * scaling.cpus_per_worker
    cpus = resources.get("CPU", 0.0)
    fit = int((cpus - 1) / per_trial + 1e-9)
    if scaling.use_gpu:
        fit = min(fit, int(resources.get("GPU", 0.0)) // scaling.num_workers)
    if config.sweep.max_concurrent > fit or fit < 1:
        raise ValueError(
            f"sweep.max_concurrent={config.sweep.max_concurrent} (0: as many as fit): a trial "
            f"reserves {per_trial:g} CPUs"
            + (f" and {scaling.num_workers} GPUs" if scaling.use_gpu else "")
            + f", the cluster has {cpus:g} CPUs and {resources.get('GPU', 0):g} GPUs, and Ray Data "
            f"needs 1 whole CPU: {fit} fit; lower it, scaling.num_workers or "
            "scaling.cpus_per_worker"
        )
    if config.sweep.max_concurrent:
        return config.sweep.max_concurrent
    if not scaling.use_gpu:
        cores_per_trial = scaling.num_workers * config.train.num_threads
        fit = min(fit, max(1, num_cores // cores_per_trial))
    return fit


def report_progress(done: int, total: int, start: float, name: str, reason: str) -> None:
    """Log one line on the sweep's progress, with the time that is left at this pace."""
    elapsed_s = time.monotonic() - start
    eta = time.strftime("%H:%M:%S", time.gmtime(elapsed_s / done * (total - done)))
    outcome = "failed" if reason else "finished"
    logger.info("trial %s %s; %d of %d done, ETA %s", name, outcome, done, total, eta)


def _run(
    trials: Sequence[Trial], config: Config, parent_run_id: str, data: TrainingData
) -> dict[str, str]:
    if not trials:
        return {}
    if config.scaling.num_workers == 0:
        return run_in_process(trials, parent_run_id, data)
    from cvmae.sweep.tune import run_on_ray

    return run_on_ray(trials, config, parent_run_id, data)


def _grid(config: Config) -> dict[str, tuple[str | int, ...]]:
    return {
        "sweep.policies": config.sweep.policies,
        "sweep.epochs": config.sweep.epochs or (config.train.epochs,),
        "sweep.seeds": config.sweep.seeds or (config.seed,),
    }
