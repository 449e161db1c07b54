"""Runs that share a name: seeds of one policy, or a mixture of two that must not be averaged."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cvmae.checkpoint import Loaded
from cvmae.config import flatten
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.pretrainings import pretraining_of
from cvmae.settings import MaskConfig
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.train.finetune import LABELS_HASH
from cvmae.train.weights_file import table_weights

__all__ = ["mask_in_effect", "require_one_policy"]

# What a policy is taught and how: whatever a model and its figures follow from, but for the seed.
TAUGHT = ("data", "mask", "model", "optim", "train", "finetune")
# Of these, what seeds of one policy may differ in. A setting that is not named here counts.
MAY_DIFFER = {
    # Where the data are, and what the vocabulary follows from, which is compared by itself.
    *("data.root", "data.statistics", "data.codes_file"),
    *("data.code_pattern", "data.num_codes", "data.min_count"),
    # The order of sequences, which is as much luck as the seed.
    *("data.unit_rows", "data.lanes"),
    # How the same steps are computed.
    *("train.strategy", "train.accumulation_steps", "train.precision", "train.compile"),
    *("train.activation_checkpointing", "train.num_threads"),
    # A path: the weights themselves are compared.
    "mask.weights_file",
    # What seeds of a policy went on from, and where what they learnt lies.
    *("finetune.checkpoint", "finetune.labels"),
}

# Settings of a mask that `random` makes no use of, and all but `cv_two_level` none.
OF_WEIGHTS = ("sharpness", "uniform_share", "anneal_epochs", "anneal_from")
OF_TWO_LEVELS = ("two_level_quantile", "two_level_chances", "two_level_ratio")


def require_one_policy(runs: Sequence[tuple[Contestant, Loaded]]) -> None:
    """Refuse runs of one name that were trained to different settings.

    Their mean would be of no policy, and what lies between them would pass for what seeds make.
    Of fine-tuned runs, the pretrained models are compared, too, where they are still there.

    Args:
        runs: Contestants with their models.

    Raises:
        ValueError: Two runs of a name differ in more than seed, place and machine.
    """
    seen: dict[tuple[str, str | None, str], tuple[Contestant, Loaded]] = {}
    for contestant, loaded in runs:
        name = contestant.name
        learnt = loaded.fitted.fingerprint.get(LABELS_HASH)  # fine-tuned for a task, if at all
        # The settings of a fine-tuning are written over those that its encoder was taught by.
        stages = {"": loaded, "in pretraining, ": pretraining_of(contestant.path, loaded.config)}
        for stage, model in stages.items():
            if model is None:
                continue
            first, other = seen.setdefault((name, learnt, stage), (contestant, model))
            if differing := _differences(other, model):
                raise ValueError(
                    f"evaluate.checkpoints: {name}={first.path} and {name}={contestant.path} are "
                    f"not seeds of one policy: {stage}{'; '.join(differing)}. Runs that share a "
                    "name are averaged as its seeds: give them names of their own, for example "
                    f"{name}_1={first.path} {name}_2={contestant.path}"
                )


def mask_in_effect(mask: MaskConfig) -> MaskConfig:
    """Return the settings of a mask, those that its policy does not use at their defaults."""
    idle = [] if mask.anneal_epochs else ["anneal_from"]
    if mask.policy == "random":
        idle += OF_WEIGHTS
    if mask.policy != "cv_two_level":
        idle += OF_TWO_LEVELS
    if mask.policy != "table":
        idle.append("weights_file")
    default = MaskConfig()
    return replace(mask, **{name: getattr(default, name) for name in idle})


def _differences(one: Loaded, other: Loaded) -> list[str]:
    """Name what two runs differ in that no two seeds of a policy do, with both values."""
    first, second = _taught(one), _taught(other)
    found = [
        f"{name} is {value} in the first and {second[name]} in the second"
        for name, value in first.items()
        if second[name] != value
    ]
    statistics = one.fitted.statistics, other.fitted.statistics
    if not all(np.array_equal(*pair) for pair in zip(*map(_counts, statistics), strict=True)):
        found.append("data.root: the measurements of train are others, by their number")
    if not found and not _same_table(one, other):
        found.append(
            f"mask.weights_file={one.config.mask.weights_file} in the first and "
            f"{other.config.mask.weights_file} in the second give other weights"
        )
    return found


def _taught(loaded: Loaded) -> Mapping[str, Any]:
    config = replace(loaded.config, mask=mask_in_effect(loaded.config.mask))
    return {
        name: value
        for name, value in flatten(config).items()
        if name.partition(".")[0] in TAUGHT and name not in MAY_DIFFER
    }


def _counts(statistics: CodeStatistics) -> tuple[Any, Any]:
    # Means and deviations of the same data may differ in the last digit, by how they were read.
    return statistics.num_values, statistics.num_subjects


def _same_table(one: Loaded, other: Loaded) -> bool:
    """Tell whether both hide by the same table of weights, if they hide by one."""
    codes = one.fitted.statistics.codes
    try:
        tables = [table_weights(loaded.config, codes) for loaded in (one, other)]
    except (OSError, ValueError):  # neither file nor copy is here: the path is all that is known
        return one.config.mask.weights_file == other.config.mask.weights_file
    first, second = tables
    return first is None or second is None or np.array_equal(first, second)
