"""One target a pass: every chosen value is restored from several variants of its window.

The experiments on history (`context`, `perturbation`) say what the variants are; here they become
batches, many sequences each, and every model's errors.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cvmae.arrays import Bools, Float32s, Floats, Ints
from cvmae.batches.batch import join_cells
from cvmae.batches.cells import Cell, make_cell
from cvmae.batches.evaluation import EvaluationBatch
from cvmae.batches.keys import UInts
from cvmae.batches.masking import FixedMask
from cvmae.batches.sequences import Sequences
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.models import predictors
from cvmae.evaluate.reconstruction import Predict, method_errors
from cvmae.evaluate.targets import (
    Targets,
    Variant,
    Window,
    find_targets,
    smallest,
    window_of,
)
from cvmae.meds.dataset import Source
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_unit
from cvmae.meds.units import Unit
from cvmae.runtime.map_units import map_units
from cvmae.settings import ScalingConfig
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["Examination", "TargetErrors", "Vary", "restore_targets", "threshold"]

# Shape letters beside those of `cvmae.arrays`: T targets, X variants of each, K methods (runs of
# models, then baselines), L measurements of one window.

BATCH_MEASUREMENTS = 16_384

# Window, statistics of the reference, seed -> variants; None: the window does not allow that one.
Vary = Callable[[Window, CodeStatistics, int], Sequence[Variant | None]]


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Who is examined, on which data."""

    source: Source
    split: str
    seed: int
    sequence_length: int
    ratio: float  # hidden under the uniform mask
    contestants: tuple[Contestant, ...]  # with their last weights
    statistics: CodeStatistics  # errors are in its standard deviations
    device: str

    @property
    def runs(self) -> dict[str, list[int]]:
        """Return the columns of each name's runs."""
        columns: dict[str, list[int]] = {}
        for place, contestant in enumerate(self.contestants):
            columns.setdefault(contestant.name, []).append(place)
        return columns

    @property
    def predictors(self) -> list[Predict]:
        """Return what predicts as each contestant does, loaded once a process."""
        return predictors(self.contestants, self.statistics, self.device)

    def read(self, unit: Unit) -> Measurements:
        """Return a unit's measurements."""
        return read_unit(self.source, unit, self.statistics.lookup, self.split)[0]


@dataclass(frozen=True, kw_only=True)
class TargetErrors:
    """Absolute standardised errors; subjects are running numbers."""

    num_found: int  # targets, of which those below were taken
    num_subjects: int
    subject_T: Ints
    code_T: Ints
    num_prior_T: Ints
    error_TXK: Floats  # NaN where a variant is not possible


class _Pass(NamedTuple):
    """One sequence to restore one value of."""

    target: int
    variant: int
    code_L: Ints
    minutes_L: Ints
    time_us_L: Ints
    value_L: Float32s
    hidden_L: Bools


def restore_targets(
    examination: Examination,
    units: Sequence[Unit],
    scaling: ScalingConfig,
    *,
    label: str,
    min_priors: int,
    limit: int,
    num_variants: int,
    vary: Vary,
) -> TargetErrors:
    """Restore at most about `limit` targets from every variant of their windows.

    Args:
        examination: Models and data.
        units: All of the data set.
        scaling: How units are spread.
        label: What the progress bar says.
        min_priors: Earlier measurements of its code that a target needs.
        limit: Targets at most.
        num_variants: X.
        vary: Picklable, such as a module's function.
    """
    draw = functools.partial(_draws, examination=examination, min_priors=min_priors, limit=limit)
    drawn = list(map_units(draw, units, scaling, f"{label}: targets"))
    highest = threshold([draw_T for _, draw_T in drawn], limit)
    restore = functools.partial(
        _restore_unit,
        examination=examination,
        min_priors=min_priors,
        highest=highest,
        num_variants=num_variants,
        vary=vary,
    )
    parts = list(map_units(restore, units, scaling, label))
    firsts = np.cumsum([0, *(part.num_subjects for part in parts)])
    num_methods = len(examination.contestants) + len(BASELINES)
    none = np.zeros(0, np.int64)
    shifted = [part.subject_T + first for part, first in zip(parts, firsts, strict=False)]
    errors = [part.error_TXK for part in parts]
    return TargetErrors(
        num_found=sum(count for count, _ in drawn),
        num_subjects=int(firsts[-1]),
        subject_T=np.concatenate([none, *shifted]),
        code_T=np.concatenate([none, *(part.code_T for part in parts)]),
        num_prior_T=np.concatenate([none, *(part.num_prior_T for part in parts)]),
        error_TXK=np.concatenate([np.zeros((0, num_variants, num_methods)), *errors]),
    )


def threshold(draws: Sequence[UInts], limit: int) -> int:
    """Return the highest draw that is taken."""
    joined = np.concatenate([np.zeros(0, np.uint32), *draws])
    return int(smallest(joined, limit).max(initial=0))


def _draws(
    unit: Unit, *, examination: Examination, min_priors: int, limit: int
) -> tuple[int, UInts]:
    """Return how many targets a unit has, and the smallest draws among them."""
    draw_T = _targets(examination.read(unit), examination, min_priors).draw_T
    return len(draw_T), smallest(draw_T, limit)


def _targets(measurements: Measurements, examination: Examination, min_priors: int) -> Targets:
    return find_targets(
        measurements, examination.sequence_length, min_priors=min_priors, seed=examination.seed
    )


def _restore_unit(
    unit: Unit,
    *,
    examination: Examination,
    min_priors: int,
    highest: int,
    num_variants: int,
    vary: Vary,
) -> TargetErrors:
    measurements = examination.read(unit)
    found = _targets(measurements, examination, min_priors)
    targets = found.take(found.draw_T <= highest)
    subjects, subject_T = np.unique(targets.subject_id_T, return_inverse=True)
    num_methods = len(examination.contestants) + len(BASELINES)
    error_TXK = np.full((len(targets.index_T), num_variants, num_methods), np.nan)
    for passes in _filled(_passes(measurements, targets, examination, vary)):
        batch = _batch(passes, examination.statistics)
        owner, variant = (np.array(column) for column in list(zip(*passes, strict=True))[:2])
        error_TXK[owner, variant] = np.abs(method_errors(batch, examination.predictors))
    return TargetErrors(
        num_found=len(found.index_T),
        num_subjects=len(subjects),
        subject_T=subject_T.astype(np.int64),
        code_T=targets.code_T,
        num_prior_T=targets.num_prior_T,
        error_TXK=error_TXK,
    )


def _passes(
    measurements: Measurements, targets: Targets, examination: Examination, vary: Vary
) -> Iterator[_Pass]:
    """Yield every variant of every target; hours count from the whole window's first."""
    nothing = FixedMask(hidden_M=np.zeros(len(measurements.code_index_N), bool))
    for number in range(len(targets.index_T)):
        window = window_of(measurements, targets, number)
        start, end = int(targets.start_T[number]), int(targets.end_T[number])
        alone = Sequences(
            subject_id_W=targets.subject_id_T[[number]],
            start_W=np.array([start]),
            length_W=np.array([end - start]),
            first_position_W=targets.first_position_T[[number]],
        )
        cell = make_cell(measurements, alone, examination.statistics, nothing)
        hidden_L = np.arange(end - start) == window.place
        time_us_L = measurements.time_us_N[start:end]
        for place, variant in enumerate(vary(window, examination.statistics, examination.seed)):
            if variant is not None:
                kept_L = variant.kept_L
                yield _Pass(
                    target=number,
                    variant=place,
                    code_L=window.code_L[kept_L],
                    minutes_L=cell.minutes_N[kept_L].astype(np.int64),
                    time_us_L=time_us_L[kept_L],
                    value_L=variant.value_L[kept_L],
                    hidden_L=hidden_L[kept_L],
                )


def _filled(passes: Iterator[_Pass]) -> Iterator[list[_Pass]]:
    """Gather passes until a batch is full; a longer sequence fills one alone."""
    gathered: list[_Pass] = []
    size = 0
    for one in passes:
        if gathered and size + len(one.code_L) > BATCH_MEASUREMENTS:
            yield gathered
            gathered, size = [], 0
        gathered.append(one)
        size += len(one.code_L)
    if gathered:
        yield gathered


def _batch(passes: Sequence[_Pass], statistics: CodeStatistics) -> EvaluationBatch:
    code_N = np.concatenate([one.code_L for one in passes]).astype(np.int32)
    value_N = np.concatenate([one.value_L for one in passes])
    hidden_N = np.concatenate([one.hidden_L for one in passes])
    cell = Cell(
        length_W=np.array([len(one.code_L) for one in passes], np.int32),
        code_index_N=code_N.astype(np.uint16),
        minutes_N=np.concatenate([one.minutes_L for one in passes]).astype(np.int32),
        value_N=statistics.standardise(code_N, value_N),
        hidden_N=hidden_N,
    )
    return EvaluationBatch(
        batch=join_cells([cell]),
        subject_id_B=np.array([one.target for one in passes]),
        code_index_N=code_N,
        numeric_value_N=value_N,
        time_us_N=np.concatenate([one.time_us_L for one in passes]),
        scored_M=np.ones(len(passes), bool),
    )
