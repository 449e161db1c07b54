"""The verb `pretrain`: prepare the run folder, then train here or on Ray."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from cvmae.arrays import Float32s
from cvmae.batches.bricks import Brick, stream_bricks
from cvmae.batches.code_metrics import CodeMetrics
from cvmae.checkpoint import Progress, clear_rubbish, has_checkpoints
from cvmae.config import Config
from cvmae.meds.dataset import Dataset, open_dataset
from cvmae.meds.splits import SPLITS
from cvmae.model import kernels
from cvmae.runtime.preemption import PreemptedError, on_signal
from cvmae.runtime.ranks import default_device
from cvmae.runtime.start_ray import start_ray, trains_on_gpu
from cvmae.runtime.tables import counted
from cvmae.statistics.fit import load_or_fit, require_sequences
from cvmae.statistics.fitted import TrainingData
from cvmae.storage.folders import join
from cvmae.tracking.dataset import describe_dataset
from cvmae.tracking.params import describe_run, told_params
from cvmae.tracking.store import name_store, open_tracker, prepare_store
from cvmae.tracking.tracker import Tracker
from cvmae.train.deepspeed_settings import deepspeed_config, keep_config_file
from cvmae.train.epoch_report import EpochReport
from cvmae.train.figures import draw_run
from cvmae.train.loop import train
from cvmae.train.make_engine import compiles
from cvmae.train.mask_table import complete_mask_table, write_mask_table
from cvmae.train.outlook import warn_of_long_run
from cvmae.train.pretraining import Pretraining
from cvmae.train.resume import check_same_run, how_to_train_on
from cvmae.train.run_folder import begin_folder, is_marked_stopped, run_folder
from cvmae.train.streams import Plan, make_plan
from cvmae.train.weights_file import check_weights_file, keep_weights

__all__ = ["SPLITS_TRAINED_ON", "check_settings", "fit_data", "pretrain"]

SPLITS_TRAINED_ON = SPLITS[:2]  # train, and tuning for the error after each epoch

Listen = Callable[[Mapping[str, float]], None]

logger = logging.getLogger("cvmae")


def pretrain(
    config: Config,
    *,
    parent_run_id: str = "",
    data: TrainingData | None = None,
    listen: Listen | None = None,
) -> str:
    """Pretrain one model and return its run folder.

    Args:
        config: Settings of the run; `output_dir` is new, or named by `resume`.
        parent_run_id: Tracking run of the sweep that this run belongs to.
        data: What the sweep has opened and fitted for all its runs.
        listen: Told the metrics of each epoch, where this process trains; the epochs of workers
            on Ray reach the Ray Tune that this process is a trial of.

    Raises:
        ValueError: A setting or the data do not allow the run, or another process writes to its
            folder; nothing was started.
        FileNotFoundError: The data set or the run to resume is not there.
        ChildProcessError: Workers were lost more often than `scaling.max_failures`.
        FloatingPointError: The loss is not finite any more; the last good checkpoint is kept.
        PreemptedError: SIGTERM or SIGINT came, and a checkpoint of the step is written: `resume`
            goes on from there.
    """
    with run_folder(config) as config:
        return _pretrain(name_store(config), parent_run_id, data, listen)


def _pretrain(
    config: Config, parent_run_id: str, data: TrainingData | None, listen: Listen | None
) -> str:
    check_settings(config)
    workers = config.scaling.num_workers
    has_begun = has_checkpoints(config.output_dir)  # and statistics: to read them takes no Ray
    data = data or _open_and_fit(config, on_ray=workers > 0 and not has_begun)
    # Before anything is written: a refused change must leave the run as it was.
    progress = check_same_run(config, data.fitted) if has_begun else Progress()
    codes = data.fitted.statistics.codes
    keep_weights(config, codes, has_begun=has_begun)
    plan = make_plan(config, data)  # what the policy refuses is said before anything is started
    if not parent_run_id:  # else the sweep has done so, of all its runs
        warn_of_long_run([(config, progress)], data.fitted)
    if workers and not progress.is_finished(config):
        start_ray(config.scaling)
    if config.train.strategy == "deepspeed":
        keep_config_file(config)
    begin_folder(config)
    name = Path(config.output_dir).name
    tracker = _open_tracker(config, data, name, parent_run_id)
    was_stopped = is_marked_stopped(config.output_dir)
    aloud = not parent_run_id  # a sweep's trials would say much the same again and again
    try:
        _report_again(progress, EpochReport(config, codes, tracker))
        if not progress.is_finished(config):
            write_mask_table(config, plan, tracker, aloud=aloud)
        is_signalled = _train(config, data, plan, progress, tracker, parent_run_id, listen)
        complete_mask_table(config, tracker, aloud=aloud)
        draw_run(config, tracker)
    except BaseException as error:
        is_asked_for = isinstance(error, (KeyboardInterrupt, PreemptedError))
        # A sweep that stops a trial takes its workers away, which is no failure of theirs.
        is_asked_for |= is_marked_stopped(config.output_dir) and not was_stopped
        tracker.close("KILLED" if is_asked_for else "FAILED")
        raise
    tracker.close("FINISHED")
    logger.info("%s: run folder %s, tracking %s", name, config.output_dir, tracker.location)
    if is_signalled and parent_run_id:  # it came with the last step, and is for the sweep, too
        raise PreemptedError(f"stopped by a signal, when {name} was done")
    return config.output_dir


def _open_tracker(config: Config, data: TrainingData, name: str, parent_run_id: str) -> Tracker:
    """Open the run's tracking, which says first what the run is."""
    dataset = describe_dataset(data)
    tracker = open_tracker(
        config,
        run_name=name,
        parent_run_id=parent_run_id,
        description=describe_run(config, dataset),
    )
    tracker.log_params(told_params(config))
    tracker.log_dataset(dataset)
    tracker.log_artifact(join(config.output_dir, "config.yaml"))
    return tracker


def check_settings(config: Config) -> None:
    """Refuse settings that workers would refuse, before anything is started or written.

    Raises:
        ValueError: The lanes do not suffice for the workers or the micro-batches, steps cannot be
            compiled, or DeepSpeed's file or that of mask weights says what it may not.
        FileNotFoundError: One of these files is not there.
    """
    if config.finetune.checkpoint:
        raise ValueError(
            f"finetune.checkpoint={config.finetune.checkpoint} is what `cvmae finetune` begins "
            "with: leave it out of a pretraining"
        )
    # On Ray the workers say which kernels they have, not the driver's node.
    have_kernels = kernels.ARE_COMPILED or config.scaling.num_workers > 0
    compiles(config, on_gpu=trains_on_gpu(config.scaling), have_kernels=have_kernels)
    if config.train.strategy == "deepspeed":
        deepspeed_config(config, bf16=False)
    check_weights_file(config)
    workers = config.scaling.num_workers
    if workers > config.data.lanes:
        raise ValueError(
            f"scaling.num_workers={workers} is more than data.lanes={config.data.lanes}, and a "
            "worker without a lane would have no data: lower it, or raise data.lanes for a new run"
        )
    lanes_a_rank = config.data.lanes // max(workers, 1)
    if config.train.accumulation_steps > lanes_a_rank:
        raise ValueError(
            f"train.accumulation_steps={config.train.accumulation_steps} is more than the "
            f"{counted(lanes_a_rank, 'lane')} of a rank, between which a step is cut: raise "
            "data.lanes for a "
            "new run, or lower it or scaling.num_workers"
        )


def _open_and_fit(config: Config, *, on_ray: bool) -> TrainingData:
    """Open the data set before anything is started, and fit it where metrics can be kept."""
    dataset = open_dataset(config.data.root, SPLITS_TRAINED_ON)
    prepare_store(config)
    if on_ray:
        start_ray(config.scaling)
    return fit_data(config, dataset)


def fit_data(config: Config, dataset: Dataset) -> TrainingData:
    """Return what can be trained on.

    Raises:
        ValueError: See `load_or_fit` and `require_sequences`.
        FileNotFoundError: `data.statistics` is no folder of statistics.
    """
    fitted = load_or_fit(config, dataset)
    require_sequences(fitted)
    return TrainingData(source=dataset.source, fitted=fitted)


def _train(
    config: Config,
    data: TrainingData,
    plan: Plan,
    progress: Progress,
    tracker: Tracker,
    parent_run_id: str,
    listen: Listen | None,
) -> bool:
    """Take the steps that are left, on Ray or here; tell whether a signal came with the last."""
    name = Path(config.output_dir).name
    if progress.is_finished(config):
        logger.info("%s: %s", name, how_to_train_on(config, progress))
        # A kill after the last save may have left these to be done.
        clear_rubbish(config.output_dir)
    elif config.scaling.num_workers > 0:
        from cvmae.train.workers import train_on_ray  # Ray only where it is asked for

        train_on_ray(config, data, run_name=name, key=tracker.key, parent_run_id=parent_run_id)
    else:
        return _train_here(config, data, plan, tracker, name, listen)
    return False


def _report_again(progress: Progress, report: EpochReport) -> None:
    """Give a store the epochs of a resumed run that it lacks: it may be another, or was away."""
    for metrics in progress.history:
        report(metrics, None)


def _train_here(
    config: Config,
    data: TrainingData,
    plan: Plan,
    tracker: Tracker,
    label: str,
    listen: Listen | None,
) -> bool:
    write = EpochReport(config, data.fitted.statistics.codes, tracker)

    def report(metrics: Mapping[str, float], codes: CodeMetrics | None) -> None:
        write(metrics, codes)
        if listen is not None:
            listen(metrics)

    def bricks(epoch: int, step: int, weight_C: Float32s | None) -> Iterator[Brick]:
        reader = replace(plan.unweighted_reader, weight_C=weight_C)
        return stream_bricks(reader, plan.train_order, plan.units, epoch=epoch, step=step)

    stop = threading.Event()
    with on_signal(signal.SIGTERM, signal.SIGINT, call=stop.set):
        train(
            Pretraining(config, data, bricks),
            report=report,
            ask=lambda: "stop" if stop.is_set() else "",
            device=default_device(),
            label=label,
        )
    return stop.is_set()
