"""Hidden values of the uniform mask, one by one, with what was visible before them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Bools, Floats, Ints
from cvmae.batches.columns import has_twin
from cvmae.batches.evaluation import EvaluationBatch, evaluation_batch
from cvmae.batches.keys import UInts, counter_hash, stream_keys
from cvmae.batches.masking import FixedMask, evaluation_hidden
from cvmae.batches.sequences import Sequences, cut_windows
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.one_target import BATCH_MEASUREMENTS, Examination, threshold
from cvmae.evaluate.reconstruction import method_errors
from cvmae.evaluate.targets import smallest
from cvmae.meds.measurements import Measurements
from cvmae.meds.units import Unit
from cvmae.runtime.map_units import map_units
from cvmae.settings import ScalingConfig

__all__ = ["Observed", "observe", "visible_before"]

# Shape letters beside those of `cvmae.arrays`: T scored hidden values, K methods (runs of models,
# then baselines).


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Absolute standardised errors and context of hidden values; subjects are running numbers."""

    num_found: int  # windows, of which those below were taken
    num_windows: int
    num_subjects: int
    subject_T: Ints
    code_T: Ints
    prior_T: Ints  # visible earlier values of the code in the window
    length_T: Ints  # of the sequence
    error_TK: Floats


def observe(
    examination: Examination, units: Sequence[Unit], scaling: ScalingConfig, *, limit: int
) -> Observed:
    """Restore the hidden values of at most about `limit` windows, chosen by the seed."""
    draw = functools.partial(_draws, examination=examination, limit=limit)
    drawn = list(map_units(draw, units, scaling, "context: sequences"))
    highest = threshold([draw_W for _, draw_W in drawn], limit)
    one = functools.partial(_observe_unit, examination=examination, highest=highest)
    parts = list(map_units(one, units, scaling, "context: observed"))
    firsts = np.cumsum([0, *(part.num_subjects for part in parts)])
    none = np.zeros(0, np.int64)
    num_methods = len(examination.contestants) + len(BASELINES)
    shifted = [part.subject_T + first for part, first in zip(parts, firsts, strict=False)]
    return Observed(
        num_found=sum(count for count, _ in drawn),
        num_windows=sum(part.num_windows for part in parts),
        num_subjects=int(firsts[-1]),
        subject_T=np.concatenate([none, *shifted]),
        code_T=np.concatenate([none, *(part.code_T for part in parts)]),
        prior_T=np.concatenate([none, *(part.prior_T for part in parts)]),
        length_T=np.concatenate([none, *(part.length_T for part in parts)]),
        error_TK=np.concatenate([np.zeros((0, num_methods)), *(part.error_TK for part in parts)]),
    )


def visible_before(sequence_N: Ints, code_N: Ints, visible_N: Bools) -> Ints:
    """Return how many visible values of its code stand before each measurement of a sequence.

    Example:
        >>> visible_before(np.zeros(4, int), np.array([7, 7, 8, 7]), np.array([1, 0, 1, 1], bool))
        array([0, 1, 0, 1])
    """
    key_N = sequence_N * (int(code_N.max(initial=0)) + 1) + code_N
    order_N = np.argsort(key_N, kind="stable")
    shown_N = visible_N[order_N].astype(np.int64)
    before_N = np.cumsum(shown_N) - shown_N
    first_N = np.flatnonzero(np.r_[True, np.diff(key_N[order_N]) != 0][: len(key_N)])
    sizes = np.diff(np.r_[first_N, len(key_N)])
    counted_N = np.empty(len(key_N), np.int64)
    counted_N[order_N] = before_N - np.repeat(before_N[first_N], sizes)
    return counted_N


def _windows(measurements: Measurements, examination: Examination) -> tuple[Sequences, UInts]:
    """Return a unit's windows and their draws."""
    windows = cut_windows(measurements, examination.sequence_length)
    keys_W = stream_keys(examination.seed, 0, windows.subject_id_W, stream="choice")
    return windows, counter_hash(keys_W, windows.first_position_W)


def _draws(unit: Unit, *, examination: Examination, limit: int) -> tuple[int, UInts]:
    _, draw_W = _windows(examination.read(unit), examination)
    return len(draw_W), smallest(draw_W, limit)


def _observe_unit(unit: Unit, *, examination: Examination, highest: int) -> Observed:
    measurements = examination.read(unit)
    windows, draw_W = _windows(measurements, examination)
    chosen = windows.take(np.flatnonzero(draw_W <= highest))
    hidden_M = evaluation_hidden(measurements, ratio=examination.ratio, seed=examination.seed)
    mask, twin_N = FixedMask(hidden_M=hidden_M), has_twin(measurements)
    subjects = np.unique(chosen.subject_id_W)
    columns: list[list[npt.NDArray[Any]]] = [[] for _ in range(5)]
    for index in chosen.in_batches(BATCH_MEASUREMENTS):
        own = chosen.take(index)
        batch = evaluation_batch(measurements, own, mask, twin_N, examination.statistics)
        for column, part in zip(columns, _rows(batch, own, examination), strict=True):
            column.append(part)
    num_methods = len(examination.contestants) + len(BASELINES)
    none = np.zeros(0, np.int64)
    subject_id_T, code_T, prior_T, length_T = (
        np.concatenate([none, *parts]) for parts in columns[:4]
    )
    return Observed(
        num_found=windows.num_sequences,
        num_windows=chosen.num_sequences,
        num_subjects=len(subjects),
        subject_T=np.searchsorted(subjects, subject_id_T),
        code_T=code_T,
        prior_T=prior_T,
        length_T=length_T,
        error_TK=np.concatenate([np.zeros((0, num_methods)), *columns[4]]),
    )


def _rows(
    batch: EvaluationBatch, windows: Sequences, examination: Examination
) -> tuple[Ints, Ints, Ints, Ints, Floats]:
    """Return subject, code, prior values, length and errors of a batch's scored hidden values."""
    sequence_N = np.repeat(np.arange(windows.num_sequences), windows.length_W)
    code_N = batch.code_index_N.astype(np.int64)
    hidden_M = batch.batch.hidden_M.numpy()
    visible_N = np.ones(len(code_N), bool)
    visible_N[hidden_M] = False
    scored_T = hidden_M[batch.scored_M]
    sequence_T = sequence_N[scored_T]
    return (
        windows.subject_id_W[sequence_T],
        code_N[scored_T],
        visible_before(sequence_N, code_N, visible_N)[scored_T],
        windows.length_W[sequence_T],
        np.abs(method_errors(batch, examination.predictors)[batch.scored_M]),
    )
