"""The verb `sweep`: every policy x epochs x axes x seed as a pretraining, and what they show."""

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from cvmae.checkpoint import TRIALS
from cvmae.config import Config
from cvmae.infer.best_trial import choose
from cvmae.meds.dataset import open_dataset
from cvmae.runtime.preemption import PreemptedError
from cvmae.runtime.start_ray import start_ray
from cvmae.runtime.tables import counted
from cvmae.statistics.fitted import TrainingData
from cvmae.storage.folders import names
from cvmae.sweep.attempt import Attempt
from cvmae.sweep.budget import Budget
from cvmae.sweep.in_process import run_in_process
from cvmae.sweep.live import live_table
from cvmae.sweep.page import report
from cvmae.sweep.ranking import metrics_by_epoch, rank
from cvmae.sweep.summary import Summary, summarise, write_summary
from cvmae.sweep.tables import ranked_tables, write_tables
from cvmae.sweep.trials import (
    Status,
    Trial,
    mark_stopped,
    plan_trials,
    progress_of,
    sweep_name,
    trial_status,
)
from cvmae.tracking.dataset import describe_dataset
from cvmae.tracking.store import close_run, name_store, open_tracker, prepare_store
from cvmae.tracking.tracker import Status as TrackingStatus
from cvmae.tracking.tracker import Tracker
from cvmae.train.mask_table import (
    read_sample,
    warn_of_short_sequences,
    warn_of_unfinished_anneal,
)
from cvmae.train.outlook import warn_of_long_run
from cvmae.train.pretrain import SPLITS_TRAINED_ON, check_settings, fit_data
from cvmae.train.run_folder import begin_folder, run_folder
from cvmae.train.streams import make_plan
from cvmae.train.weights_file import keep_weights

__all__ = ["ONLY_LOCAL", "OVER", "checked_trials", "require_weights", "sweep"]

logger = logging.getLogger("cvmae")

OVER = ("finished", "stopped")
REPORT = "report.txt"
ONLY_LOCAL = (
    "a sweep needs a folder that all nodes share, for its database and Ray Tune; a single "
    "pretraining can write to object storage"
)


def sweep(config: Config) -> str:
    """Pretrain every cell of the grid and return what the trials have shown.

    Raises:
        ValueError: The grid or a cell of it is not allowed, the output folder is taken, in use
            or remote, or a trial failed (after the others have ended; the message holds the table).
        FileNotFoundError: There is no sweep to resume.
    """
    with run_folder(config, "sweep", only_local=ONLY_LOCAL) as config:
        return _sweep(name_store(config))


def _sweep(config: Config) -> str:
    trials = checked_trials(config)
    dataset = open_dataset(config.data.root, SPLITS_TRAINED_ON)
    status = {trial.name: trial_status(trial) for trial in trials}
    waiting = [trial for trial in trials if status[trial.name] not in OVER]
    # What has begun goes on before anything else begins: a budget may end in between.
    waiting.sort(key=lambda trial: status[trial.name] == "new")
    num_at_once = _start_ray(config, waiting) if config.scaling.num_workers > 0 else 1
    prepare_store(config)
    data = fit_data(config, dataset)
    require_weights(waiting, data)
    begin_folder(config, "sweep")
    for trial in waiting:  # what a trial hides by is there on nodes that have no such file, too
        with _named(trial):
            has_begun = status[trial.name] != "new"
            keep_weights(trial.config, data.fitted.statistics.codes, has_begun=has_begun)
    num_over = len(trials) - len(waiting)
    logger.info("%s, %d over before", counted(len(trials), "trial"), num_over)
    _warn_of_others(config, trials)
    runs = [(trial.config, progress_of(trial.config.output_dir)) for trial in waiting]
    warn_of_long_run(runs, data.fitted, num_at_once)
    tracker = open_tracker(config, run_name=sweep_name(config), description=_described(config))
    tracker.log_params({"sweep.trials": len(trials)} | _logged(config))
    tracker.log_dataset(describe_dataset(data))
    try:
        budget = Budget(config.sweep, _begun(trials, status))
        with live_table(trials, budget) as table:
            errors = _run(
                Attempt(
                    config=config,
                    grid=trials,
                    waiting=waiting,
                    num_at_once=num_at_once,
                    data=data,
                    parent_run_id=tracker.run_id,
                    budget=budget,
                    table=table,
                )
            )
        summary = summarise(config, trials, errors, data.fitted.statistics, _unspent(budget))
        told = _tell(summary, config, tracker)
    except BaseException as error:
        is_asked_for = isinstance(error, (KeyboardInterrupt, PreemptedError))
        tracker.close("KILLED" if is_asked_for else "FAILED")
        if is_asked_for:
            _close_runs(waiting, "KILLED")
        raise
    tracker.close("FAILED" if errors else "FINISHED")
    _close_runs(trials, "FAILED")
    return _outcome(told, errors, len(trials), config)


def checked_trials(config: Config) -> list[Trial]:
    """Return all trials, each with settings under which it could run."""
    if config.sweep.scheduler != "none" and config.scaling.num_workers == 0:
        raise ValueError(
            f"sweep.scheduler={config.sweep.scheduler} compares trials that run side by side, and "
            "with scaling.num_workers=0 they run one after another: give --scaling.num_workers 1 "
            "or more, or --sweep.scheduler none"
        )
    trials = plan_trials(config)
    for trial in trials:
        with _named(trial):
            check_settings(trial.config)
    return trials


def _warn_of_others(config: Config, trials: Sequence[Trial]) -> None:
    """Say that the folder holds trials of an earlier grid, which this one does not name."""
    others = {*names(Path(config.output_dir) / TRIALS)} - {trial.name for trial in trials}
    if others:
        logger.warning(
            "%s in %s not in this grid and not in its tables: to keep them, give all policies, "
            "epochs, seeds and axes again with the new ones",
            *(counted(len(others), "trial"), Path(config.output_dir) / TRIALS),
        )


@contextmanager
def _named(trial: Trial) -> Iterator[None]:
    """Say of which trial it is what a user can mend."""
    try:
        yield
    except (ValueError, OSError) as error:
        kinds: tuple[type[Exception], ...] = (FileNotFoundError, OSError, ValueError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(f"the trial {trial.name}: {error}") from None


def require_weights(trials: Sequence[Trial], data: TrainingData) -> None:
    """Refuse a trial whose policy has no weight for some code, and say what short sequences miss.

    Raises:
        ValueError: See `make_plan`; nothing was started.
        OSError: A file that the trial needs cannot be read; it is named.
    """
    told = set[object]()
    for trial in trials:
        ending = (trial.config.mask.anneal_epochs, trial.config.train.epochs)
        if trial.config.mask.policy != "random" and ending not in told:  # which has no sharpness
            told.add(ending)
            warn_of_unfinished_anneal(trial.config)
        with _named(trial):
            plan = make_plan(trial.config, data)
            if trial.config.mask.ratio > 0.5 and trial.config.mask.ratio not in told:
                told.add(trial.config.mask.ratio)
                warn_of_short_sequences(trial.config, read_sample(plan))


def _described(config: Config) -> str:
    """Return what a person reads first on the page of a sweep, in Markdown."""
    return (
        f"A sweep: {sweep_name(config)}.\n\nThe trials are its child runs. All that they have "
        "shown is in `summary.json` among the artifacts, and drawn in `figures`."
    )


def _logged(config: Config) -> dict[str, object]:
    """Return what a list of sweeps shows of this one."""
    names = ("policies", "epochs", "seeds", "axes", "scheduler")
    settings = {f"sweep.{name}": getattr(config.sweep, name) for name in names}
    return {
        name: " ".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in settings.items()
    }


def _begun(trials: Sequence[Trial], status: Mapping[str, Status]) -> dict[str, int]:
    """Return the epochs that trials have taken or will have, of those that have begun."""
    begun = {}
    for trial in trials:
        match status[trial.name]:
            case "stopped":
                begun[trial.name] = progress_of(trial.config.output_dir).epoch
            case "finished" | "unfinished":
                begun[trial.name] = trial.config.train.epochs
    return begun


def _start_ray(config: Config, trials: Sequence[Trial]) -> int:
    """Start Ray; return how many of the trials it has room for at a time."""
    start_ray(config.scaling)
    if not trials:
        return 1
    # Ray only where it is asked for, and after its environment is prepared, which it reads once.
    from cvmae.sweep.tune import num_on_ray

    return num_on_ray(config)


def _run(attempt: Attempt) -> dict[str, str]:
    if not attempt.waiting:
        return {}
    if attempt.config.scaling.num_workers == 0:
        return run_in_process(attempt)
    from cvmae.sweep.tune import run_on_ray

    return run_on_ray(attempt, on_stop=partial(_close_stopped, attempt.parent_run_id))


def _close_stopped(parent_run_id: str, trial: Trial, epoch: int) -> None:
    """Mark a trial that a scheduler has stopped, and end its run, which its process cannot."""
    why = f"by sweep.scheduler {trial.config.sweep.scheduler} after epoch {epoch}"
    mark_stopped(trial, why)
    tracker = open_tracker(trial.config, run_name=trial.name, parent_run_id=parent_run_id)
    tracker.log_params({"sweep.stopped": why})
    tracker.close("KILLED")


def _close_runs(trials: Sequence[Trial], status: TrackingStatus) -> None:
    """Close the runs of trials that were lost and have not said so, and complete the others'.

    A store that does not take all of one is not asked again, so that a server that is down delays
    the end once, not for each trial; `--resume` completes them.
    """
    for trial in trials:
        try:
            if not close_run(trial.config, status):
                return
        except Exception as error:  # results are written, or an interruption is on its way
            logger.warning("the run of trial %s is not closed (%s)", trial.name, error)
            return


def _unspent(budget: Budget) -> list[str]:
    if not budget.used_up:
        return []
    setting = budget.used_up.partition("=")[0]
    return [
        f"{budget.used_up} is used up, and no further trial was begun: --resume with --{setting} "
        "MORE goes on."
    ]


def _tell(summary: Summary, config: Config, tracker: Tracker) -> str:
    """Write, draw and log what the trials have shown; return it as text."""
    folder, ranked = Path(config.output_dir), rank(summary)
    said = report(summary, ranked)
    paths = [*write_tables(summary, folder), folder / "summary.json", folder / REPORT]
    write_summary(summary, folder / "summary.json", ranked=ranked)
    (folder / REPORT).write_text(f"{said}\n", encoding="utf-8")
    for path in paths:
        tracker.log_artifact(str(path))
    for name, columns in ranked_tables(ranked).items():
        tracker.log_table(columns, name)
    for epoch, metrics in metrics_by_epoch(summary):
        tracker.log_metrics(metrics, step=epoch)
    from cvmae.sweep.figures import draw  # matplotlib, only now

    for name, figure in draw(summary, ranked):
        tracker.log_figure(figure, name)
    places = [
        f"trials: {folder}/trials/NAME, each named in {folder}/trials.parquet",
        f"curves, codes, ranking: {folder}/summary.json, {REPORT}, figures/, tables/, "
        "results.parquet, code_results.parquet",
    ]
    places += [*_handing_on(str(folder), tracker), *_in_browser(tracker)]
    return "\n\n".join(filter(None, [said, "\n".join(places)]))


def _handing_on(folder: str, tracker: Tracker) -> list[str]:
    """Say how the best model is registered, where the trials name one."""
    with suppress(ValueError):
        choose(folder)
        store = "" if tracker.page else " --tracking.uri URI"
        return [
            f"to register the best model in MLflow: python jobs/export.py --infer.checkpoint "
            f"{shlex.quote(folder)} --infer.register NAME{store} --output_dir NEW_FOLDER"
        ]
    return []


def _in_browser(tracker: Tracker) -> list[str]:
    """Say where a browser shows the sweep: a server has its page, a database needs one."""
    if not tracker.page:
        return []
    if tracker.location.startswith(("http://", "https://")):
        return [f"in a browser: {tracker.page}"]
    return [
        f"in a browser: mlflow ui --backend-store-uri {tracker.location}\n  then {tracker.page}"
    ]


def _outcome(told: str, errors: dict[str, str], num_trials: int, config: Config) -> str:
    """Return what is printed, or raise it where trials failed."""
    if not errors:
        return told
    reasons = "\n".join(f"  {name}: {reason}" for name, reason in errors.items())
    raise ValueError(
        f"{len(errors)} of {counted(num_trials, 'trial')} failed; the others are done:\n{told}\n"
        f"{reasons}\nwhen the cause is mended, repeat with --resume {config.output_dir}"
    )
