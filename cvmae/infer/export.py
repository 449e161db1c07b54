"""The verb `export`: a model as one folder that can be handed on, without the rest of its run.

The folder is a checkpoint, as `cvmae.load`, `embed` and `evaluate` read it, without what only
training needs: optimiser, places of files, and which subjects are in which read. On demand it is
registered in MLflow, too.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
from meds.schema import tuning_split

from cvmae.checkpoint import (
    CONFIG,
    FORMAT,
    MODEL,
    Loaded,
    checkpoint_stamp,
    load_model,
    write_model,
)
from cvmae.config import Config, read_config, resolved_path
from cvmae.infer.best_trial import Choice, choose
from cvmae.infer.calibration import Calibration
from cvmae.infer.card import CARD, DATASET, model_card
from cvmae.infer.evaluated import evaluated_lines
from cvmae.infer.registered import Registry, find_registry, register
from cvmae.infer.restoring import is_imputing
from cvmae.infer.unit_job import device_of
from cvmae.meds.dataset import Dataset, open_dataset
from cvmae.meds.files import dataset_facts
from cvmae.meds.unit_index import UnitIndex
from cvmae.runtime.start_ray import start_ray
from cvmae.settings import TrackingConfig
from cvmae.settings_of_comparison import EvaluateConfig, SweepConfig
from cvmae.settings_of_use import InferConfig
from cvmae.storage.folders import is_file, join, local_copy, written
from cvmae.storage.manifest import MANIFEST, write_manifest
from cvmae.storage.output import output_folder

__all__ = ["HandedOn", "export", "find_model"]

logger = logging.getLogger("cvmae")


@dataclass(frozen=True, kw_only=True)
class HandedOn:
    """What is handed on; all of it found and allowed."""

    choice: Choice
    registry: Registry | None  # where it is registered
    loaded: Loaded
    evaluated: list[str]  # Markdown for the card
    dataset: Dataset | None  # whose residuals of tuning are to come along


def export(config: Config) -> str:
    """Write the model of `infer.checkpoint` to `output_dir`, and a card that says what it is.

    Returns:
        Where it is, and how it is loaded.

    Raises:
        ValueError: The folder is not new, a row of the data set cannot be read, or see
            `find_model` and `register`.
        FileNotFoundError: As `find_model`.
    """
    found = find_model(config)
    why, registry = found.choice.why, found.registry
    root = resolved_path(config.data.root)
    with output_folder(config.output_dir, "export", data_root=root) as folder:
        loaded = _bare(_calibrated(found, config))
        card = model_card(loaded, why=why, evaluated=found.evaluated)
        _write(folder, loaded, card)
    lines = [
        f"chosen: {why}" if why else "",
        f"model: {folder}, read by cvmae.load; what it is: {join(folder, CARD)}",
        _intervals(loaded),
        # Now that the folder is whole and let go: nothing else of it is to be copied.
        register(folder, loaded, card, registry) if registry else "",
        "Its statistics and weights were made from patients: it stays under the terms of their "
        "data set",
    ]
    return "\n".join(line for line in lines if line)


def find_model(config: Config) -> HandedOn:
    """Find the model, what was shown of it and where it goes; refuse what cannot be handed on.

    Raises:
        ValueError: A setting is missing, the checkpoint is damaged, the data set cannot be read or
            has no tuning split, or see `choose`, `find_registry` and `evaluated_lines`.
        FileNotFoundError: There is no checkpoint, no data set, or there are no results.
    """
    if not config.infer.checkpoint:
        raise ValueError("infer.checkpoint is empty: say --infer.checkpoint RUN_DIR of a model")
    choice = choose(resolved_path(config.infer.checkpoint))
    registry = find_registry(config, choice.path) if config.infer.register else None
    loaded = _load(choice.path)
    results = resolved_path(config.infer.results)
    # Its stamp after it is loaded: of a run that goes on, it is then of these weights or later
    # ones, which an evaluation of these was not given.
    stamp = checkpoint_stamp(choice.path) if results else ""
    return HandedOn(
        choice=choice,
        registry=registry,
        loaded=loaded,
        evaluated=evaluated_lines(results, choice.path, stamp) if results else [],
        dataset=_dataset(loaded, config),
    )


def _load(path: str) -> Loaded:
    """Load the last epoch of a pretraining; of a fine-tuning the best, by which it predicts."""
    checkpoint_stamp(path, given=f"infer.checkpoint={path}")  # says so where there is none
    is_finetuned = False
    if is_file(place := join(path, CONFIG)):
        with local_copy(place) as file:
            is_finetuned = bool(read_config(file).finetune.checkpoint)
    return load_model(path, which="best" if is_finetuned else "last")


def _dataset(loaded: Loaded, config: Config) -> Dataset | None:
    """Return the data set of the residuals, where one is named and the model restores values."""
    if not config.data.root or not is_imputing(loaded):
        return None
    return open_dataset(config.data.root, [tuning_split])


def _calibrated(found: HandedOn, config: Config) -> Loaded:
    """Give the model the residuals of the data set, where there is one."""
    loaded, dataset = found.loaded, found.dataset
    if dataset is None:
        return loaded
    if config.scaling.num_workers:
        start_ray(config.scaling)
    device = device_of(config.scaling)
    own = Calibration(model=loaded, dataset=dataset, config=config, device=device)
    residuals = own.residuals()
    if np.isnan(residuals.low_C).all():  # what it is given to may have more of its own
        logger.warning(
            "data.root=%s gives no intervals: %d values of the model's codes were hidden on %s, "
            "too few for quantiles that tell of no single patient",
            *(config.data.root, residuals.count_C.sum(), tuning_split),
        )
        return loaded
    return replace(loaded, residuals=residuals)


def _intervals(loaded: Loaded) -> str:
    if not is_imputing(loaded):
        return "It imputes nothing: its decoder cannot be asked for values"
    if loaded.residuals is None:
        return (
            "What it imputes has no intervals: they come with --data.root of a data set that has "
            "values enough"
        )
    own = loaded.residuals
    only = " from rows at or before their time only" if own.past_only else ""
    return (
        f"What it imputes{only} has intervals of {own.level:g}: {own.is_own_C.sum()} of "
        f"{len(own.codes)} codes by residuals of their own"
    )


def _bare(loaded: Loaded) -> Loaded:
    """Take away what says where a run's files are, whom a read holds, and single values."""
    config = loaded.config
    statistics = loaded.fitted.statistics
    unknown_C = np.full(statistics.num_codes, np.nan)
    facts = dataset_facts(config.data.root) if config.data.root else {}
    return replace(
        loaded,
        config=replace(
            config,
            output_dir="",
            resume="",
            data=replace(config.data, root="", statistics="", codes_file=""),
            mask=replace(config.mask, weights_file=_last(config.mask.weights_file)),
            deepspeed=replace(config.deepspeed, config_file=""),
            tracking=TrackingConfig(),
            sweep=SweepConfig(),
            evaluate=EvaluateConfig(),
            # Whether it is set tells what kind of model this is.
            finetune=replace(
                config.finetune,
                checkpoint=_last(config.finetune.checkpoint),
                labels=_last(config.finetune.labels),
            ),
            infer=InferConfig(),
        ),
        fitted=replace(
            loaded.fitted,
            statistics=replace(statistics, minimum=unknown_C, maximum=unknown_C),
            unit_index=UnitIndex(units=(), num_sequences={}, num_measurements={}),
            report={**loaded.fitted.report, **({DATASET: facts} if facts else {})},
        ),
    )


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _write(folder: str, loaded: Loaded, card: str) -> None:
    with written(folder, last=MANIFEST) as aside:
        aside.mkdir()
        write_model(
            aside,
            config=loaded.config,
            fitted=loaded.fitted,
            progress=loaded.progress,
            model=loaded.model.state_dict(),
            residuals=loaded.residuals,
        )
        (aside / MODEL).chmod(0o644)  # who it is handed on to is another user
        (aside / CARD).write_text(card, encoding="utf-8")
        write_manifest(aside, FORMAT)
