"""Is a difference between two models more than luck: over codes, and over subjects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse, stats

from cvmae.arrays import Bools, Floats
from cvmae.batches.code_metrics import total_squares
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.reconstruction import Sums, r2_per_code

__all__ = [
    "Comparison",
    "Correlation",
    "Interval",
    "Resampled",
    "cohens_d",
    "compare",
    "correlate",
    "interval",
    "resample",
    "wilcoxon_p",
]

Interval = tuple[float, float]  # low, high; NaN where nothing was to be resampled

# Shape letters beside those of `cvmae.arrays`: T resamples, K methods, R (subject, code) pairs.

CONFIDENCE = 0.95
CHUNK = 100  # resamples at a time: bounds the memory of their weights


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """Scores in resamples of the subjects; rows are paired over methods and codes."""

    pooled_TK: Floats
    macro_TK: Floats
    r2_TCK: Floats


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The first method minus the second: over codes, and over subjects.

    A code is *clearly* better where the 95% interval of its R2 difference over resampled
    subjects excludes zero. NaN where there is no code to compare on.
    """

    first: str
    second: str
    kind: Literal["model", "baseline"]  # of the first
    num_codes: int
    wins: int
    losses: int
    win_rate: float
    clear_wins: int
    clear_losses: int
    wilcoxon_p: float
    wilcoxon_p_bonferroni: float
    cohens_d: float
    pooled_difference: float
    pooled_interval: Interval
    macro_difference: float
    macro_interval: Interval
    difference: tuple[float, ...]  # of R2, of each code, as the next two
    difference_low: tuple[float, ...]
    difference_high: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Pearson's r and its two-sided p; NaN for fewer than three pairs or no spread."""

    r: float
    p: float
    num_codes: int  # finite pairs


def resample(sums: Sums, counted_C: Bools, *, samples: int, seed: int) -> Resampled:
    """Draw subjects with replacement and score every method on each draw.

    Args:
        sums: Sums per subject and code.
        counted_C: Codes that enter the macro average.
        samples: Number of draws.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    num_codes, num_methods = sums.num_codes, sums.error_RK.shape[1]
    columns = np.column_stack([sums.count_R, sums.sum_R, sums.square_R, sums.error_RK])
    # One sparse matrix: a row per subject, a block of C columns per kind of sum.
    place = sums.code_R[:, None] + num_codes * np.arange(columns.shape[1])[None, :]
    rows = np.broadcast_to(sums.subject_R[:, None], place.shape)
    matrix_S = sparse.csr_array(
        (columns.ravel(), (rows.ravel(), place.ravel())),
        shape=(sums.num_subjects, num_codes * columns.shape[1]),
    ).T.tocsr()
    pooled, macro, per_code = [], [], []
    shares = np.full(sums.num_subjects, 1.0 / max(sums.num_subjects, 1))
    for done in range(0, samples, CHUNK):
        weights = rng.multinomial(sums.num_subjects, shares, size=min(CHUNK, samples - done))
        flat = (matrix_S @ weights.T.astype(np.float64)).T
        drawn = flat.reshape(len(weights), 3 + num_methods, num_codes)
        total_TC = total_squares(drawn[:, 0], drawn[:, 1], drawn[:, 2])
        error_TCK = np.moveaxis(drawn[:, 3:], 1, 2)
        r2_TCK = r2_per_code(error_TCK, total_TC)
        pooled.append(r2_per_code(error_TCK.sum(axis=1), total_TC.sum(axis=1)))
        per_code.append(r2_TCK)
        macro.append(_mean(r2_TCK[:, counted_C], axis=1))
    return Resampled(
        pooled_TK=np.concatenate(pooled),
        macro_TK=np.concatenate(macro),
        r2_TCK=np.concatenate(per_code),
    )


def interval(draws_T: Floats) -> Interval:
    """Return the central 95% of the draws (NaN where none is finite)."""
    finite = draws_T[np.isfinite(draws_T)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def wilcoxon_p(difference_C: Floats) -> float:
    """Return the two-sided p of the signed-rank test that differences centre on zero."""
    # Without a non-zero difference there is nothing to rank, and scipy would return NaN.
    if not np.any(difference_C):
        return 1.0
    return float(stats.wilcoxon(difference_C).pvalue)


def cohens_d(difference_C: Floats) -> float:
    """Return the mean difference in units of the differences' standard deviation (paired d)."""
    if len(difference_C) < 2:
        return float("nan")
    spread = float(difference_C.std(ddof=1))
    return float(difference_C.mean()) / spread if spread > 0 else float("nan")


def correlate(x_C: Floats, y_C: Floats) -> Correlation:
    """Correlate two figures of codes over those that have both."""
    finite = np.isfinite(x_C) & np.isfinite(y_C)
    x, y = x_C[finite], y_C[finite]
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return Correlation(r=float("nan"), p=float("nan"), num_codes=len(x))
    result = stats.pearsonr(x, y)
    return Correlation(r=float(result.statistic), p=float(result.pvalue), num_codes=len(x))


def compare(
    names: Sequence[str],
    r2_CK: Floats,
    pooled_K: Floats,
    resampled: Resampled,
    counted_C: Bools,
    *,
    first: str,
    second: str,
    num_pairs: int,
) -> Comparison:
    """Compare two methods: over codes (win rate, Wilcoxon, d), and over subjects (intervals).

    Args:
        names: Of the K methods.
        r2_CK: R2 of every code and method.
        pooled_K: Pooled R2 of every method.
        resampled: The same in resamples of the subjects.
        counted_C: Codes to compare on.
        first: One of the names.
        second: Another of them.
        num_pairs: Comparisons that Wilcoxon's p is corrected for.
    """
    one, other = names.index(first), names.index(second)
    difference_C = (r2_CK[:, one] - r2_CK[:, other])[counted_C]
    draws_TC = (resampled.r2_TCK[..., one] - resampled.r2_TCK[..., other])[:, counted_C]
    bounds_C = np.array([interval(draws) for draws in draws_TC.T]).reshape(-1, 2)
    wins, p = int((difference_C > 0).sum()), wilcoxon_p(difference_C)
    return Comparison(
        first=first,
        second=second,
        kind="baseline" if first in BASELINES else "model",
        num_codes=len(difference_C),
        wins=wins,
        losses=int((difference_C < 0).sum()),
        win_rate=wins / len(difference_C) if len(difference_C) else float("nan"),
        clear_wins=int((bounds_C[:, 0] > 0).sum()),
        clear_losses=int((bounds_C[:, 1] < 0).sum()),
        wilcoxon_p=p,
        wilcoxon_p_bonferroni=min(1.0, p * num_pairs),
        cohens_d=cohens_d(difference_C),
        pooled_difference=float(pooled_K[one] - pooled_K[other]),
        pooled_interval=interval(resampled.pooled_TK[:, one] - resampled.pooled_TK[:, other]),
        macro_difference=float(_mean(difference_C, axis=0)),
        macro_interval=interval(resampled.macro_TK[:, one] - resampled.macro_TK[:, other]),
        difference=tuple(difference_C.tolist()),
        difference_low=tuple(bounds_C[:, 0].tolist()),
        difference_high=tuple(bounds_C[:, 1].tolist()),
    )


def _mean(values: Floats, axis: int) -> Floats:
    """Return the mean of the finite values along an axis, NaN (without a warning) for none."""
    finite = np.isfinite(values)
    count = finite.sum(axis=axis)
    total = np.where(finite, values, 0.0).sum(axis=axis)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))
