"""Checkpoints to compare: found, checked against each other, and turned into predictions."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from cvmae.arrays import Floats
from cvmae.batches.evaluation import EvaluationBatch, evaluation_batches
from cvmae.checkpoint import Loaded, checkpoint_stamp, load_model
from cvmae.config import resolved_path
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.contestants import BEST_WEIGHTS, Contestant
from cvmae.evaluate.reconstruction import Sums, add_batches
from cvmae.meds.dataset import Source
from cvmae.meds.units import Unit
from cvmae.settings import DataConfig
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["choose_reference", "find_contestants", "load", "predict", "score_unit"]


@functools.lru_cache(maxsize=64)
def load(contestant: Contestant, device: str) -> Loaded:
    """Load a checkpoint once per process: a unit is scored by all of them.

    Raises:
        ValueError: The path stands for another checkpoint than when it was looked up.
    """
    loaded = load_model(contestant.path, device, contestant.which)
    if checkpoint_stamp(contestant.path, contestant.which) != contestant.stamp:
        raise ValueError(
            f"evaluate.checkpoints={contestant.name}={contestant.path}: another checkpoint was "
            "written there meanwhile; wait for the run to end, or give one checkpoint of it "
            "(checkpoints/step_*)"
        )
    return loaded


def find_contestants(entries: Sequence[str]) -> list[Contestant]:
    """Read ``NAME=PATH`` entries and check that their models may be compared.

    Where a run's best weights are not its last, they are scored beside them.

    Raises:
        ValueError: There is no entry, a name is a baseline's, vocabularies differ, or a model was
            not told codes and times.
        FileNotFoundError: A path holds no checkpoint.
    """
    if not entries:
        raise ValueError(
            "evaluate.checkpoints is empty: give models as NAME=RUN_DIR, for example "
            "--evaluate.checkpoints random=runs/random cv=runs/cv"
        )
    split = [entry.partition("=") for entry in entries]
    for name, _, _ in split:
        if name in BASELINES or name.endswith(BEST_WEIGHTS):
            raise ValueError(
                f"evaluate.checkpoints={name}=...: this name is taken "
                f"({', '.join(BASELINES)} are always evaluated); give the model another one"
            )
    contestants = [_stamped(name, resolved_path(path), "last") for name, _, path in split]
    for contestant in contestants:
        _require_value_target(contestant)
    first = contestants[0]
    vocabulary = _statistics(first)
    for contestant in contestants[1:]:
        statistics = _statistics(contestant)
        if (statistics.codes, statistics.members) != (vocabulary.codes, vocabulary.members):
            missing = len(set(vocabulary.codes) - set(statistics.codes))
            raise ValueError(
                f"evaluate.checkpoints: {contestant.name} ({contestant.path}) has another "
                f"vocabulary than {first.name} ({first.path}): {statistics.num_codes} codes "
                f"against {vocabulary.num_codes}, {missing} of the latter missing; only models "
                "with the same codes in the same order can be compared: fit the statistics once "
                "and give them to every run as data.statistics"
            )
    best = [_stamped(c.name, c.path, "best") for c in contestants]
    differing = [
        c for c, last in zip(best, contestants, strict=True) if _global_step(c) < _global_step(last)
    ]
    # All seeds or none: an average over some of them would compare different seeds.
    names = {c.name for c in differing}
    return contestants + [contestant for contestant in best if contestant.name in names]


def choose_reference(contestants: Sequence[Contestant]) -> Contestant:
    """Return whose statistics define the errors: the first with the default clipping."""
    default = DataConfig().clip_quantiles
    for contestant in contestants:
        if load(contestant, "cpu").config.data.clip_quantiles == default:
            return contestant
    return contestants[0]


def score_unit(
    unit: Unit,
    *,
    source: Source,
    split: str,
    seed: int,
    contestants: Sequence[Contestant],
    reference: Contestant,
    device: str,
) -> Sums:
    """Predict the hidden values of one unit by every contestant and baseline, and sum errors."""
    base = load(reference, "cpu")
    statistics = base.fitted.statistics
    batches = evaluation_batches(
        source,
        unit,
        statistics,
        split=split,
        sequence_length=base.config.data.sequence_length,
        ratio=base.config.mask.ratio,
        seed=seed,
    )
    predictors = [
        functools.partial(predict, loaded=load(c, device), reference=statistics, device=device)
        for c in contestants
    ]
    return add_batches(batches, predictors, statistics.num_codes)


def predict(
    batch: EvaluationBatch, *, loaded: Loaded, reference: CodeStatistics, device: str
) -> Floats:
    """Return a model's predictions ``[M]``, standardised by the reference statistics.

    A model fitted with other statistics (its own clipping, another hospital) reads values
    standardised by its own; what it predicts is translated.
    """
    own, given = loaded.fitted.statistics, batch.batch
    same = not own.differences(reference)
    if not same:
        value_N = own.standardise(batch.code_index_N, batch.numeric_value_N)
        given = replace(given, value_N=torch.from_numpy(value_N))
    with torch.inference_mode():
        predicted_M = loaded.model(given.to(device)).float().cpu().numpy().astype(np.float64)
    if same:
        return np.asarray(predicted_M)
    code_M = batch.code_index_N[batch.batch.hidden_M.numpy()]
    raw_M = predicted_M * own.std[code_M] + own.mean[code_M]
    return np.asarray((raw_M - reference.mean[code_M]) / reference.std[code_M], dtype=np.float64)


def _stamped(name: str, path: str, which: Literal["last", "best"]) -> Contestant:
    return Contestant(name=name, path=path, which=which, stamp=checkpoint_stamp(path, which))


def _require_value_target(contestant: Contestant) -> None:
    config = load(contestant, "cpu").config
    target = config.mask.target
    if config.finetune.checkpoint:
        raise ValueError(
            f"evaluate.checkpoints={contestant.name}={contestant.path} was fine-tuned to predict "
            "labels, and restores no values: give the model that it began with"
        )
    if target != "value":
        raise ValueError(
            f"evaluate.checkpoints={contestant.name}={contestant.path} was trained with "
            f"mask.target={target}: it restores hidden values without being told their codes and "
            "times, so that its errors compare with no other model's; leave it out, and compare "
            "such runs by what their encoder is worth (probes)"
        )


def _statistics(contestant: Contestant) -> CodeStatistics:
    statistics: CodeStatistics = load(contestant, "cpu").fitted.statistics
    return statistics


def _global_step(contestant: Contestant) -> int:
    return load(contestant, "cpu").progress.global_step
