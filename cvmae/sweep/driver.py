"""The verb `sweep`: every policy x epochs x seed as a pretraining of its own, and their table."""

import logging
from collections.abc import Sequence
from pathlib import Path

from cvmae.config import Config
from cvmae.meds.dataset import open_dataset
from cvmae.runtime.start_ray import start_ray
from cvmae.statistics.fitted import TrainingData
from cvmae.sweep.summary import format_table, summarise, write_rows
from cvmae.sweep.trials import Trial, grid, plan_trials, progress_of, run_in_process, trial_status
from cvmae.tracking.store import name_store, open_tracker, prepare_store
from cvmae.train.outlook import warn_of_long_run
from cvmae.train.pretrain import SPLITS_TRAINED_ON, check_settings, fit_data
from cvmae.train.run_folder import begin_folder, run_folder

__all__ = ["sweep"]

logger = logging.getLogger("cvmae")


def sweep(config: Config) -> str:
    """Pretrain every cell of the grid and return a table of the trials.

    Raises:
        ValueError: The grid or a cell of it is not allowed, the output folder is taken, in use
            or remote, or a trial failed (after the others have ended; the message holds the table).
        FileNotFoundError: There is no sweep to resume.
    """
    reason = (
        "a sweep needs a folder that all nodes share, for its database and Ray Tune; a single "
        "pretraining can write to object storage"
    )
    with run_folder(config, "sweep", only_local=reason) as config:
        return _sweep(name_store(config))


def _sweep(config: Config) -> str:
    trials = plan_trials(config)
    check_settings(config)
    dataset = open_dataset(config.data.root, SPLITS_TRAINED_ON)
    folder = Path(config.output_dir)
    waiting = [trial for trial in trials if trial_status(trial) != "finished"]
    num_at_once = _start_ray(config, waiting) if config.scaling.num_workers > 0 else 1
    prepare_store(config)
    begin_folder(config, "sweep")
    data = fit_data(config, dataset)
    logger.info("%d trials, %d finished before", len(trials), len(trials) - len(waiting))
    runs = [(trial.config, progress_of(trial.config.output_dir)) for trial in waiting]
    warn_of_long_run(runs, data.fitted, num_at_once)
    tracker = open_tracker(config, run_name=f"sweep {folder.name}")
    tracker.log_params({"sweep.trials": len(trials)} | dict(grid(config)))
    try:
        errors = _run(waiting, config, tracker.run_id, data, num_at_once)
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


def _start_ray(config: Config, trials: Sequence[Trial]) -> int:
    """Start Ray; return how many of the trials it has room for at a time."""
    from cvmae.sweep.tune import num_on_ray  # Ray only where it is asked for

    start_ray(config.scaling)
    return num_on_ray(config) if trials else 1


def _run(
    trials: Sequence[Trial],
    config: Config,
    parent_run_id: str,
    data: TrainingData,
    num_at_once: int,
) -> dict[str, str]:
    if not trials:
        return {}
    if config.scaling.num_workers == 0:
        return run_in_process(trials, parent_run_id, data)
    from cvmae.sweep.tune import run_on_ray

    return run_on_ray(trials, config, parent_run_id, data, num_at_once)
