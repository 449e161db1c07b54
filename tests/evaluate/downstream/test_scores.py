import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from cvmae.evaluate.downstream.scores import (
    calibration_curve,
    calibration_line,
    weighted_auprc,
    weighted_auroc,
    weighted_r2,
    weighted_rank_correlation,
)


@pytest.fixture
def drawn(rng):
    """Outcomes, predictions with many ties, and resamples as weights."""
    outcome_L = (rng.random(80) < 0.3).astype(float)
    predicted_L = np.round(rng.normal(outcome_L, 1.0), 1)
    weight_TL = rng.multinomial(80, np.full(80, 1 / 80), size=40).astype(float)
    return outcome_L, predicted_L, weight_TL


@pytest.mark.parametrize(
    ("weighted", "plain"),
    [(weighted_auroc, roc_auc_score), (weighted_auprc, average_precision_score)],
)
def test_scores_under_weights_are_those_of_repeated_rows(drawn, weighted, plain):
    outcome_L, predicted_L, weight_TL = drawn
    repeated = [np.repeat(np.arange(80), weight_L.astype(int)) for weight_L in weight_TL]
    expected = [plain(outcome_L[rows], predicted_L[rows]) for rows in repeated]
    np.testing.assert_allclose(weighted(*drawn), expected, rtol=1e-12)


def test_rank_correlation_under_weights_is_that_of_repeated_rows(drawn, rng):
    _, predicted_L, weight_TL = drawn
    number_L = np.round(predicted_L + rng.normal(size=80))
    repeated = [np.repeat(np.arange(80), weight_L.astype(int)) for weight_L in weight_TL]
    expected = [stats.spearmanr(number_L[rows], predicted_L[rows]).statistic for rows in repeated]
    found = weighted_rank_correlation(number_L, predicted_L, weight_TL)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_r2_of_outcomes_less_their_mean_is_the_classical_one_and_zero_for_that_mean(rng):
    outcome_L = rng.normal(3.0, 2.0, 60)
    predicted_L = outcome_L + rng.normal(size=60)
    middle, one_TL = outcome_L.mean(), np.ones((1, 60))
    found = weighted_r2(outcome_L - middle, predicted_L - middle, one_TL)[0]
    assert found == pytest.approx(r2_score(outcome_L, predicted_L), rel=1e-12)
    assert weighted_r2(outcome_L - middle, np.zeros(60), one_TL)[0] == 0.0


def test_a_resample_of_one_class_has_no_score():
    outcome_L, weight_TL = np.array([0.0, 1.0]), np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    for score in (weighted_auroc, weighted_auprc):
        found_T = score(outcome_L, np.array([0.1, 0.9]), weight_TL)
        assert np.isnan(found_T).tolist() == [True, True, False]


def test_calibration_is_that_of_an_unpenalised_logistic_regression(rng):
    odds_L = rng.normal(-1.0, 1.5, 4000)
    outcome_L = (rng.random(4000) < 1 / (1 + np.exp(-(0.4 + 0.6 * odds_L)))).astype(float)
    chance_L = 1 / (1 + np.exp(-odds_L))
    slope, intercept = calibration_line(outcome_L, chance_L)
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(odds_L[:, None], outcome_L)
    assert slope == pytest.approx(model.coef_[0, 0], abs=1e-4)
    # In the large: as many are predicted as came, once all odds are shifted by the intercept.
    shifted_L = 1 / (1 + np.exp(-(odds_L + intercept)))
    assert shifted_L.sum() == pytest.approx(outcome_L.sum(), rel=1e-9)
    assert abs(slope - 0.6) < 0.1
    assert intercept > 0


@pytest.mark.parametrize(
    ("outcomes", "chances"),
    [([0, 0, 0], [0.1, 0.2, 0.3]), ([0, 1, 0], [0.2, 0.2, 0.2]), ([0, 0, 1], [0.1, 0.2, 0.9])],
    ids=["one class", "all alike", "separated"],
)
def test_where_there_is_no_calibration_none_is_told(outcomes, chances):
    slope, _ = calibration_line(np.array(outcomes, float), np.array(chances))
    assert np.isnan(slope)


def test_bins_of_calibration_hold_every_label_and_none_is_small(rng):
    chance_L = rng.random(110)
    outcome_L = (rng.random(110) < chance_L).astype(float)
    subject_L = np.arange(110)
    bins = calibration_curve(outcome_L, chance_L, subject_L, smallest=20, most=10)
    assert [found.num_labels for found in bins] == [22] * 5
    assert [found.predicted for found in bins] == sorted(found.predicted for found in bins)
    assert sum(found.observed * found.num_labels for found in bins) == pytest.approx(
        outcome_L.sum()
    )
    few = (outcome_L[:39], chance_L[:39], subject_L[:39])
    assert calibration_curve(*few, smallest=20, most=10) == ()


def test_a_bin_of_calibration_tells_nothing_of_few_subjects(rng):
    outcome_L = np.repeat([0.0, 1.0], 20)
    pair_L = np.repeat([0, 1], 20)  # two subjects, asked twenty times each
    apart_L = np.linspace(0.1, 0.9, 40)
    assert calibration_curve(outcome_L, apart_L, pair_L, smallest=20, most=10) == ()
    # One subject of many labels would have a bin alone: fewer bins leave it with others.
    subject_L = np.append(np.zeros(60, int), np.arange(1, 241))
    chance_L = np.append(np.full(60, 0.05), rng.uniform(0.1, 1, 240))
    outcome_L = (rng.random(300) < chance_L).astype(float)
    bins = calibration_curve(outcome_L, chance_L, subject_L, smallest=20, most=10)
    assert [found.num_labels for found in bins] == [100] * 3
