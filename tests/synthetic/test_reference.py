"""What can be attained on the synthetic hospital, against simulation and regression."""

from dataclasses import replace

import numpy as np
import pytest

from cvmae.synthetic.hospital import SyntheticConfig
from cvmae.synthetic.process import code_laws
from cvmae.synthetic.reference import (
    attainable_r2,
    conditional_variance,
    covariance,
    reference_name,
)
from cvmae.synthetic.subjects import sample_subjects

CONFIG = SyntheticConfig(
    root="", num_subjects=3000, num_codes=8, median_measurements=20, spread=0.4, seed=5
)
MINUTES = np.array([0, 0, 0, 600, 600, 4000, 4000, 50_000])
CODES = np.array([0, 1, 2, 0, 3, 1, 2, 0])
HIDDEN = np.array([False, True, False, False, True, False, False, True])


def standardised(config):
    """Yield code, minutes and standardised value of each subject's laboratory rows."""
    laws, labs = code_laws(config), sample_subjects(config, np.arange(config.num_subjects)).labs
    z = (labs.value_N.astype(np.float64) - laws.mean_C[labs.code_N]) / laws.std_C[labs.code_N]
    for first, last in zip(labs.offsets_S[:-1], labs.offsets_S[1:], strict=True):
        yield labs.code_N[first:last], labs.minutes_N[first:last], z[first:last]


def test_whitened_values_are_independent_standard_normal():
    # If the covariance is right, L^-1 z has as many independent unit variances as there are
    # values; the sum of squares is chi squared.
    laws, total, count = code_laws(CONFIG), 0.0, 0
    for code, minutes, z in standardised(CONFIG):
        white = np.linalg.solve(np.linalg.cholesky(covariance(laws, code, minutes)), z)
        total, count = total + white @ white, count + len(z)
    assert count > 50_000
    assert abs(total - count) / np.sqrt(2 * count) < 5


@pytest.mark.parametrize("same_code", [True, False])
@pytest.mark.parametrize("lag_hours", [(0, 1), (1, 24), (24, 240), (240, 10_000)])
def test_products_of_two_values_average_to_the_covariance(same_code, lag_hours):
    laws, low_high = code_laws(CONFIG), np.array(lag_hours) * 60
    sums = []
    for code, minutes, z in standardised(replace(CONFIG, num_subjects=2000)):
        lag = np.abs(minutes[:, None] - minutes)
        pairs = (lag >= low_high[0]) & (lag < low_high[1]) & np.tri(len(z), k=-1, dtype=bool)
        pairs &= (code[:, None] == code) == same_code
        expected = covariance(laws, code, minutes)
        # The sign makes errors of correlated and of anticorrelated codes add up.
        error = np.sign(expected) * (np.outer(z, z) - expected)
        sums.append(error[pairs].sum())
    # 5 standard errors, subjects being independent.
    assert abs(np.sum(sums)) / np.sqrt(np.sum(np.square(sums))) < 5


def test_conditional_variance_is_what_regression_on_visible_values_leaves(rng):
    laws, draws = code_laws(CONFIG), 40_000
    factor = np.linalg.cholesky(covariance(laws, CODES, MINUTES))
    z = rng.standard_normal((draws, len(CODES))) @ factor.T
    visible, hidden = z[:, ~HIDDEN], z[:, HIDDEN]
    weights, *_ = np.linalg.lstsq(visible, hidden, rcond=None)
    left = ((hidden - visible @ weights) ** 2).sum(axis=0) / (draws - visible.shape[1])
    # 5 standard errors of a variance over 40,000 draws: 5 * sqrt(2 / 40,000) = 3.5%.
    expected = conditional_variance(laws, CODES, MINUTES, HIDDEN)
    np.testing.assert_allclose(expected, left, rtol=0.035)
    assert (expected < 0.95).all()


def test_a_value_without_visible_ones_keeps_its_variance():
    laws = code_laws(CONFIG)
    everything = np.ones(len(CODES), dtype=bool)
    np.testing.assert_allclose(conditional_variance(laws, CODES, MINUTES, everything), 1)
    assert conditional_variance(laws, CODES, MINUTES, ~everything).size == 0


def test_attainable_r2_is_found_by_code_whatever_the_vocabulary_order():
    laws = code_laws(CONFIG)
    variance = conditional_variance(laws, CODES, MINUTES, HIDDEN)
    vocabulary = [laws.codes[place] for place in (3, 2, 1, 0)]
    time_us = MINUTES * 60_000_000
    found = attainable_r2(CONFIG, vocabulary, [(3 - CODES, time_us, HIDDEN)] * 2)
    np.testing.assert_allclose(found.r2_C[[2, 0, 3]], 1 - variance)  # codes 1, 3, 0
    assert np.isnan(found.r2_C[1])
    np.testing.assert_array_equal(found.num_hidden_C, [2, 0, 2, 2])
    assert found.r2_pooled == pytest.approx(1 - variance.mean())
    assert found.r2_macro == pytest.approx(np.nanmean(found.r2_C))


def test_a_foreign_code_is_refused():
    with pytest.raises(ValueError, match=r"LAB//1//x is not one of the 8 laboratory codes"):
        attainable_r2(CONFIG, ["LAB//1//x"], [])


def test_only_independent_ordering_without_outliers_is_called_attainable():
    assert reference_name(CONFIG) == "best attainable R2"
    assert reference_name(replace(CONFIG, ordering="informative")) == "Gaussian reference"
    assert reference_name(replace(CONFIG, outlier_rate=0.001)) == "Gaussian reference"
