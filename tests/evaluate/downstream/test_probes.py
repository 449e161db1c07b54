import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cvmae.evaluate.downstream.probes import fit_boosting, fit_linear

TRAIN, TUNING, SCORED = np.arange(1500) < 600, np.arange(1500) // 300 == 2, np.arange(1500) >= 900


def drawn(rng, signal):
    """Features of which the first carries a signal, missing here and there, in odd units."""
    features_LD = rng.normal(size=(1500, 12))
    chance_L = 1 / (1 + np.exp(1.5 - signal * features_LD[:, 0]))
    outcome_L = (rng.random(1500) < chance_L).astype(float)
    features_LD = features_LD * 10.0 ** np.arange(-3, 9) + 1000
    features_LD[rng.random(features_LD.shape) < 0.1] = np.nan
    features_LD[:, 5] = 7.0
    return features_LD.astype(np.float32), outcome_L


def boosting(*args):
    return fit_boosting(*args, boolean=True, seed=0)


def linear(*args):
    return fit_linear(*args, boolean=True)


@pytest.mark.parametrize("fit", [linear, boosting])
def test_a_planted_signal_is_found_and_noise_is_not(rng, fit):
    features_LD, outcome_L = drawn(rng, signal=2.0)
    found_L = fit(features_LD, outcome_L, TRAIN, TUNING).predicted_L
    assert roc_auc_score(outcome_L[SCORED], found_L[SCORED]) > 0.75
    noise_LD, outcome_L = drawn(rng, signal=0.0)
    found_L = fit(noise_LD, outcome_L, TRAIN, TUNING).predicted_L
    # 4 standard errors of an AUROC of some 110 positive and 490 negative labels.
    assert abs(roc_auc_score(outcome_L[SCORED], found_L[SCORED]) - 0.5) < 0.125


@pytest.mark.parametrize("fit", [linear, boosting])
def test_what_is_scored_has_no_part_in_the_fit(rng, fit):
    features_LD, outcome_L = drawn(rng, signal=2.0)
    before = fit(features_LD, outcome_L, TRAIN, TUNING)
    changed_LD = features_LD.copy()
    changed_LD[SCORED] *= 100
    changed_L = np.where(SCORED, 1 - outcome_L, outcome_L)
    after = fit(changed_LD, changed_L, TRAIN, TUNING)
    np.testing.assert_array_equal(before.predicted_L[~SCORED], after.predicted_L[~SCORED])
    assert before.strength == after.strength


@pytest.mark.parametrize("fit", [linear, boosting])
def test_what_train_has_no_value_of_is_not_learnt_from(rng, fit):
    features_LD, outcome_L = drawn(rng, signal=2.0)
    features_LD[:, 3] = 0.0
    expected = fit(features_LD, outcome_L, TRAIN, TUNING)
    features_LD[TRAIN, 3] = np.nan
    found = fit(features_LD, outcome_L, TRAIN, TUNING)
    np.testing.assert_allclose(found.predicted_L, expected.predicted_L, atol=1e-6)


def test_strength_is_the_one_best_on_tuning(rng):
    noise_LD, outcome_L = drawn(rng, signal=0.0)
    signal_LD, signal_L = drawn(rng, signal=3.0)
    weak = linear(noise_LD, outcome_L, TRAIN, TUNING)
    strong = linear(signal_LD, signal_L, TRAIN, TUNING)
    assert weak.strength < strong.strength


def test_chances_are_not_reweighted(rng):
    features_LD, outcome_L = drawn(rng, signal=2.0)
    found = linear(features_LD, outcome_L, TRAIN, TUNING)
    assert found.predicted_L[TRAIN].mean() == pytest.approx(outcome_L[TRAIN].mean(), abs=0.01)


def test_numbers_are_fitted_by_ridge_regression(rng):
    features_LD, _ = drawn(rng, signal=1.0)
    first_L = np.nan_to_num((features_LD[:, 0] - 1000) * 1000)
    outcome_L = first_L / max(first_L.std(), 1e-9) + 0.5 * rng.normal(size=1500)
    found = fit_linear(features_LD, outcome_L, TRAIN, TUNING, boolean=False)
    assert found.learner == "ridge regression"
    assert np.corrcoef(found.predicted_L[SCORED], outcome_L[SCORED])[0, 1] > 0.8
    trees = fit_boosting(features_LD, outcome_L, TRAIN, TUNING, boolean=False, seed=0)
    assert np.corrcoef(trees.predicted_L[SCORED], outcome_L[SCORED])[0, 1] > 0.75
