"""The verb `finetune`: a pretrained encoder and a head learn from labels, and predict held_out."""

import logging
import math
import signal
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from scipy.special import expit

from cvmae.arrays import Floats
from cvmae.checkpoint import Loaded, Progress, clear_rubbish, has_checkpoints, load_model
from cvmae.config import Config, flatten
from cvmae.infer.notice import write_notice
from cvmae.infer.predictions import prediction_table
from cvmae.meds.dataset import Dataset, open_dataset
from cvmae.meds.labels import Labels, read_tasks
from cvmae.meds.splits import SPLITS
from cvmae.meds.unit_index import UnitIndex
from cvmae.meds.units import plan_units
from cvmae.runtime.map_units import map_with
from cvmae.runtime.preemption import PreemptedError, on_signal
from cvmae.runtime.ranks import default_device
from cvmae.runtime.start_ray import start_ray, trains_on_gpu
from cvmae.runtime.tables import counted
from cvmae.settings import ScalingConfig
from cvmae.statistics.fitted import FittedData, TrainingData
from cvmae.storage.folders import join, written
from cvmae.tracking.dataset import describe_dataset
from cvmae.tracking.store import name_store, open_tracker, prepare_store
from cvmae.tracking.tracker import Tracker
from cvmae.train.epoch_report import EpochReport
from cvmae.train.figures import draw_finetuning
from cvmae.train.finetuning import (
    Finetuning,
    LabelledData,
    auroc,
    cross_entropy,
    predict_windows,
)
from cvmae.train.labelled import LabelledWindows, read_windows
from cvmae.train.loop import train
from cvmae.train.make_engine import make_engine
from cvmae.train.pretrained import keep_stamp, load_pretrained
from cvmae.train.resume import check_same_run
from cvmae.train.run_folder import begin_folder, run_folder

__all__ = [
    "PREDICTIONS",
    "check_finetuning",
    "finetune",
    "fitted_with",
    "learning_config",
    "learnt_labels",
]

PREDICTIONS = "predictions.parquet"
LABELS_HASH = "labels_sha256"  # in a checkpoint's fingerprint: which labels were learnt
TRAIN, TUNING, HELD_OUT = SPLITS
WARMUP_STEPS = 300  # at most a tenth of the run, as everywhere

Windows = Mapping[str, LabelledWindows]  # by split

logger = logging.getLogger("cvmae")


def finetune(config: Config) -> str:
    """Train a pretrained encoder and a head with labels, choose an epoch, and predict held_out.

    The run folder is like that of a pretraining, and holds ``predictions.parquet`` beside.

    Returns:
        What has come out, for the terminal.

    Raises:
        ValueError: A setting, the labels or the data do not allow it, another process writes to
            the folder, or `finetune.checkpoint` is not what a run without a checkpoint was begun
            with; nothing was started.
        FileNotFoundError: The checkpoint, the data set, the labels or the run to resume are not
            there.
        ChildProcessError: Workers were lost more often than `scaling.max_failures`.
        FloatingPointError: The loss is not finite any more; the last good checkpoint is kept.
        PreemptedError: SIGTERM or SIGINT came, and a checkpoint of the step is written: `resume`
            goes on from there.
    """
    with run_folder(config, "fine-tuning") as config:
        return _finetune(name_store(config))


def _finetune(config: Config) -> str:
    check_finetuning(config)
    has_begun = has_checkpoints(config.output_dir)
    if has_begun:
        own, stamp = load_model(config.output_dir), ""
    else:
        own, stamp = load_pretrained(config)
    config = learning_config(config, own.config)
    labels = learnt_labels(config)
    dataset = open_dataset(config.data.root, SPLITS)
    fitted = fitted_with(labels, own.fitted, dataset)
    # Before anything is written: a refused change must leave the run as it was.
    progress = check_same_run(config, fitted) if has_begun else Progress()
    prepare_store(config)
    if config.scaling.num_workers:
        start_ray(config.scaling)
    windows = _read_windows(config, dataset, labels, own)
    data = TrainingData(source=dataset.source, fitted=replace(fitted, report=_report(windows)))
    if not has_begun:
        keep_stamp(config.output_dir, stamp)
    begin_folder(config, "fine-tuning")
    begins_fresh = has_begun or config.finetune.from_scratch
    labelled = LabelledData(
        train=windows[TRAIN],
        tuning=windows[TUNING],
        pretrained=None if begins_fresh else own.model.state_dict(),
    )
    tracker = _open_tracker(config, data, labels)
    try:
        report = EpochReport(config, data.fitted.statistics.codes, tracker)
        for metrics in progress.history:  # a store may lack them: it is another, or was away
            report(metrics, None)
        if progress.is_finished(config):
            clear_rubbish(config.output_dir)
        else:
            _train(config, data, labelled, tracker, report)
        draw_finetuning(config, tracker)
        told = _predict(config, windows[HELD_OUT], tracker)
    except BaseException as error:
        is_asked_for = isinstance(error, (KeyboardInterrupt, PreemptedError))
        tracker.close("KILLED" if is_asked_for else "FAILED")
        raise
    tracker.close("FINISHED")
    return told


def check_finetuning(config: Config) -> None:
    """Refuse settings that a fine-tuning cannot have, before anything is read."""
    for name in ("checkpoint", "labels"):
        if not getattr(config.finetune, name):
            raise ValueError(f"finetune.{name} is empty: say --finetune.{name} FOLDER")
    if config.train.strategy != "ddp":
        raise ValueError(
            f"train.strategy={config.train.strategy} partitions what all parameters need, and a "
            "fine-tuning leaves the decoder's alone: give ddp"
        )
    if config.train.compile == "on":
        raise ValueError(
            "train.compile=on is for pretraining, whose steps are alike by the thousand: leave it "
            "at auto"
        )


def learning_config(config: Config, own: Config) -> Config:
    """Return the settings of the run: data and model as pretrained, the rest as for labels."""
    return replace(
        config,
        data=replace(own.data, root=config.data.root, statistics=""),
        mask=own.mask,
        model=own.model,
        optim=replace(
            config.optim,
            lr=config.finetune.lr,
            lr_scaling="none",
            schedule="cosine",
            warmup_steps=WARMUP_STEPS,
        ),
        train=replace(
            config.train,
            epochs=config.finetune.epochs,
            batch_sequences=config.finetune.batch_labels,
            compile="off",
            loss_weighting="none",
            visible_weight=0.0,
        ),
    )


def learnt_labels(config: Config) -> Labels:
    """Read the labels, which are one boolean set."""
    labels, *others = read_tasks(config.finetune.labels)
    if others:
        names = ", ".join(task.name for task in (labels, *others))
        raise ValueError(
            f"finetune.labels={config.finetune.labels} holds several label sets ({names}): name "
            "the folder of one"
        )
    if labels.kind != "boolean":
        raise ValueError(
            f"finetune.labels={config.finetune.labels} holds numbers: fine-tuning learns boolean "
            "labels; make them one, such as whether a number is above a bound"
        )
    return labels


def _read_windows(config: Config, dataset: Dataset, labels: Labels, own: Loaded) -> Windows:
    """Read all windows, and refuse what cannot be learnt from."""
    statistics = own.fitted.statistics
    windows = read_windows(
        dataset.source,
        plan_units(dataset, config.data.unit_rows),
        labels,
        statistics,
        sequence_length=config.data.sequence_length,
        scaling=config.scaling,
    )
    place = f"finetune.labels={config.finetune.labels}"
    for split, needs in ((TRAIN, 1), (TUNING, 1), (HELD_OUT, 0)):
        found = windows[split]
        if found.num_labels == 0 or (needs and found.num_positive in (0, found.num_labels)):
            raise ValueError(
                f"{place}: {counted(found.num_labels, 'label')} of split {split!r}, "
                f"{found.num_positive} "
                f"of them positive: {TRAIN} and {TUNING} need positive and negative ones, and "
                f"{HELD_OUT} some to predict; splits are those of the data set's table"
            )
    if not any(len(found.code_index_N) for found in windows.values()):
        raise ValueError(
            f"{place}: no measurement of a code of the model ({', '.join(statistics.codes[:3])}, "
            f"...) lies at or before a prediction_time in data.root={config.data.root}: give the "
            "data set that the labels are of, and a model of its codes"
        )
    outside = labels.num_labels - sum(found.num_labels for found in windows.values())
    parts = [f"{split} {_counted(found)}" for split, found in windows.items()]
    logger.info("label set %s: %s; %d of no split", labels.name, "; ".join(parts), outside)
    return windows


def _counted(windows: LabelledWindows) -> str:
    num_empty = int((windows.length_L == 0).sum())
    return (
        f"{counted(windows.num_labels, 'label')} ({windows.num_positive} positive, {num_empty} "
        "before any "
        "measurement)"
    )


def fitted_with(labels: Labels, own: FittedData, dataset: Dataset) -> FittedData:
    """Return what a checkpoint holds: whose labels were learnt, and nothing of the subjects.

    Args:
        labels: That are learnt.
        own: What the pretrained model was fitted to, or this run.
        dataset: That the labels are of.
    """
    return FittedData(
        statistics=own.statistics,
        unit_index=UnitIndex(units=(), num_sequences={}, num_measurements={}),
        fingerprint=dataset.fingerprint
        | {"num_labels": labels.num_labels, LABELS_HASH: labels.digest},
        settings=own.settings,
        report={},  # until the labels' windows are read
    )


def _report(windows: Windows) -> dict[str, Any]:
    return {
        "splits": {
            split: {"num_labels": found.num_labels, "num_positive": found.num_positive}
            for split, found in windows.items()
        }
    }


def _open_tracker(config: Config, data: TrainingData, labels: Labels) -> Tracker:
    """Open the run's tracking, which says first what the run is."""
    dataset = describe_dataset(data)
    begins = "fresh weights" if config.finetune.from_scratch else "pretrained weights"
    tracker = open_tracker(
        config,
        run_name=Path(config.output_dir).name,
        description=(
            f"Fine-tuning with label set **{labels.name}** of {dataset['name']} from {begins}, "
            f"{counted(config.finetune.epochs, 'epoch')}, seed {config.seed}.\n\nAll settings "
            "are in "
            f"`config.yaml` among the artifacts; checkpoints are in `{config.output_dir}`."
        ),
    )
    flat = flatten(config)
    tracker.log_params({n: v for n, v in flat.items() if n == "seed" or n.startswith("finetune.")})
    tracker.log_dataset(dataset)
    tracker.log_artifact(join(config.output_dir, "config.yaml"))
    return tracker


def _train(
    config: Config,
    data: TrainingData,
    labelled: LabelledData,
    tracker: Tracker,
    report: EpochReport,
) -> None:
    """Take the steps that are left, on Ray or here."""
    name = Path(config.output_dir).name
    if config.scaling.num_workers > 0:
        from cvmae.train.workers import train_on_ray  # Ray only where it is asked for

        train_on_ray(config, data, run_name=name, key=tracker.key, labelled=labelled)
        return
    stop = threading.Event()
    with on_signal(signal.SIGTERM, signal.SIGINT, call=stop.set):
        train(
            Finetuning(config, data.fitted, labelled),
            report=report,
            ask=lambda: "stop" if stop.is_set() else "",
            device=default_device(),
            label=name,
        )


def _place_of_prediction(scaling: ScalingConfig) -> tuple[ScalingConfig, bool]:
    """Return where held_out is predicted, and whether on a GPU: as it was trained.

    On Ray, the node of the calling process may have no GPU where the workers have, or one where
    they have none; its numbers would not be those by which tuning has chosen.
    """
    on_gpu = trains_on_gpu(scaling)
    num_workers = 1 if scaling.num_workers and on_gpu else 0
    return replace(scaling, num_workers=num_workers, min_workers=0), on_gpu


class _Predictor:
    """Predicts by the epoch that tuning speaks for."""

    def __init__(self, *, config: Config, on_gpu: bool) -> None:
        best = load_model(config.output_dir, which="best")
        device = default_device() if on_gpu else torch.device("cpu")
        self._engine = make_engine(best.model, config, device=device, total_steps=1)
        self._chosen = best.progress.history[-1]

    def __call__(self, windows: LabelledWindows) -> tuple[dict[str, float], Floats]:
        """Return what was chosen, as its metrics, and the log-odds of every label."""
        return self._chosen, predict_windows(self._engine, windows)


def _predict(config: Config, windows: LabelledWindows, tracker: Tracker) -> str:
    """Predict held_out by the epoch that tuning speaks for, and say how well."""
    scaling, on_gpu = _place_of_prediction(config.scaling)
    setup = partial(_Predictor, config=config, on_gpu=on_gpu)
    ((chosen, logit_L),) = map_with(setup, [windows], scaling, "held_out")
    path = join(config.output_dir, PREDICTIONS)
    write_notice(config.output_dir, PREDICTIONS)
    table = prediction_table(
        subject_id_L=windows.subject_id_L,
        time_us_L=windows.time_us_L,
        label_L=windows.label_L > 0,
        predicted_L=logit_L >= 0,  # as likely as not counts as positive
        chance_L=expit(logit_L),
    )
    with written(path) as aside:
        pq.write_table(table, aside)
    area, loss = auroc(windows.label_L, logit_L), cross_entropy(windows.label_L, logit_L)
    shown = "undefined" if math.isnan(area) else f"{area:.3f}"  # labels of one kind
    tracker.log_metrics({"held_out_auroc": area, "held_out_loss": loss}, step=int(chosen["epoch"]))
    return (
        f"epoch {chosen['epoch']:.0f} of {config.train.epochs} is chosen by "
        f"{config.finetune.choose_by} (tuning: AUROC {chosen['tuning_auroc']:.3f}, cross-entropy "
        f"{chosen['tuning_loss']:.4f})\nheld_out: AUROC {shown}, cross-entropy {loss:.4f} of "
        f"{counted(windows.num_labels, 'label')}, {windows.num_positive} positive\npredictions: "
        f"{path}"
    )
