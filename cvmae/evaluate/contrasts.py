"""Figures of runs, what every subject adds to them, and differences between policies.

A slope, a mean or a ratio of sums comes with how far each subject moves it, to first order, and
`two_way` makes of that an interval over seeds and subjects, whatever the figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cvmae.arrays import Floats, Ints
from cvmae.evaluate.two_way import Estimate, Figure, Interval, Over, Runs, estimate

__all__ = ["Contrast", "contrast", "fit_slopes", "ratio", "total_by_subject"]

# Shape letters beside those of `cvmae.arrays`: T targets, K runs, P covariates.

Verdict = Literal["above", "below", "open", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A mean over the runs of one policy, or that minus the mean of another's.

    With fewer than three runs of a policy the interval is over subjects alone, there is no p, and
    the verdict is *undecided*. A baseline has no seeds: its interval is over subjects, and there is
    no verdict, which would be on a policy.
    """

    value: float
    interval: Interval  # 95%
    over: Over
    verdict: Verdict | None  # where the value lies, seen from zero; None of a baseline
    p: float  # that it is zero; NaN where seeds are too few to say
    num_seeds: int  # of the policy with fewer; 0 of a baseline
    num_subjects: int  # that move it


def contrast(
    figure: Figure, first: Sequence[int], second: Sequence[int] = (), *, is_trained: bool = True
) -> Contrast:
    """Return the mean of some runs, minus that of others if there are any.

    Args:
        figure: Of all runs.
        first: Columns of the runs of one policy.
        second: Columns of the other's.
        is_trained: False: the columns are a baseline's.
    """
    moves_S = np.any(figure.moved_SK != 0, axis=1)
    own = Figure(value_K=figure.value_K, moved_SK=figure.moved_SK[moves_S])
    groups = [
        Runs(columns=tuple(columns), is_trained=is_trained)
        for columns in (first, second)
        if len(columns)
    ]
    found = estimate(own, *groups)
    return Contrast(
        value=found.value,
        interval=found.interval,
        over=found.over,
        verdict=_verdict(found, groups) if is_trained else None,
        p=found.p,
        num_seeds=min(len(group.columns) for group in groups) if is_trained else 0,
        num_subjects=len(own.moved_SK),
    )


def _verdict(found: Estimate, groups: Sequence[Runs]) -> Verdict:
    if not all(group.are_enough for group in groups):
        return "undecided"
    low, high = found.interval
    return "above" if low > 0 else "below" if high < 0 else "open"


def ratio(numerator_SK: Floats, denominator_SK: Floats) -> Figure:
    """Return sum / sum over subjects, NaN where the denominator is 0.

    Args:
        numerator_SK: What each subject adds above the line.
        denominator_SK: What it adds below.
    """
    below_K = denominator_SK.sum(axis=0)
    safe_K = np.where(below_K != 0, below_K, np.nan)
    value_K = numerator_SK.sum(axis=0) / safe_K
    return Figure(value_K=value_K, moved_SK=(numerator_SK - value_K * denominator_SK) / safe_K)


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
        subject_T: Running number of its subject; errors are clustered by it.
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
        moved_SK = total_by_subject(subject_T, leverage_T[:, None] * residual_TK, num_subjects)
        figures.append(Figure(value_K=slope_PK[place], moved_SK=moved_SK))
    return figures


def _within(value_TK: Floats, group_T: Ints) -> Floats:
    """Take each group's mean out."""
    _, place_T = np.unique(group_T, return_inverse=True)
    count_G = np.bincount(place_T).astype(np.float64)
    means = [np.bincount(place_T, weights=column) / count_G for column in value_TK.T]
    return value_TK - np.stack(means, axis=1)[place_T] if len(value_TK) else value_TK
