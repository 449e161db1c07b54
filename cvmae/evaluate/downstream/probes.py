"""Probes: what is fitted on features of the labels of train, with its strength chosen on tuning.

Nothing is weighted by class: predictions are chances, and their calibration means something.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from cvmae.arrays import Bools, Float32s, Floats
from cvmae.evaluate.downstream.scores import log_loss

__all__ = ["Learner", "Probe", "fit_boosting", "fit_linear"]

Learner = Literal["logistic regression", "ridge regression", "gradient boosting", "fine-tuning"]

# Shape letters: L labels, D features.

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # scikit-learn's C of a logistic regression
PENALTIES = (1e5, 1e4, 1e3, 1e2, 1e1, 1.0)  # of a ridge regression
MOST_ITERATIONS = 1000
MOST_TREES, LEARNING_RATE, MOST_LEAVES = 200, 0.05, 15


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a fitted probe says of all labels, and how it did on tuning."""

    learner: Learner
    strength: float  # C, the ridge penalty, the number of trees, or the epoch of a fine-tuning
    tuning_loss: float  # log loss, or mean squared error
    predicted_L: Floats  # chances, or numbers
    checkpoint: str = ""  # of the model whose encoder is read; '' where there is none
    stamp: str = ""  # hash of what was in that checkpoint
    begun_with: str = ""  # hash of what it was fine-tuned from; '' where its weights are its own


def fit_linear(
    features_LD: Float32s, outcome_L: Floats, train_L: Bools, tuning_L: Bools, *, boolean: bool
) -> Probe:
    """Fit a logistic or ridge regression at every strength; keep the one best on tuning.

    Features are standardised by their mean and deviation on train; what is missing (NaN) is
    the mean, and a feature without a spread is left out.

    Args:
        features_LD: Of all labels.
        outcome_L: 0 or 1, or numbers less train's mean.
        train_L: Labels to fit on, of both classes.
        tuning_L: Labels to choose on.
        boolean: Whether outcomes are 0 or 1.
    """
    scaled_LD = _scaled(features_LD, train_L)
    fits = _logistic_fits if boolean else _ridge_fits
    best: Probe | None = None
    for strength, predicted_L in fits(scaled_LD, outcome_L, train_L):
        loss = _loss(outcome_L[tuning_L], predicted_L[tuning_L], boolean)
        if best is None or loss < best.tuning_loss:
            best = Probe(
                learner="logistic regression" if boolean else "ridge regression",
                strength=strength,
                tuning_loss=loss,
                predicted_L=predicted_L,
            )
    assert best is not None
    return best


def fit_boosting(
    features_LD: Float32s,
    outcome_L: Floats,
    train_L: Bools,
    tuning_L: Bools,
    *,
    boolean: bool,
    seed: int,
) -> Probe:
    """Fit gradient-boosted trees, with as many of them as are best on tuning."""
    from sklearn.ensemble import (  # a second to import
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
    )

    # Trees cannot be grown where train has no value: nothing is learnt there, as by the others.
    is_known_D = np.isfinite(features_LD[train_L]).any(axis=0)
    features_LD = np.where(is_known_D, features_LD, np.float32(0))
    make: Any = HistGradientBoostingClassifier if boolean else HistGradientBoostingRegressor
    trees = make(
        max_iter=MOST_TREES,
        learning_rate=LEARNING_RATE,
        max_leaf_nodes=MOST_LEAVES,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    ).fit(features_LD[train_L], outcome_L[train_L])
    losses = [
        _loss(outcome_L[tuning_L], predicted, boolean)
        for predicted in _staged(trees, features_LD[tuning_L], boolean)
    ]
    number = int(np.argmin(losses))
    return Probe(
        learner="gradient boosting",
        strength=number + 1,
        tuning_loss=losses[number],
        predicted_L=next(islice(_staged(trees, features_LD, boolean), number, None)),
    )


def _staged(trees: Any, features_LD: Float32s, boolean: bool) -> Iterator[Floats]:
    """Yield the predictions of one tree, two trees, and so on."""
    if not boolean:
        yield from trees.staged_predict(features_LD)
    else:
        for chance_L2 in trees.staged_predict_proba(features_LD):
            yield chance_L2[:, 1]


def _loss(outcome_L: Floats, predicted_L: Floats, boolean: bool) -> float:
    if boolean:
        return log_loss(outcome_L, predicted_L)
    return float(np.mean((outcome_L - predicted_L) ** 2))


def _scaled(features_LD: Float32s, train_L: Bools) -> Floats:
    train_LD = features_LD[train_L].astype(np.float64)
    known_LD = np.isfinite(train_LD)
    count_D = np.maximum(known_LD.sum(axis=0), 1)
    mean_D = np.where(known_LD, train_LD, 0).sum(axis=0) / count_D
    apart_LD = np.where(known_LD, train_LD - mean_D, 0)
    std_D = np.sqrt((apart_LD**2).sum(axis=0) / count_D)
    used_D = std_D > 1e-12 * np.maximum(np.abs(mean_D), 1)
    scaled_LD = (features_LD[:, used_D].astype(np.float64) - mean_D[used_D]) / std_D[used_D]
    return np.where(np.isfinite(scaled_LD), scaled_LD, 0.0)


def _logistic_fits(
    scaled_LD: Floats, outcome_L: Floats, train_L: Bools
) -> Iterator[tuple[float, Floats]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # Each fit begins where the weaker one ended: from there a few steps are enough.
    model = LogisticRegression(max_iter=MOST_ITERATIONS, warm_start=True)
    for strength in STRENGTHS:
        model.set_params(C=strength)
        with warnings.catch_warnings():
            # A fit that has not ended is a penalty of another kind; tuning decides on it, too.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaled_LD[train_L], outcome_L[train_L])
        yield strength, model.predict_proba(scaled_LD)[:, 1]


def _ridge_fits(
    scaled_LD: Floats, outcome_L: Floats, train_L: Bools
) -> Iterator[tuple[float, Floats]]:
    from sklearn.linear_model import Ridge

    for penalty in PENALTIES:
        model = Ridge(alpha=penalty).fit(scaled_LD[train_L], outcome_L[train_L])
        yield penalty, model.predict(scaled_LD)
