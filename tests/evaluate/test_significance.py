import numpy as np
import pytest
from scipy import stats

from cvmae.evaluate.reconstruction import Sums, scores
from cvmae.evaluate.significance import (
    Resampled,
    cohens_d,
    compare,
    correlate,
    interval,
    resample,
    wilcoxon_p,
)


def make_sums(rng, errors, *, num_subjects=300, num_codes=3, values=4):
    """Targets of unit variance per subject and code; ``errors`` scale each method's error."""
    subject, code = (
        grid.ravel() for grid in np.meshgrid(np.arange(num_subjects), np.arange(num_codes))
    )
    target = rng.normal(size=(len(subject), values))
    noise = rng.normal(size=(len(subject), values))
    return Sums(
        num_subjects=num_subjects,
        num_sequences=num_subjects,
        num_hidden=target.size,
        num_twins=0,
        measurements_C=np.full(num_codes, target.size),
        subject_R=subject,
        code_R=code,
        count_R=np.full(len(subject), float(values)),
        sum_R=target.sum(axis=1),
        square_R=(target**2).sum(axis=1),
        error_RK=np.stack([((scale * noise) ** 2).sum(axis=1) for scale in errors], axis=1),
        absolute_CK=np.zeros((num_codes, len(errors))),
    )


def compared(sums, *, samples=400):
    found = scores(sums, min_scored=2)
    drawn = resample(sums, found.counted_C, samples=samples, seed=1)
    return compare(
        ("cv", "random"),
        found.r2_CK,
        found.pooled_K,
        drawn,
        found.counted_C,
        first="cv",
        second="random",
        num_pairs=3,
    )


def test_resampled_pooled_r2_spreads_as_the_formula_says(rng):
    # With error e = s * noise, 1 - R2 is a ratio of two independent means of squares over
    # n = subjects x codes x values: its standard error is s^2 * sqrt(2 / n + 2 / n).
    sums = make_sums(rng, [0.5])
    drawn = resample(sums, np.ones(3, bool), samples=2000, seed=0)
    expected = 0.25 * np.sqrt(4 / (300 * 3 * 4))
    # Sampling error of a standard deviation over 2000 draws is 1.6%; that of the squares'
    # variance itself over 300 subjects 6%: 5 of their joint errors are 0.3.
    assert drawn.pooled_TK.std() == pytest.approx(expected, rel=0.3)


def test_resampling_is_paired_over_methods(rng):
    drawn = resample(make_sums(rng, [0.5, 0.5]), np.ones(3, bool), samples=50, seed=0)
    np.testing.assert_array_equal(drawn.pooled_TK[:, 0], drawn.pooled_TK[:, 1])
    assert drawn.pooled_TK[:, 0].std() > 0


def test_resamples_depend_on_the_seed_alone(rng):
    sums, all_codes = make_sums(rng, [0.5]), np.ones(3, bool)
    one, same, other = (
        resample(sums, all_codes, samples=150, seed=seed).pooled_TK for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_method_that_is_better_on_every_code_wins_clearly(rng):
    outcome = compared(make_sums(rng, [0.5, 0.7]))
    assert (outcome.wins, outcome.losses, outcome.win_rate) == (3, 0, 1.0)
    assert (outcome.clear_wins, outcome.clear_losses) == (3, 0)
    low, high = outcome.pooled_interval
    assert 0 < low < outcome.pooled_difference < high


def test_a_code_whose_interval_holds_zero_is_won_but_not_clearly():
    draws = np.linspace(-0.1, 0.2, 100)[:, None]  # of one code, about a difference of 0.05
    drawn = Resampled(
        pooled_TK=np.hstack([draws, 0 * draws]),
        macro_TK=np.hstack([draws, 0 * draws]),
        r2_TCK=np.stack([draws, 0 * draws], axis=2),
    )
    r2, pooled, counted = np.array([[0.05, 0.0]]), np.array([0.05, 0.0]), np.ones(1, bool)
    names = {"names": ("cv", "random"), "first": "cv", "second": "random"}
    outcome = compare(
        r2_CK=r2, pooled_K=pooled, resampled=drawn, counted_C=counted, num_pairs=1, **names
    )
    assert (outcome.wins, outcome.clear_wins, outcome.clear_losses) == (1, 0, 0)


def test_equal_methods_show_no_difference(rng):
    outcome = compared(make_sums(rng, [0.5, 0.5]))
    assert (outcome.wins, outcome.losses) == (0, 0)
    assert (outcome.clear_wins, outcome.clear_losses) == (0, 0)
    assert outcome.wilcoxon_p_bonferroni == 1.0


def test_bonferroni_multiplies_wilcoxons_p_by_the_number_of_pairs(rng):
    difference = rng.normal(0.3, 1.0, 30)
    assert wilcoxon_p(difference) == stats.wilcoxon(difference).pvalue
    outcome = compared(make_sums(rng, [0.5, 0.7]))
    assert outcome.wilcoxon_p_bonferroni == pytest.approx(min(1, 3 * outcome.wilcoxon_p))


def test_cohens_d_is_the_mean_over_the_standard_deviation():
    assert cohens_d(np.array([1.0, 2.0, 3.0])) == 2.0
    assert np.isnan(cohens_d(np.array([1.0, 1.0])))


def test_correlation_leaves_out_codes_without_a_cv():
    found = correlate(np.array([1.0, 2.0, 3.0, np.inf]), np.array([3.0, 2.0, 1.0, 9.0]))
    assert found.r == pytest.approx(-1.0)
    assert found.num_codes == 3


def test_an_interval_of_nothing_is_nan():
    assert np.isnan(interval(np.full(5, np.nan))).all()
    assert interval(np.linspace(0, 1, 1001)) == pytest.approx((0.025, 0.975))
