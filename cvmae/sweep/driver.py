"""The verb `sweep`: every policy x epochs x seed as a pretraining of its own, and their table."""

import logging
from collections.abc import Sequence
from pathlib import Path

from cvmae.config import Config
from cvmae.meds.dataset import open_dataset
from cvmae.runtime.start_ray import start_ray
from cvmae.statistics.fitted import TrainingData
from cvmae.storage.places import is_remote
from cvmae.sweep.summary import format_table, summarise, write_rows
from cvmae.sweep.trials import Trial, grid, plan_trials, run_in_process, trial_status
from cvmae.tracking.tracker import open_tracker, prepare_store
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
    if is_remote(config.output_dir):
        raise ValueError(
            f"output_dir={config.output_dir}: a sweep needs a folder that all nodes share, for its "
            "database and Ray Tune; a single pretraining can write to object storage"
        )
    with run_folder(config, "sweep") as config:
        return _sweep(config)


def _sweep(config: Config) -> str:
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
    tracker.log_params({"sweep.trials": len(trials)} | dict(grid(config)))
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


def _run(
    trials: Sequence[Trial], config: Config, parent_run_id: str, data: TrainingData
) -> dict[str, str]:
    if not trials:
        return {}
    if config.scaling.num_workers == 0:
        return run_in_process(trials, parent_run_id, data)
    from cvmae.sweep.tune import run_on_ray

    return run_on_ray(trials, config, parent_run_id, data)
