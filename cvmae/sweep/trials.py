"""The trials of a sweep: the cells of its grid, how far each has come, and how one is run.

A trial's name and folder follow from its cell of the grid alone. So an interrupted sweep
resumes by looking at the folders: finished trials are skipped, begun ones go on from their
checkpoint, and no state of Ray Tune has to survive.
"""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cvmae.checkpoint import Progress, find_checkpoint, has_checkpoints, read_progress
from cvmae.config import Config, override
from cvmae.statistics.fitted import TrainingData
from cvmae.storage.claims import FolderInUseError
from cvmae.storage.folders import is_file
from cvmae.tracking.tracker import store_uri
from cvmae.train.pretrain import pretrain
from cvmae.train.run_folder import TRIALS

__all__ = [
    "Status",
    "Trial",
    "grid",
    "plan_trials",
    "progress_of",
    "report_progress",
    "resumable",
    "run_in_process",
    "run_trial",
    "trial_status",
]

logger = logging.getLogger("cvmae")

Status = Literal["finished", "unfinished", "failed", "new"]

LET_GO_S = 60.0  # in which a cluster ends the processes of a driver that was killed
ASK_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One cell of a sweep's grid: a name that only the cell decides, and its settings."""

    name: str
    config: Config


def grid(config: Config) -> dict[str, tuple[str | int, ...]]:
    """Return the axes of a sweep by their settings."""
    return {
        "sweep.policies": config.sweep.policies,
        "sweep.epochs": config.sweep.epochs or (config.train.epochs,),
        "sweep.seeds": config.sweep.seeds or (config.seed,),
    }


def plan_trials(config: Config) -> list[Trial]:
    """Return the grid's cells in order of policy, epochs and seed, each one parsed.

    Raises:
        ValueError: An axis names a value twice, or a cell's settings are not allowed.
    """
    folder, axes = Path(config.output_dir), grid(config)
    for setting, values in axes.items():
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise ValueError(f"{setting}={values!r} names {twice[0]!r} twice: name it once")
    trials = []
    for policy, epochs, seed in itertools.product(*axes.values()):
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


def progress_of(run_dir: str) -> Progress:
    """Return the progress of a run's newest checkpoint; nothing done where there is none yet."""
    try:
        return read_progress(find_checkpoint(run_dir))
    except FileNotFoundError:
        return Progress()


def trial_status(trial: Trial) -> Status:
    """Tell from the trial's folder alone how far it has come."""
    folder = Path(trial.config.output_dir)
    if not folder.is_dir() or not (is_file(folder / "config.yaml") or has_checkpoints(folder)):
        return "new"
    return "finished" if progress_of(str(folder)).is_finished(trial.config) else "unfinished"


def resumable(trial: Trial) -> Config:
    """Return the trial's settings as they must be now: a folder that holds a run is resumed."""
    begun = trial_status(trial) != "new"
    return replace(trial.config, resume=trial.config.output_dir if begun else "")


def run_trial(trial: Trial, parent_run_id: str, data: TrainingData) -> str:
    """Run one trial to its end; return '' or, where it failed, the reason in one line.

    A failure is logged and returned, not raised, because one trial must not take the others
    down. Only what is left of an attempt that was killed can hold a trial's folder, for the sweep
    holds all of them: it is waited for.
    """
    deadline_s = time.monotonic() + LET_GO_S
    try:
        while True:
            try:
                pretrain(resumable(trial), parent_run_id=parent_run_id, data=data)
                break
            except FolderInUseError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(ASK_EVERY_S)
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


def report_progress(done: int, total: int, start: float, name: str, reason: str) -> None:
    """Log one line on the sweep's progress, with the time that is left at this pace."""
    elapsed_s = time.monotonic() - start
    eta = time.strftime("%H:%M:%S", time.gmtime(elapsed_s / done * (total - done)))
    outcome = "failed" if reason else "finished"
    logger.info("trial %s %s; %d of %d done, ETA %s", name, outcome, done, total, eta)
