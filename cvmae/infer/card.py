"""A model card: what a model is, what it was made from, how well it does, what it is not for."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from cvmae.checkpoint import Loaded
from cvmae.config import Config
from cvmae.meds.files import LICENSE, NAME, VERSION
from cvmae.runtime.tables import counted
from cvmae.statistics.table import FEW_VALUES

__all__ = ["CARD", "DATASET", "model_card", "quoted"]

CARD = "MODEL_CARD.md"
DATASET = "dataset"  # among what was fitted: what the data set says of itself
LONGEST = 100  # characters of what a data set says of itself


def model_card(loaded: Loaded, *, why: str = "", evaluated: Sequence[str] = ()) -> str:
    """Return the card of a model as Markdown.

    Args:
        loaded: The model.
        why: It was chosen among others.
        evaluated: Lines on what an evaluation has shown of it; see `evaluated_lines`.
    """
    config, statistics = loaded.config, loaded.fitted.statistics
    size, fingerprint = config.model, loaded.fitted.fingerprint
    num_parameters = sum(p.numel() for p in loaded.model.parameters())
    digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:8]
    return f"""\
# Model card

A {_kind(config)} of laboratory values (VO-MAE), made with cvmae: {size.num_layers} layers of width
{size.width} with {size.num_heads} heads, {num_parameters:,} parameters, a vocabulary of
{statistics.num_codes} codes, windows of {config.data.sequence_length} measurements.

## Made from

{_dataset(loaded)} of {fingerprint["num_rows"]:,} rows (fingerprint `{digest}`):

{_splits(loaded)}

## How it was trained

{_training(loaded)}

## How well it does

{_metrics(loaded, why, evaluated)}

## Use

* For research: to embed patients' histories (`cvmae.load`, `cvmae embed`), to compare ways of
  pretraining, and to fine-tune. Not for the care of patients: nobody has tried it there.
* Codes and units must be those of training; values are clipped and standardised by the statistics
  of its train split. What it is worth elsewhere has to be measured there: `cvmae evaluate`.
* How it does on groups of patients (sex, age) is not in this card: `cvmae evaluate` with labels
  tells it.

## Licence

{_licence(loaded)}
Weights and statistics (means, deviations, quantiles, counts of each code) were made from
patients. They stay under the terms of the data set that they were made from: pass this folder on
only as these allow it. Not in here: subject ids, optimiser, paths, least and greatest values of
codes. {_bounds(loaded)}
"""


def _bounds(loaded: Loaded) -> str:
    """Say of how many codes the bounds of clipping are nearly single values."""
    few = int(np.count_nonzero(loaded.fitted.statistics.num_values < FEW_VALUES))
    return (
        f"But where a code has fewer than {FEW_VALUES:,} values ({few} of "
        f"{loaded.fitted.statistics.num_codes} codes), the bounds within which values are clipped "
        "lie close to these."
    )


def _kind(config: Config) -> str:
    if config.finetune.checkpoint:
        return "predictor of a label, fine-tuned from a masked autoencoder"
    return "masked autoencoder"


def _dataset(loaded: Loaded) -> str:
    facts = loaded.fitted.report.get(DATASET, {})
    if NAME not in facts:
        return "A MEDS data set without a name"
    version = f", version {quoted(facts[VERSION])}" if VERSION in facts else ""
    return f"The MEDS data set {quoted(facts[NAME])}{version},"


def _licence(loaded: Loaded) -> str:
    facts = loaded.fitted.report.get(DATASET, {})
    if LICENSE not in facts:
        return "The data set does not say its licence (`metadata/dataset.json`): ask who gave it."
    return f"The data set says that it is under {quoted(facts[LICENSE])}."


def quoted(text: str) -> str:
    """Return a name from elsewhere as code, which no reader of Markdown takes for more."""
    return f"`{' '.join(text.replace('`', ' ').split())[:LONGEST]}`"


def _training(loaded: Loaded) -> str:
    config, progress = loaded.config, loaded.progress
    if config.finetune.checkpoint:
        return (
            f"On the labels {config.finetune.labels!r}, {counted(progress.epoch, 'epoch')} (the "
            "best on "
            f"tuning of {config.finetune.epochs}), seed {config.seed}."
        )
    mask = config.mask
    return (
        f"{counted(progress.epoch, 'epoch')} ({counted(progress.global_step, 'step')} of "
        f"{config.train.batch_sequences} sequences), masking policy `{mask.policy}` (sharpness "
        f"{mask.sharpness:g}) hiding {100 * mask.ratio:g}% of the values (target: {mask.target}), "
        f"seed {config.seed}. All settings are in `config.yaml`."
    )


def _metrics(loaded: Loaded, why: str, evaluated: Sequence[str]) -> str:
    parts = ["\n".join(evaluated), _tuning(loaded, is_evaluated=bool(evaluated))]
    if why:
        parts.append(f"Chosen in a sweep, so that its tuning error is too good: {why}.")
    return "\n\n".join(part for part in parts if part)


def _tuning(loaded: Loaded, *, is_evaluated: bool) -> str:
    """Return what the run itself has shown, which has no interval."""
    if loaded.config.finetune.checkpoint or not loaded.progress.history:
        return "" if is_evaluated else "Not in this folder: see what its run wrote."
    last = loaded.progress.history[-1]
    further = "" if is_evaluated else "; for held-out figures with intervals, `cvmae evaluate`"
    return (
        f"R2 {last['tuning_r2']:.3f} on the tuning split after the last epoch (pooled over hidden "
        "values of one fixed uniform mask; 0 is each code's mean of these very values, where "
        "`evaluate` has that of train). It has no interval, for epochs and settings may have been "
        f"chosen by it{further}."
    )


def _splits(loaded: Loaded) -> str:
    splits = loaded.fitted.report.get("splits", {})
    return "\n".join(
        f"* `{split}`: "
        + ", ".join(
            f"{own[name]:,} {name.removeprefix('num_')}"
            for name in ("num_subjects", "num_measurements", "num_labels")
            if name in own
        )
        for split, own in splits.items()
    )
