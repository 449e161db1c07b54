"""Intervals of R2 over the choice of subjects, by resampling whole subjects.

A ratio of sums over few subjects is skewed, and its spread depends on which subjects were drawn.
Below `FEW_SUBJECTS` the bootstrap is therefore of t: each resample's distance from the estimate in
units of its own standard error (bootstrap-t). With more subjects the central 95% of the resamples
do as well. What such an interval covers is one set of weights on other subjects like these, not
other seeds of the same policy (see `two_way`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from cvmae.arrays import Bools, Floats, Ints
from cvmae.evaluate.reconstruction import Sums, r2_per_code
from cvmae.evaluate.seeds import CONFIDENCE
from cvmae.evaluate.two_way import Interval

__all__ = ["FEW_SUBJECTS", "Intervals", "bootstrap_intervals"]

# Shape letters beside those of `cvmae.arrays`: T resamples, K methods, R (subject, code) pairs,
# G figures: each code, all values pooled, the mean over counted codes.

FEW_SUBJECTS = 200
CHUNK_WEIGHTS = 4_000_000  # weights of resamples held at a time


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Of R2 of each method; no estimate lies beside its own."""

    pooled: tuple[Interval, ...]
    macro: tuple[Interval, ...]
    codes: tuple[tuple[Interval, ...], ...]  # of each code, of each method


def bootstrap_intervals(sums: Sums, counted_C: Bools, *, samples: int, seed: int) -> Intervals:
    """Draw subjects with replacement, score every method on each draw, and return intervals.

    Args:
        sums: Sums per subject and code.
        counted_C: Codes that enter the mean over codes.
        samples: Number of draws.
        seed: Seed of the draws.
    """
    subjects = _Subjects(sums, counted_C)
    drawn = [subjects.score(weights_TS) for weights_TS in subjects.draw(samples, seed)]
    value_TGK, error_TGK = (np.concatenate([one[part] for one in drawn]) for part in (0, 1))
    (value_GK,), (error_GK,) = subjects.score(np.ones((1, subjects.num_subjects)))
    found = [
        tuple(
            _interval(value_GK[g, k], value_TGK[:, g, k], error_GK[g, k], error_TGK[:, g, k])
            for k in range(value_GK.shape[1])
        )
        for g in range(len(value_GK))
    ]
    return Intervals(codes=tuple(found[:-2]), pooled=found[-2], macro=found[-1])


def _interval(value: float, value_T: Floats, error: float, error_T: Floats) -> Interval:
    """Return the interval of one figure: of t where standard errors are given, else central."""
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    if error == 0 and np.isfinite(value):  # the code mean scores 0 on whatever subjects
        return value, value
    if np.isfinite(error):
        use_T = np.isfinite(value_T) & (error_T > 0)
        if not use_T.any():
            return float("nan"), float("nan")
        t_T = (value_T[use_T] - value) / error_T[use_T]
        below, above = np.quantile(t_T, tails)
        low, high = value - above * error, value - below * error
    else:
        finite_T = value_T[np.isfinite(value_T)]
        if not len(finite_T) or not np.isfinite(value):
            return float("nan"), float("nan")
        low, high = np.quantile(finite_T, tails)
    # An R2 is at most 1; and an estimate beside its interval would be none.
    return float(min(low, value)), float(max(min(high, 1.0), value))


class _Subjects:
    """Sums of every subject by code and over all codes, ready to be weighted."""

    def __init__(self, sums: Sums, counted_C: Bools) -> None:
        own, subject_R = np.unique(sums.subject_R, return_inverse=True)
        self.num_subjects, self.num_methods = len(own), sums.error_RK.shape[1]
        self.counted = np.flatnonzero(counted_C)
        self.num_sums = sums.num_codes + 1  # the last one: of all codes
        pooled_RX = np.column_stack([sums.square_R, sums.error_RK])
        pooled_SX = np.stack(
            [np.bincount(subject_R, column, self.num_subjects) for column in pooled_RX.T], axis=1
        )
        sums_RX = np.concatenate([pooled_RX, pooled_SX])
        row_R = np.concatenate([subject_R, np.arange(self.num_subjects)])
        code_R = np.concatenate([sums.code_R, np.full(self.num_subjects, sums.num_codes)])
        self.first = self._matrix(row_R, code_R, sums_RX)
        subjects_C = np.bincount(code_R, minlength=self.num_sums)
        self.alone_C, few_C = subjects_C < 2, subjects_C < FEW_SUBJECTS
        self.is_few = bool(few_C[-1])
        few_R = few_C[code_R]
        square_R1, error_RK = sums_RX[few_R, :1], sums_RX[few_R, 1:]
        products_RX = np.column_stack([square_R1**2, square_R1 * error_RK, error_RK**2])
        self.second = self._matrix(row_R[few_R], code_R[few_R], products_RX)
        self.few_C = few_C

    def draw(self, samples: int, seed: int) -> Iterator[Floats]:
        """Yield how often each subject is drawn in some of the resamples ``[T, S]``."""
        rng = np.random.default_rng(seed)
        chunk = max(1, CHUNK_WEIGHTS // max(self.num_subjects, 1))
        shares = np.full(self.num_subjects, 1.0 / self.num_subjects)
        for done in range(0, samples, chunk):
            size = min(chunk, samples - done)
            yield rng.multinomial(self.num_subjects, shares, size=size).astype(np.float64)

    def score(self, weights_TS: Floats) -> tuple[Floats, Floats]:
        """Return R2 ``[T, G, K]`` and its standard error, NaN where subjects are many."""
        num_methods = self.num_methods
        first_TCX = self._weighted(self.first, weights_TS)
        square_TC, error_TCK = first_TCX[..., 0], first_TCX[..., 1:]
        r2_TCK = r2_per_code(error_TCK, square_TC)
        second_TCX = self._weighted(self.second, weights_TS)
        share_TCK = 1 - r2_TCK
        spread_TCK = (
            second_TCX[..., 1 + num_methods :]
            - 2 * share_TCK * second_TCX[..., 1 : 1 + num_methods]
            + share_TCK**2 * second_TCX[..., :1]
        )
        with np.errstate(invalid="ignore", divide="ignore"):  # codes that were not drawn
            deviation_TCK = np.sqrt(np.maximum(spread_TCK, 0.0)) / square_TC[..., None]
        deviation_TCK[:, ~self.few_C] = np.nan
        r2_TCK[:, self.alone_C] = np.nan  # one subject says nothing of others
        macro_T1K, error_T1K = self._macro(weights_TS, r2_TCK, square_TC)
        return (
            np.concatenate([r2_TCK, macro_T1K], axis=1),
            np.concatenate([deviation_TCK, error_T1K], axis=1),
        )

    def _macro(
        self, weights_TS: Floats, r2_TCK: Floats, square_TC: Floats
    ) -> tuple[Floats, Floats]:
        """Return the mean of R2 over counted codes, and its standard error where needed."""
        nothing = np.full((len(weights_TS), 1, self.num_methods), np.nan)
        if not len(self.counted):
            return nothing, nothing
        r2_TCK, square_TC = r2_TCK[:, self.counted], square_TC[:, self.counted]
        finite = np.isfinite(r2_TCK)
        total = np.where(finite, r2_TCK, 0.0).sum(axis=1, keepdims=True)
        macro_T1K = total / np.maximum(finite.sum(axis=1, keepdims=True), 1)
        if not self.is_few:
            return macro_T1K, nothing
        dense_SCX = self.first.toarray().reshape(self.num_subjects, self.num_sums, -1)
        dense_SCX = dense_SCX[:, self.counted]
        one_TC = np.divide(1.0, square_TC, out=np.zeros_like(square_TC), where=square_TC > 0)
        errors = []
        for k in range(self.num_methods):
            share_TC = np.where(finite[..., k], 1 - r2_TCK[..., k], 0.0) * one_TC
            moved_TS = share_TC @ dense_SCX[..., 0].T - one_TC @ dense_SCX[..., 1 + k].T
            errors.append(np.sqrt((weights_TS * moved_TS**2).sum(axis=1)) / len(self.counted))
        return macro_T1K, np.stack(errors, axis=1)[:, None]

    def _matrix(self, row_R: Ints, code_R: Ints, sums_RX: Floats) -> "sparse.csr_array":
        """Return a row per subject, and of each code its sums one after another."""
        num_columns = sums_RX.shape[1]
        place_RX = code_R[:, None] * num_columns + np.arange(num_columns)
        rows = np.broadcast_to(row_R[:, None], place_RX.shape)
        return sparse.csr_array(
            (sums_RX.ravel(), (rows.ravel(), place_RX.ravel())),
            shape=(self.num_subjects, self.num_sums * num_columns),
        )

    def _weighted(self, matrix: "sparse.csr_array", weights_TS: Floats) -> Floats:
        """Return the weighted sums over subjects ``[T, C + 1, X]``."""
        weighted = (matrix.T @ weights_TS.T).T
        return np.ascontiguousarray(weighted).reshape(len(weights_TS), self.num_sums, -1)
