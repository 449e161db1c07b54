"""How sure a difference between policies is: over seeds and subjects at once.

A figure of a run (R2 pooled, of a code, or its mean over codes) varies with the run's seed and
with the subjects that happen to be in the split. Both are crossed: every run restores the same
values. With u[s, j] for how far subject s moves the figure of run j (linearised, so that the
sum over subjects is 0), the variance of a difference of means over runs has two parts:

* seeds: the variance of each policy's runs about their mean, over their number;
* subjects: the squares of the mean u of one policy minus the other's, which holds what subjects
  have in common for all runs, and once more each run's own luck with them. The latter is in the
  seeds' part already and is taken off; what is left is never counted below 0.

Degrees of freedom are Satterthwaite's. With fewer than `MIN_SEEDS` runs of a policy nothing is
known of seeds: the interval is over subjects alone, and there is no p for a claim about policies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from cvmae.arrays import Bools, Floats, Ints
from cvmae.evaluate.reconstruction import Sums
from cvmae.evaluate.seeds import CONFIDENCE, MIN_SEEDS

__all__ = [
    "Estimate",
    "Figure",
    "Interval",
    "Over",
    "Runs",
    "by_t",
    "code_figures",
    "estimate",
    "macro_figure",
    "pooled_figure",
]

Interval = tuple[float, float]  # low, high; NaN where there is nothing to tell
Over = Literal["seeds and subjects", "subjects"]

# Shape letters beside those of `cvmae.arrays`: R (subject, code) pairs, K runs, then baselines.


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of every run, and how far each subject moves it."""

    value_K: Floats
    moved_SK: Floats  # adds up to 0 over subjects; only those with a scored value


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The columns of one policy's runs, or that of a baseline, which has no seeds."""

    columns: tuple[int, ...]
    is_trained: bool = True

    @property
    def are_enough(self) -> bool:
        """Tell whether seeds can be told from policies."""
        return not self.is_trained or len(self.columns) >= MIN_SEEDS


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over runs, or a difference of two, with its t interval."""

    value: float
    interval: Interval
    over: Over
    degrees_of_freedom: float
    p: float  # two-sided, that it is 0; NaN where seeds are too few to say


def pooled_figure(sums: Sums) -> Figure:
    """Return R2 over all values."""
    columns_RX = np.column_stack([sums.square_R, sums.error_RK])
    own, subject_R = np.unique(sums.subject_R, return_inverse=True)
    columns_SX: Floats = np.zeros((len(own), columns_RX.shape[1]))
    np.add.at(columns_SX, subject_R, columns_RX)
    return _ratio(columns_SX[:, 1:], columns_SX[:, 0])


def code_figures(sums: Sums) -> tuple[Figure, ...]:
    """Return R2 of every code; NaN where there is none."""
    return tuple(_ratio(sums.error_RK[own], sums.square_R[own]) for own in _pairs_of_codes(sums))


def macro_figure(sums: Sums, codes: Sequence[Figure], counted_C: Bools) -> Figure:
    """Return the mean of R2 over counted codes, NaN where there is none.

    Args:
        sums: Of which the codes are.
        codes: Their figures.
        counted_C: Which of them to average.
    """
    num_methods = sums.error_RK.shape[1]
    counted = np.flatnonzero(counted_C).tolist()
    moved_SK = np.zeros((sums.num_subjects, num_methods))
    has_value_S = np.zeros(sums.num_subjects, dtype=np.bool_)
    pairs = _pairs_of_codes(sums)
    for code in counted:
        subjects = sums.subject_R[pairs[code]]
        moved_SK[subjects] += codes[code].moved_SK / len(counted)  # once a subject and code
        has_value_S[subjects] = True
    value_K = np.full(num_methods, np.nan)
    if len(counted):
        value_K = np.mean([codes[code].value_K for code in counted], axis=0)
    return Figure(value_K=value_K, moved_SK=moved_SK[has_value_S])


def estimate(figure: Figure, first: Runs, second: Runs | None = None) -> Estimate:
    """Estimate the mean of a figure over the first's runs, minus that over the second's.

    Args:
        figure: Of all runs.
        first: Whose runs.
        second: Whose are taken off; None: nobody's.
    """
    groups = [first] if second is None else [first, second]
    value, moved_S = 0.0, np.zeros(len(figure.moved_SK))
    for group, sign in zip(groups, (1.0, -1.0), strict=False):
        own = list(group.columns)
        value += sign * float(figure.value_K[own].mean())
        moved_S += sign * figure.moved_SK[:, own].mean(axis=1)
    num_subjects = len(figure.moved_SK)
    enough = all(group.are_enough for group in groups)
    over: Over = "seeds and subjects" if any(g.is_trained for g in groups) else "subjects"
    over = over if enough else "subjects"
    if num_subjects < 2 or not np.isfinite(value):
        nothing = float("nan")
        return Estimate(
            value=value,
            interval=(nothing, nothing),
            over=over,
            degrees_of_freedom=nothing,
            p=nothing,
        )
    bessel = num_subjects / (num_subjects - 1)
    subjects = bessel * float((moved_S**2).sum())
    parts, both = [], 0.0
    for group in groups if over == "seeds and subjects" else ():
        if group.is_trained:
            parts.append((_seeds(figure, group), len(group.columns) - 1))
            both += bessel * _interaction(figure, group)
    parts.append((max(0.0, subjects - both), num_subjects - 1))
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / own for part, own in parts)
    return by_t(value, variance, spread, over, has_p=enough)


def by_t(
    value: float, variance: float, spread: float, over: Over, *, has_p: bool = True
) -> Estimate:
    """Return an estimate by Student's t with Satterthwaite's degrees of freedom.

    Args:
        value: What is estimated.
        variance: Of it.
        spread: Sum, over the parts of the variance, of their squares over their own freedom.
        over: What the variance is over.
        has_p: False where seeds are too few to say.
    """
    if variance > 0:
        freedom, error = variance**2 / spread, float(np.sqrt(variance))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
        p = 2 * float(stats.t.sf(abs(value) / error, freedom))
    else:  # the same run twice, or baselines that agree
        freedom, half, p = float("nan"), 0.0, float(value == 0)
    return Estimate(
        value=value,
        interval=(value - half, value + half),
        over=over,
        degrees_of_freedom=float(freedom),
        p=p if has_p else float("nan"),
    )


def _pairs_of_codes(sums: Sums) -> list[Ints]:
    """Return where the pairs of each code stand."""
    order: Ints = np.argsort(sums.code_R, kind="stable").astype(np.int64)
    ends = np.cumsum(np.bincount(sums.code_R, minlength=sums.num_codes))
    return np.split(order, ends[:-1])


def _ratio(error_SK: Floats, square_S: Floats) -> Figure:
    """Return 1 - SSE / (sum of z^2) and its derivative by each subject's weight."""
    total = square_S.sum()
    if not total > 0:
        return Figure(
            value_K=np.full(error_SK.shape[1], np.nan), moved_SK=np.full_like(error_SK, np.nan)
        )
    share_K = error_SK.sum(axis=0) / total
    return Figure(value_K=1 - share_K, moved_SK=(share_K * square_S[:, None] - error_SK) / total)


def _seeds(figure: Figure, group: Runs) -> float:
    """Return the variance of a policy's mean over runs, as they differ on these subjects."""
    values = figure.value_K[list(group.columns)]
    return float(np.var(values, ddof=1)) / len(values)


def _interaction(figure: Figure, group: Runs) -> float:
    """Return the part of it that comes from each run's own luck with subjects."""
    moved = figure.moved_SK[:, list(group.columns)]
    own: Floats = moved - moved.mean(axis=1, keepdims=True)
    num_runs = len(group.columns)
    return float(np.sum(own**2)) / (num_runs * (num_runs - 1))
