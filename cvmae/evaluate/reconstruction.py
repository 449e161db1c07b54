"""Reconstruction of hidden values: predictions of every method, summed per subject and code.

Errors are on standardised values of the reference statistics, about clipped targets. Sums per
(subject, code) are all that leaves a unit: they give every score, and resampling subjects gives
every interval. Subjects are numbered in the order of their ids, whatever unit they came in, so that
a resample draws the same ones however rows are cut into units; joined sums know numbers alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Bools, Floats, Ints
from cvmae.batches.code_metrics import total_squares
from cvmae.batches.evaluation import EvaluationBatch
from cvmae.evaluate.baselines import BASELINES, predict_baselines

__all__ = [
    "Predict",
    "Scores",
    "Sums",
    "add_batches",
    "average_runs",
    "merge",
    "method_errors",
    "r2_per_code",
    "scores",
]

Predict = Callable[[EvaluationBatch], npt.NDArray[np.floating]]

# Shape letters: B sequences, N measurements, M hidden ones, R (subject, code) pairs, C codes,
# K methods (runs of models, then baselines), X sums.

# What a code needs beside scored values to be averaged with others: one lab of a handful of
# subjects, or whose values hardly differ, has an R2 of -40 by chance and decides every mean.
MIN_SUBJECTS = 30
MIN_DEVIATION = 0.1  # of the scored values, in standard deviations of train


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums over scored hidden values, per (subject, code) pair and per code."""

    num_subjects: int
    num_sequences: int
    num_hidden: int
    num_twins: int  # hidden values not scored: same subject, time and code as another row
    measurements_C: Ints  # all measurements seen, visible and hidden
    subject_R: Ints  # running number of the subject
    code_R: Ints
    count_R: Floats  # scored values
    sum_R: Floats  # of their standardised targets
    square_R: Floats  # of their squares
    error_RK: Floats  # squared error, summed
    absolute_CK: Floats  # absolute error, summed
    # In memory only, for `merge`: of a unit's subjects, ascending. None where units were joined.
    subject_id_S: Ints | None = field(default=None, repr=False)

    @property
    def num_codes(self) -> int:
        """Return the size of the vocabulary."""
        return len(self.measurements_C)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the sums say; NaN where nothing was scored."""

    count_C: Ints
    subjects_C: Ints  # subjects with a scored value
    counted_C: Bools  # codes that enter averages over codes and comparisons
    left_out_C: tuple[str, ...]  # why a code is not counted, "" where it is
    r2_CK: Floats  # about the mean on train
    classical_CK: Floats  # R2 about the mean of the scored values
    mean_absolute_error_CK: Floats  # standardised
    root_mean_squared_error_CK: Floats  # standardised
    pooled_K: Floats
    classical_pooled_K: Floats
    macro_K: Floats  # mean over counted codes
    median_K: Floats  # over the same


def add_batches(
    batches: Iterable[EvaluationBatch], predictors: Sequence[Predict], num_codes: int
) -> Sums:
    """Predict every hidden value by every method and sum the errors of one unit.

    Args:
        batches: Whole sequences with their hidden values; a subject may span batches.
        predictors: Each returns standardised predictions ``[M]`` for a batch; the baselines
            are added behind them.
        num_codes: Size of the vocabulary.
    """
    parts: list[dict[str, npt.NDArray[Any]]] = []
    measurements_C, num_sequences, num_hidden = np.zeros(num_codes, dtype=np.int64), 0, 0
    seen: list[Ints] = []
    for batch in batches:
        measurements_C += np.bincount(batch.code_index_N, minlength=num_codes)
        num_sequences += len(batch.subject_id_B)
        num_hidden += len(batch.scored_M)
        seen.append(np.unique(batch.subject_id_B))
        parts.append(_errors(batch, predictors))
    num_methods = len(predictors) + len(BASELINES)
    subjects = np.unique(np.concatenate(seen)) if seen else np.zeros(0, dtype=np.int64)
    joined = _concatenate(parts, num_methods)
    pair_M = np.searchsorted(subjects, joined["subject_id"]) * num_codes + joined["code"]
    pair_R, place_M = np.unique(pair_M, return_inverse=True)
    target, error = joined["target"], joined["error"]

    return Sums(
        num_subjects=len(subjects),
        num_sequences=num_sequences,
        num_hidden=num_hidden,
        num_twins=num_hidden - len(target),
        measurements_C=measurements_C,
        subject_R=pair_R // num_codes,
        code_R=pair_R % num_codes,
        count_R=_total(place_M, np.ones_like(target), len(pair_R)),
        sum_R=_total(place_M, target, len(pair_R)),
        square_R=_total(place_M, target**2, len(pair_R)),
        error_RK=_totals(place_M, error**2, len(pair_R)),
        absolute_CK=_totals(joined["code"], np.abs(error), num_codes),
        subject_id_S=subjects,
    )


def method_errors(batch: EvaluationBatch, predictors: Sequence[Predict]) -> Floats:
    """Return the standardised errors of every method at all hidden values, shape [M, K]."""
    value_N, hidden_M = batch.batch.value_N.numpy(), batch.batch.hidden_M.numpy()
    hidden_N = np.zeros(len(value_N), dtype=np.bool_)
    hidden_N[hidden_M] = True
    baselines_MK = predict_baselines(
        sequence_N=_sequence_of(batch),
        code_index_N=batch.code_index_N,
        time_us_N=batch.time_us_N,
        value_N=value_N,
        hidden_N=hidden_N,
    )
    models_MK = [np.asarray(predict(batch), dtype=np.float64) for predict in predictors]
    predicted_MK = np.column_stack([*models_MK, baselines_MK])
    return np.asarray(predicted_MK - value_N[hidden_M].astype(np.float64)[:, None])


def _sequence_of(batch: EvaluationBatch) -> Ints:
    """Return which sequence each measurement is of."""
    lengths_B = batch.batch.num_visible_B + batch.batch.num_hidden_B
    return np.repeat(np.arange(len(lengths_B)), lengths_B)


def _errors(batch: EvaluationBatch, predictors: Sequence[Predict]) -> dict[str, npt.NDArray[Any]]:
    """Return subject, code, target and error of every method, for the scored hidden values."""
    index_M = batch.batch.hidden_M.numpy()[batch.scored_M]
    return {
        "subject_id": batch.subject_id_B[_sequence_of(batch)[index_M]],
        "code": np.asarray(batch.code_index_N, dtype=np.int64)[index_M],
        "target": batch.batch.value_N.numpy()[index_M].astype(np.float64),
        "error": method_errors(batch, predictors)[batch.scored_M],
    }


def _concatenate(
    parts: Sequence[dict[str, npt.NDArray[Any]]], num_methods: int
) -> dict[str, npt.NDArray[Any]]:
    empty = {
        "subject_id": np.zeros(0, dtype=np.int64),
        "code": np.zeros(0, dtype=np.int64),
        "target": np.zeros(0),
        "error": np.zeros((0, num_methods)),
    }
    return {name: np.concatenate([none, *(p[name] for p in parts)]) for name, none in empty.items()}


def _total(place_M: Ints, values_M: Floats, length: int) -> Floats:
    return np.bincount(place_M, weights=values_M, minlength=length).astype(np.float64)


def _totals(place_M: Ints, values_MK: Floats, length: int) -> Floats:
    return np.stack([_total(place_M, values_M, length) for values_M in values_MK.T], axis=1)


def merge(parts: Iterable[Sums]) -> Sums:
    """Join the sums of units, which share no subject, and forget the ids of subjects.

    Pairs stand by subject, then by code, whatever the order and the size of units.

    Raises:
        ValueError: There are no parts.
    """
    units = list(parts)
    if not units:
        raise ValueError("nothing to merge: the data set has no unit")
    subjects, subject_R = _renumbered(units)
    code_R = np.concatenate([unit.code_R for unit in units])
    order_R = np.lexsort((code_R, subject_R))
    return Sums(
        num_subjects=len(subjects),
        num_sequences=sum(unit.num_sequences for unit in units),
        num_hidden=sum(unit.num_hidden for unit in units),
        num_twins=sum(unit.num_twins for unit in units),
        measurements_C=np.sum([unit.measurements_C for unit in units], axis=0),
        subject_R=subject_R[order_R],
        code_R=code_R[order_R],
        count_R=np.concatenate([unit.count_R for unit in units])[order_R],
        sum_R=np.concatenate([unit.sum_R for unit in units])[order_R],
        square_R=np.concatenate([unit.square_R for unit in units])[order_R],
        error_RK=np.concatenate([unit.error_RK for unit in units])[order_R],
        absolute_CK=np.sum([unit.absolute_CK for unit in units], axis=0),
    )


def _renumbered(units: Sequence[Sums]) -> tuple[Ints, Ints]:
    """Return all subjects in the order of their ids, and the place of each pair's among them."""
    ids = []
    for unit in units:
        assert unit.subject_id_S is not None, "sums that were joined are not joined again"
        ids.append(unit.subject_id_S)
    subjects = np.unique(np.concatenate(ids))
    own = [np.searchsorted(subjects, id_S)[u.subject_R] for u, id_S in zip(units, ids, strict=True)]
    return subjects, np.concatenate(own)


def average_runs(sums: Sums, names: Sequence[str]) -> tuple[Sums, tuple[str, ...]]:
    """Average the errors of methods that share a name (seeds), in order of first appearance.

    R2 is linear in the error, so the R2 of averaged errors is the mean R2 of the runs.
    """
    unique = tuple(dict.fromkeys(names))
    share_KK = np.array([[float(name == group) for group in unique] for name in names])
    share_KK /= share_KK.sum(axis=0)
    changed = {
        "error_RK": sums.error_RK @ share_KK,
        "absolute_CK": sums.absolute_CK @ share_KK,
    }
    return Sums(**{**vars(sums), **changed}), unique


def scores(sums: Sums, *, min_scored: int) -> Scores:
    """Score every method, pooled over values, averaged over codes, and code by code.

    R2 is 1 - SSE / (sum of z^2): the share of the squared error of the code's mean on train that
    is taken away. A mean that is fixed beforehand makes it a ratio of two sums over subjects: the
    code mean scores exactly 0, and resampling subjects does not move what it is measured from.

    Args:
        sums: Of one set of hidden values.
        min_scored: Scored values from which a code is counted.
    """
    columns_RX = np.column_stack([sums.count_R, sums.sum_R, sums.square_R, sums.error_RK])
    totals_CX = _totals(sums.code_R, columns_RX, sums.num_codes)
    count_C, sum_C, square_C = totals_CX.T[:3]
    error_CK = totals_CX[:, 3:]
    pooled_X = totals_CX.sum(axis=0)  # in one go: equal sums stay equal to the last bit
    about_own_C = total_squares(count_C, sum_C, square_C)
    subjects_C = np.bincount(sums.code_R, minlength=sums.num_codes)
    left_out_C = _left_out(count_C, subjects_C, about_own_C, min_scored)
    counted_C = np.array([not reason for reason in left_out_C])
    r2_CK = r2_per_code(error_CK, square_C)
    at_least_one = np.where(count_C > 0, count_C, np.nan)[:, None]
    no_code = np.full(error_CK.shape[1], np.nan)
    return Scores(
        count_C=count_C.astype(np.int64),
        subjects_C=subjects_C,
        counted_C=counted_C,
        left_out_C=left_out_C,
        r2_CK=r2_CK,
        classical_CK=r2_per_code(error_CK, about_own_C),
        mean_absolute_error_CK=sums.absolute_CK / at_least_one,
        root_mean_squared_error_CK=np.sqrt(error_CK / at_least_one),
        pooled_K=r2_per_code(pooled_X[3:], pooled_X[2]),
        classical_pooled_K=r2_per_code(pooled_X[3:], about_own_C.sum()),
        macro_K=r2_CK[counted_C].mean(axis=0) if counted_C.any() else no_code,
        median_K=np.median(r2_CK[counted_C], axis=0) if counted_C.any() else no_code,
    )


def _left_out(
    count_C: Floats, subjects_C: Ints, about_own_C: Floats, min_scored: int
) -> tuple[str, ...]:
    """Say of each code why it is left out of averages over codes, "" where it is not."""
    deviation_C = np.sqrt(np.divide(about_own_C, count_C, out=about_own_C * 0, where=count_C > 0))
    reasons = (
        (count_C == 0, "no scored value"),
        (count_C < min_scored, f"fewer than {min_scored} scored values"),
        (subjects_C < MIN_SUBJECTS, f"fewer than {MIN_SUBJECTS} subjects"),
        (deviation_C < MIN_DEVIATION, f"less than {MIN_DEVIATION:g} train deviations of spread"),
    )
    return tuple(
        next((said for applies_C, said in reasons if applies_C[code]), "")
        for code in range(len(count_C))
    )


def r2_per_code(error_K: Floats, total: Floats | float) -> Floats:
    """Return 1 - SSE / SST over the last axis's methods; NaN where SST is 0."""
    total_1 = np.asarray(total)[..., None] * np.ones_like(error_K)
    ratio = np.divide(error_K, total_1, out=np.full_like(error_K, np.nan), where=total_1 > 0)
    return 1.0 - ratio
