"""Scores of predictions under weights: one sort serves every resample of the subjects.

A resample of subjects is a row of weights (how often a subject was drawn, for each of its labels),
and a score under weights equals the score of the rows repeated so often.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cvmae.arrays import Bools, Floats, Ints

__all__ = [
    "BOOLEAN_SCORES",
    "NUMBER_SCORES",
    "RANGE_OF",
    "CalibrationBin",
    "WeightedScore",
    "calibration_curve",
    "calibration_line",
    "log_loss",
    "weighted_auprc",
    "weighted_auroc",
    "weighted_r2",
    "weighted_rank_correlation",
]

# Shape letters: L labels, T rows of weights, G groups of equal predictions, ascending.

WeightedScore = Callable[[Floats, Floats, Floats], Floats]  # outcome_L, predicted_L, weight_TL -> T

SMALLEST_CHANCE = 1e-6  # chances are kept from 0 and 1 by this, where their logarithm is taken
MOST_STEPS = 50  # of Newton's method, which has no end where outcomes are separated


def weighted_auroc(outcome_L: Floats, predicted_L: Floats, weight_TL: Floats) -> Floats:
    """Return the area under the ROC curve of each row of weights, ties by half.

    NaN where a row gives no weight to positive or none to negative labels.

    Example:
        >>> weighted_auroc(np.array([0, 1, 1]), np.array([0.2, 0.9, 0.1]), np.ones((1, 3)))
        array([0.5])
    """
    positive_TG, negative_TG = _by_prediction(outcome_L, predicted_L, weight_TL)
    below_TG = negative_TG.cumsum(axis=1) - negative_TG
    won_T = ((below_TG + negative_TG / 2) * positive_TG).sum(axis=1)
    return _ratio(won_T, positive_TG.sum(axis=1) * negative_TG.sum(axis=1))


def weighted_auprc(outcome_L: Floats, predicted_L: Floats, weight_TL: Floats) -> Floats:
    """Return the average precision of each row of weights: precision, averaged over recall.

    NaN where a row gives no weight to positive or none to negative labels, as `weighted_auroc`.
    """
    positive_TG, negative_TG = _by_prediction(outcome_L, predicted_L, weight_TL)
    positive_TG, negative_TG = positive_TG[:, ::-1], negative_TG[:, ::-1]  # highest first
    found_TG = positive_TG.cumsum(axis=1)
    precision_TG = _ratio(found_TG, found_TG + negative_TG.cumsum(axis=1))
    total_T = positive_TG.sum(axis=1)
    # Where nothing has weight yet there is no precision, and nothing positive to weigh it.
    summed_T = (np.nan_to_num(precision_TG) * positive_TG).sum(axis=1)
    return np.where(negative_TG.sum(axis=1) > 0, _ratio(summed_T, total_T), np.nan)


def weighted_r2(outcome_L: Floats, predicted_L: Floats, weight_TL: Floats) -> Floats:
    """Return 1 - SSE / SST of each row of weights, SST about 0: give outcomes less train's mean.

    So the mean of train scores exactly 0, whatever the mean of the labels that are scored.
    """
    return 1.0 - _ratio(weight_TL @ (outcome_L - predicted_L) ** 2, weight_TL @ outcome_L**2)


def weighted_rank_correlation(outcome_L: Floats, predicted_L: Floats, weight_TL: Floats) -> Floats:
    """Return Spearman's rank correlation of each row of weights, ties by mean rank."""
    one_TL = _weighted_ranks(outcome_L, weight_TL)
    other_TL = _weighted_ranks(predicted_L, weight_TL)
    total_T1 = weight_TL.sum(axis=1, keepdims=True)
    one_TL -= (weight_TL * one_TL).sum(axis=1, keepdims=True) / total_T1
    other_TL -= (weight_TL * other_TL).sum(axis=1, keepdims=True) / total_T1
    together_T = (weight_TL * one_TL * other_TL).sum(axis=1)
    spread_T = (weight_TL * one_TL**2).sum(axis=1) * (weight_TL * other_TL**2).sum(axis=1)
    return _ratio(together_T, np.sqrt(spread_T))


def _brier(outcome_L: Floats, predicted_L: Floats, weight_TL: Floats) -> Floats:
    return _ratio(weight_TL @ (outcome_L - predicted_L) ** 2, weight_TL.sum(axis=1))


def _mean_absolute_error(outcome_L: Floats, predicted_L: Floats, weight_TL: Floats) -> Floats:
    return _ratio(weight_TL @ np.abs(outcome_L - predicted_L), weight_TL.sum(axis=1))


# The first is what differences are taken of.
BOOLEAN_SCORES: Mapping[str, WeightedScore] = {
    "auroc": weighted_auroc,
    "auprc": weighted_auprc,
    "brier": _brier,
}
NUMBER_SCORES: Mapping[str, WeightedScore] = {
    "r2": weighted_r2,
    "rank_correlation": weighted_rank_correlation,
    "mean_absolute_error": _mean_absolute_error,
}
# Least and greatest value of each; an interval by t knows nothing of them.
RANGE_OF: Mapping[str, tuple[float, float]] = {
    "auroc": (0.0, 1.0),
    "auprc": (0.0, 1.0),
    "brier": (0.0, 1.0),
    "r2": (-math.inf, 1.0),
    "rank_correlation": (-1.0, 1.0),
    "mean_absolute_error": (0.0, math.inf),
}


def log_loss(outcome_L: Floats, chance_L: Floats) -> float:
    """Return the mean negative log likelihood of outcomes."""
    clipped_L = np.clip(chance_L, SMALLEST_CHANCE, 1 - SMALLEST_CHANCE)
    return float(-np.mean(np.log(np.where(outcome_L > 0, clipped_L, 1 - clipped_L))))


def calibration_line(outcome_L: Floats, chance_L: Floats) -> tuple[float, float]:
    """Return slope and intercept of calibration; 1 and 0 are perfect.

    The slope is that of outcomes on the log odds of the predicted chance, by logistic regression
    without a penalty: below 1, predictions are too extreme. The intercept is that of the same
    regression with the slope held at 1 (calibration in the large): above 0, chances are too low.
    NaN where there is none: one class only, all chances alike, or outcomes that are separated.
    """
    chance_L = np.clip(chance_L, SMALLEST_CHANCE, 1 - SMALLEST_CHANCE)
    odds_L = np.log(chance_L / (1 - chance_L))
    one_L = np.ones_like(odds_L)
    line = _newton(outcome_L, np.stack([one_L, odds_L], axis=1), np.zeros_like(odds_L))
    level = _newton(outcome_L, one_L[:, None], odds_L)
    return float(line[1]), float(level[0])


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Labels of like predictions: what was predicted of them, and what came."""

    num_labels: int
    predicted: float  # mean chance
    observed: float  # share that is positive


def calibration_curve(
    outcome_L: Floats, chance_L: Floats, subject_L: Ints, *, smallest: int, most: int
) -> tuple[CalibrationBin, ...]:
    """Cut labels, ordered by chance, into bins of equal numbers.

    Args:
        outcome_L: 0 or 1.
        chance_L: Predicted.
        subject_L: Whose label it is.
        smallest: Subjects that every bin must have; there are as many bins as that allows, and
            with fewer than two there is no curve.
        most: Bins at most.
    """
    order_L = np.argsort(chance_L, kind="stable")
    most = min(most, len(chance_L) // smallest)
    cuts = (np.array_split(order_L, num_bins) for num_bins in range(most, 1, -1))
    parts = next((c for c in cuts if all(len(np.unique(subject_L[p])) >= smallest for p in c)), [])
    return tuple(
        CalibrationBin(
            num_labels=len(part),
            predicted=float(chance_L[part].mean()),
            observed=float(outcome_L[part].mean()),
        )
        for part in parts
    )


def _newton(outcome_L: Floats, columns_LK: Floats, offset_L: Floats) -> Floats:
    """Return the coefficients of a logistic regression without a penalty, NaN where none are."""
    none_K = np.full(columns_LK.shape[1], np.nan)
    beta_K = np.zeros(columns_LK.shape[1])
    for _ in range(MOST_STEPS):
        chance_L = 1 / (1 + np.exp(-np.clip(offset_L + columns_LK @ beta_K, -30, 30)))
        hessian_KK = (columns_LK * (chance_L * (1 - chance_L))[:, None]).T @ columns_LK
        if not np.linalg.cond(hessian_KK) < 1e10:  # it may be NaN
            return none_K
        step_K = np.linalg.solve(hessian_KK, columns_LK.T @ (outcome_L - chance_L))
        beta_K = beta_K + step_K
        if np.abs(step_K).max() < 1e-9:
            return beta_K
    return none_K


def _groups(values_L: Floats) -> tuple[Ints, Ints]:
    """Return the order of values, and where each run of equal ones begins in it."""
    order_L = np.argsort(values_L, kind="stable")
    sorted_L = values_L[order_L]
    return order_L, np.flatnonzero(np.append(True, sorted_L[1:] != sorted_L[:-1]))


def _by_prediction(
    outcome_L: Floats, predicted_L: Floats, weight_TL: Floats
) -> tuple[Floats, Floats]:
    """Return the weight of positive and of negative labels at each prediction, ascending."""
    order_L, first_G = _groups(predicted_L)
    positive_L: Bools = outcome_L[order_L] > 0
    weight_TL = weight_TL[:, order_L]
    return (
        np.add.reduceat(weight_TL * positive_L, first_G, axis=1),
        np.add.reduceat(weight_TL * ~positive_L, first_G, axis=1),
    )


def _weighted_ranks(values_L: Floats, weight_TL: Floats) -> Floats:
    """Return the rank of each label among the weighted ones, the mean of equal ones'."""
    order_L, first_G = _groups(values_L)
    total_TG = np.add.reduceat(weight_TL[:, order_L], first_G, axis=1)
    rank_TG = total_TG.cumsum(axis=1) - total_TG / 2
    size_G = np.diff(np.append(first_G, len(values_L)))
    rank_TL = np.empty_like(weight_TL)
    rank_TL[:, order_L] = np.repeat(rank_TG, size_G, axis=1)
    return rank_TL


def _ratio(upper: Floats, lower: Floats) -> Floats:
    ratio: Floats = np.divide(upper, lower, out=np.full(np.shape(lower), np.nan), where=lower > 0)
    return ratio
