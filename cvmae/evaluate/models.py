"""Checkpoints to compare: found, checked against each other, and turned into predictions."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from cvmae.arrays import Floats
from cvmae.batches.columns import UNIFORM, Column
from cvmae.batches.evaluation import EvaluationBatch, column_batches
from cvmae.checkpoint import Loaded, checkpoint_stamp, load_model
from cvmae.config import Config, resolved_path
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.contestants import (
    BEST_WEIGHTS,
    HAND_MADE,
    UNTRAINED,
    Contestant,
    reference_name,
)
from cvmae.evaluate.one_policy import require_one_policy
from cvmae.evaluate.pretrainings import begun_with
from cvmae.evaluate.reconstruction import Predict, Sums, add_batches
from cvmae.evaluate.sweeps import runs_of
from cvmae.meds.dataset import Source
from cvmae.meds.reading import read_unit
from cvmae.meds.units import Unit
from cvmae.settings import DataConfig, ScalingConfig
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.statistics.fitted import FittedData

__all__ = [
    "choose_reference",
    "choose_statistics",
    "competitors",
    "device_of",
    "find_contestants",
    "load",
    "predict",
    "predictors",
    "score_unit",
]


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


def device_of(scaling: ScalingConfig) -> str:
    """Return where models are, which score in tasks on CPUs where work is spread."""
    here = scaling.num_workers == 0
    return "cuda" if here and torch.cuda.is_available() else "cpu"


def find_contestants(entries: Sequence[str]) -> list[Contestant]:
    """Read ``NAME=PATH`` entries and check that their models may be compared.

    A sweep's folder stands for its trials. Where a run's best weights are not its last, they are
    scored beside them, if it restores values.

    Raises:
        ValueError: There is no entry, a name is a baseline's or its runs are of several kinds or
            policies, vocabularies differ, or see `runs_of`.
        FileNotFoundError: A path holds no checkpoint.
    """
    if not entries:
        raise ValueError(
            "evaluate.checkpoints is empty: give models as NAME=RUN_DIR, for example "
            "--evaluate.checkpoints random=runs/random cv=runs/cv"
        )
    split = [entry.partition("=") for entry in entries]
    for name, _, _ in split:
        _require_free(name)
    runs = [run for name, _, path in split for run in runs_of(name, path)]
    for name, _ in runs:  # labels of a sweep
        _require_free(name)
    contestants = [_found(*run) for run in runs]
    contestants.sort(key=_place)  # the order in which they were given changes no figure
    _require_alike(contestants)
    encoders = [c for c in contestants if c.serves != "predictions"]  # all that is compared
    for first, contestant in itertools.product(encoders[:1], encoders[1:]):
        vocabulary = _statistics(first)
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
    require_one_policy([(contestant, load(contestant, "cpu")) for contestant in contestants])
    _require_seeds(contestants)
    restoring = [c for c in contestants if c.serves == "reconstruction"]
    best = [_stamped(c.name, c.path, "best") for c in restoring]
    differing = [
        c for c, last in zip(best, restoring, strict=True) if _global_step(c) < _global_step(last)
    ]
    # All seeds or none: an average over some of them would compare different seeds.
    names = {c.name for c in differing}
    return contestants + [contestant for contestant in best if contestant.name in names]


def choose_reference(contestants: Sequence[Contestant]) -> Contestant:
    """Return whom others are compared with: see `reference_name`, with the default clipping.

    Else another with the default clipping, or anybody; of several the first by name and seed.
    """
    default = DataConfig().clip_quantiles
    preferred = reference_name([contestant.name for contestant in contestants])

    def key(contestant: Contestant) -> tuple[bool, bool, bool, str, int, bool, str]:
        clipping = load(contestant, "cpu").config.data.clip_quantiles
        return clipping != default, contestant.name != preferred, *_place(contestant)

    return min(contestants, key=key)


def choose_statistics(folder: str, contestants: Sequence[Contestant]) -> CodeStatistics:
    """Return the statistics that define the errors: those of a folder, or of the reference.

    Raises:
        ValueError: The folder's vocabulary is not that of the models.
        FileNotFoundError: It holds no statistics.
    """
    own = _statistics(choose_reference(contestants))
    if not folder:
        return own
    given = FittedData.read(resolved_path(folder)).statistics
    if (given.codes, given.members) != (own.codes, own.members):
        missing = len(set(own.codes) - set(given.codes))
        raise ValueError(
            f"evaluate.statistics={folder} has another vocabulary than the models: "
            f"{given.num_codes} codes against {own.num_codes}, {missing} of the latter missing; "
            "give the folder that they were trained with, or one fitted with data.codes_file"
        )
    return given


def score_unit(
    unit: Unit,
    *,
    source: Source,
    split: str,
    seed: int,
    contestants: Sequence[Contestant],
    statistics: CodeStatistics,
    sequence_length: int,
    device: str,
    columns: Sequence[Column],
) -> tuple[Sums, ...]:
    """Predict what each column hides of one unit by models and baselines, and sum errors."""
    measurements, _ = read_unit(source, unit, statistics.lookup, split)
    sums = []
    for column in columns:
        batches = column_batches(
            measurements, statistics, column, sequence_length=sequence_length, seed=seed
        )
        own = predictors(competitors(column, contestants), statistics, device)
        sums.append(add_batches(batches, own, statistics.num_codes))
    return tuple(sums)


def predictors(
    contestants: Sequence[Contestant], statistics: CodeStatistics, device: str
) -> list[Predict]:
    """Return a function for each model that predicts a batch's hidden values; see `predict`."""
    return [
        functools.partial(predict, loaded=load(c, device), reference=statistics, device=device)
        for c in contestants
    ]


def competitors(column: Column, contestants: Sequence[Contestant]) -> list[Contestant]:
    """Return who is scored under a column: best weights under the uniform one only."""
    return [c for c in contestants if column.kind == UNIFORM or c.which == "last"]


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
    stamp = checkpoint_stamp(path, which, given=f"evaluate.checkpoints={name}={path}")
    return Contestant(name=name, path=path, which=which, stamp=stamp)


def _found(name: str, path: str) -> Contestant:
    contestant = _stamped(name, path, "last")
    config = load(contestant, "cpu").config
    if config.finetune.checkpoint:
        return replace(contestant, serves="predictions")
    return contestant if config.mask.target == "value" else replace(contestant, serves="probes")


def _require_free(name: str) -> None:
    """Refuse a name under which something else is reported."""
    taken = (*BASELINES, HAND_MADE, UNTRAINED)
    if name in taken or name.endswith(BEST_WEIGHTS):
        raise ValueError(
            f"evaluate.checkpoints={name}=...: this name is taken ({', '.join(taken)} are always "
            f"evaluated, and what ends with{BEST_WEIGHTS} is of best weights); give the model "
            "another one, or a trial of a sweep by its folder"
        )


def _require_alike(contestants: Sequence[Contestant]) -> None:
    """Refuse a name whose runs are not of one kind."""
    for first, second in itertools.pairwise(contestants):  # in order of names
        if first.name == second.name and first.serves != second.serves:
            raise ValueError(
                f"evaluate.checkpoints: {first.name}={first.path} is there for {first.serves} and "
                f"{second.name}={second.path} for {second.serves}; a repeated name means runs of "
                "several seeds: give one of them another name"
            )


def _place(contestant: Contestant) -> tuple[bool, str, int, bool, str]:
    """Return what contestants are sorted by: `random` first, since others are compared with it.

    Then name, seed, last weights before best ones, and what is in the checkpoint: where it lies
    decides nothing.
    """
    seed, is_best = load(contestant, "cpu").config.seed, contestant.which == "best"
    return contestant.name != "random", contestant.name, seed, is_best, contestant.stamp


def _require_seeds(contestants: Sequence[Contestant]) -> None:
    """Refuse runs of one name that are the same run again, as which they would seem certain."""
    seen: dict[tuple[str, int, str], Contestant] = {}
    for contestant in contestants:
        config = load(contestant, "cpu").config
        seed, began = config.seed, _began_with(contestant.path, config)
        other = seen.setdefault((contestant.name, seed, began), contestant)
        if other is not contestant:
            raise ValueError(
                f"evaluate.checkpoints: {contestant.name}={other.path} and "
                f"{contestant.name}={contestant.path} were trained with the same seed={seed}; "
                "a repeated name means runs of several seeds: give each run once, or another name"
            )


def _began_with(path: str, config: Config) -> str:
    """Return what a fine-tuning has learnt and from where on; of others, seeds may be alike."""
    return f"{begun_with(path, config)} {config.finetune.labels}"


def _statistics(contestant: Contestant) -> CodeStatistics:
    statistics: CodeStatistics = load(contestant, "cpu").fitted.statistics
    return statistics


def _global_step(contestant: Contestant) -> int:
    return load(contestant, "cpu").progress.global_step
