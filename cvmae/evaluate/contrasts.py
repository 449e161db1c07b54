"""Figures of runs, what every subject adds to them, and differences between policies.

A figure (a slope, a ratio of sums, a mean) comes with its influence: what each subject moves it by,
to first order. Sums of squared influences are its variance over subjects, whatever the figure;
runs of one policy add the variance over seeds. So one contrast serves them all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from cvmae.arrays import Floats, Ints
from cvmae.evaluate.significance import Interval

__all__ = ["MIN_SEEDS", "Contrast", "Figure", "contrast", "fit_slopes", "ratio", "total_by_subject"]

# Shape letters beside those of `cvmae.arrays`: T targets, K runs, P covariates.

CONFIDENCE = 0.95
MIN_SEEDS = 3  # of each policy, for a claim about policies

Verdict = Literal["above", "below", "open", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of every run, and what each subject moves it by."""

    value_K: Floats
    influence_SK: Floats

    def take(self, columns: Ints) -> "Figure":
        """Return the figure of some runs."""
        return Figure(value_K=self.value_K[columns], influence_SK=self.influence_SK[:, columns])


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A mean over the runs of one policy, or that minus the mean of another's.

    Intervals are 95%. The one over seeds and subjects is what a claim about policies takes; with
    fewer than `MIN_SEEDS` runs of a policy there is none, and the verdict is *undecided*.
    """

    value: float
    over_subjects: Interval  # of these very runs
    over_seeds_and_subjects: Interval | None
    verdict: Verdict  # where zero lies
    p: float | None  # that it is zero, by t
    num_seeds: int  # of the policy with fewer
    num_subjects: int

    @property
    def interval(self) -> Interval:
        """Return the interval over seeds and subjects, or else that over subjects alone."""
        return self.over_seeds_and_subjects or self.over_subjects


def contrast(figure: Figure, first: Sequence[int], second: Sequence[int] = ()) -> Contrast:
    """Return the mean of some runs, minus that of others if there are any.

    The variance is that over subjects of the averaged runs, plus over seeds the variance of runs
    over their number, of either policy; t has Satterthwaite's degrees of freedom. What seeds and
    subjects share is counted in both parts, so intervals are a little wide rather than narrow.

    Args:
        figure: Of all runs.
        first: Columns of the runs of one policy.
        second: Columns of the other's.
    """
    groups = [np.asarray(columns, np.int64) for columns in (first, second) if len(columns)]
    signs = (1.0, -1.0)
    value = sum(s * figure.value_K[g].mean() for s, g in zip(signs, groups, strict=False))
    influence_S = np.sum(
        [s * figure.influence_SK[:, g].mean(axis=1) for s, g in zip(signs, groups, strict=False)],
        axis=0,
    )
    num_subjects = int(np.count_nonzero(np.any(figure.influence_SK != 0, axis=1)))
    few = min(len(columns) for columns in groups)
    missing = Contrast(
        value=float(value),
        over_subjects=(float("nan"), float("nan")),
        over_seeds_and_subjects=None,
        verdict="undecided",
        p=None,
        num_seeds=few,
        num_subjects=num_subjects,
    )
    if num_subjects < 2 or not math.isfinite(value):
        return missing
    parts = [(float((influence_S**2).sum()) * num_subjects / (num_subjects - 1), num_subjects - 1)]
    over_subjects = _interval(float(value), parts)
    if few < MIN_SEEDS:
        return Contrast(**{**vars(missing), "over_subjects": over_subjects})
    parts += [(float(figure.value_K[g].var(ddof=1)) / len(g), len(g) - 1) for g in groups]
    low, high = _interval(float(value), parts)
    variance, freedom = _combined(parts)
    deviation = abs(float(value)) / math.sqrt(variance) if variance > 0 else math.inf * abs(value)
    found = {
        "over_subjects": over_subjects,
        "over_seeds_and_subjects": (low, high),
        "verdict": "above" if low > 0 else "below" if high < 0 else "open",
        "p": float(2 * stats.t.sf(deviation, freedom)) if value else 1.0,
    }
    return Contrast(**{**vars(missing), **found})


def ratio(numerator_SK: Floats, denominator_SK: Floats) -> Figure:
    """Return sum / sum over subjects, NaN where the denominator is 0.

    Args:
        numerator_SK: What each subject adds above the line.
        denominator_SK: What it adds below.
    """
    below_K = denominator_SK.sum(axis=0)
    safe_K = np.where(below_K != 0, below_K, np.nan)
    value_K = numerator_SK.sum(axis=0) / safe_K
    return Figure(value_K=value_K, influence_SK=(numerator_SK - value_K * denominator_SK) / safe_K)


def total_by_subject(subject_T: Ints, value_TK: Floats, num_subjects: int) -> Floats:
    """Return sums per subject, shape [S, K]."""
    total_SK = np.zeros((num_subjects, value_TK.shape[1]))
    np.add.at(total_SK, subject_T, value_TK)
    return total_SK


def fit_slopes(
    error_TK: Floats, covariate_TP: Floats, group_T: Ints, subject_T: Ints, num_subjects: int
) -> list[Figure] | None:
    """Regress each run's errors on covariates, with an intercept for every group.

    Least squares is linear in the errors: the slope of a difference between policies is the
    difference of their slopes, and that of averaged seeds the average.

    Args:
        error_TK: Errors of the same targets by every run.
        covariate_TP: What they are regressed on.
        group_T: Group of each target (its code, say), whose own level is taken out.
        subject_T: Running number of its subject; influences are summed within subjects.
        num_subjects: S.

    Returns:
        A figure for each covariate; None where the covariates do not vary within groups, or one
        follows from the others.
    """
    x_TP, y_TK = _within(covariate_TP, group_T), _within(error_TK, group_T)
    if not len(x_TP) or np.linalg.matrix_rank(x_TP) < x_TP.shape[1]:
        return None
    inverse_PP = np.linalg.inv(x_TP.T @ x_TP)
    slope_PK = inverse_PP @ (x_TP.T @ y_TK)
    residual_TK = y_TK - x_TP @ slope_PK
    figures = []
    for place, row_P in enumerate(inverse_PP):
        leverage_T = x_TP @ row_P
        influence_SK = total_by_subject(subject_T, leverage_T[:, None] * residual_TK, num_subjects)
        figures.append(Figure(value_K=slope_PK[place], influence_SK=influence_SK))
    return figures


def _within(value_TK: Floats, group_T: Ints) -> Floats:
    """Take each group's mean out."""
    _, place_T = np.unique(group_T, return_inverse=True)
    count_G = np.bincount(place_T).astype(np.float64)
    means = [np.bincount(place_T, weights=column) / count_G for column in value_TK.T]
    return value_TK - np.stack(means, axis=1)[place_T] if len(value_TK) else value_TK


def _combined(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Return the sum of variances and Satterthwaite's degrees of freedom."""
    total = sum(variance for variance, _ in parts)
    spread = sum(variance**2 / freedom for variance, freedom in parts)
    return total, total**2 / spread if spread > 0 else 1.0


def _interval(value: float, parts: Sequence[tuple[float, int]]) -> Interval:
    variance, freedom = _combined(parts)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
    return value - reach, value + reach
