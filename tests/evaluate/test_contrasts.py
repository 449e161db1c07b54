import numpy as np
import pytest

from cvmae.evaluate.contrasts import contrast, fit_slopes, ratio, total_by_subject
from cvmae.evaluate.two_way import Figure


def simulated(rng, *, slope, seeds=3, subjects=80, seed_spread=0.02):
    """Errors of two policies; the second's runs come last, and `slope` is the first's lead."""
    count = 10
    subject_T = np.repeat(np.arange(subjects), count)
    code_T = rng.integers(0, 5, subjects * count)
    history_T = np.log1p(rng.integers(0, 12, subjects * count))
    shared_T = 0.5 + 0.1 * code_T + 0.3 * rng.normal(size=subjects)[subject_T]
    own_K = seed_spread * rng.normal(size=2 * seeds)
    effect_K = own_K + slope * (np.arange(2 * seeds) < seeds)
    noise_TK = 0.2 * rng.normal(size=(len(subject_T), 2 * seeds))
    # A subject's answer to history, which all its targets share: what clusters are for.
    habit_SK = 0.1 * rng.normal(size=(subjects, 2 * seeds))
    error_TK = shared_T[:, None] + (effect_K + habit_SK[subject_T]) * history_T[:, None] + noise_TK
    (figure,) = fit_slopes(error_TK, history_T[:, None], code_T, subject_T, subjects)
    return contrast(figure, range(seeds), range(seeds, 2 * seeds))


def test_a_ratio_of_sums_and_its_interval_are_those_of_the_hand():
    # 6/4 = 1.5; influences (a - 1.5 b) / 4: (1 - 1.5)/4, (5 - 4.5)/4.
    figure = ratio(np.array([[1.0], [5.0]]), np.array([[1.0], [3.0]]))
    assert figure.value_K == [1.5]
    np.testing.assert_allclose(figure.moved_SK[:, 0], [-0.125, 0.125])
    found = contrast(figure, [0])
    # Two subjects: variance 2 x (2 x 0.125^2), t of one degree of freedom 12.7062.
    assert found.interval == pytest.approx((1.5 - 12.7062 * 0.25, 1.5 + 12.7062 * 0.25), 1e-4)


def test_a_ratio_over_nothing_is_nan_and_has_no_interval():
    found = contrast(ratio(np.ones((3, 1)), np.zeros((3, 1))), [0])
    assert np.isnan(found.value)
    assert np.isnan(found.interval).all()
    assert found.verdict == "undecided"


def test_slopes_are_those_of_least_squares_with_a_level_for_every_group(rng):
    covariate = rng.normal(size=(40, 2))
    group, subject = np.arange(40) % 3, np.arange(40) // 4
    error = rng.normal(size=(40, 2))
    figures = fit_slopes(error, covariate, group, subject, 10)
    design = np.column_stack([covariate, np.eye(3)[group]])
    expected = np.linalg.lstsq(design, error, rcond=None)[0][:2]
    np.testing.assert_allclose([f.value_K for f in figures], expected)
    residual = error - design @ np.linalg.lstsq(design, error, rcond=None)[0]
    # The sandwich, subject by subject: inverse x score, of the first covariate and run.
    inverse = np.linalg.inv(design.T @ design)
    scores = [design[subject == s].T @ residual[subject == s, 0] for s in range(10)]
    np.testing.assert_allclose(
        figures[0].moved_SK[:, 0], [(inverse @ score)[0] for score in scores], atol=1e-12
    )


def test_covariates_that_do_not_vary_within_groups_have_no_slope():
    group = np.array([0, 0, 1, 1])
    assert fit_slopes(np.ones((4, 1)), group[:, None].astype(float), group, group, 2) is None
    assert fit_slopes(np.zeros((0, 1)), np.zeros((0, 1)), group[:0], group[:0], 0) is None


def test_a_planted_interaction_is_found_with_its_sign(rng):
    found = simulated(rng, slope=-0.3)
    assert found.verdict == "below"
    assert found.p < 0.01
    # Five standard errors over seeds (0.02 x sqrt(2 / 3)) and over subjects (0.1 x sqrt(2 / 240)).
    assert found.value == pytest.approx(-0.3, abs=0.1)
    assert simulated(rng, slope=0.3).verdict == "above"


def test_a_null_is_called_an_interaction_no_more_often_than_the_level_allows(rng):
    found = [simulated(rng, slope=0.0) for _ in range(200)]
    # 5% of 200, and three standard errors of that (3.1) above.
    assert sum(one.verdict in ("above", "below") for one in found) <= 19


def test_fewer_than_three_seeds_of_a_policy_decide_nothing(rng):
    found = simulated(rng, slope=-0.5, seeds=2)
    assert found.interval[1] < 0
    assert found.over == "subjects"
    assert found.verdict == "undecided"
    assert np.isnan(found.p)


def test_a_baseline_has_an_interval_over_subjects_and_no_verdict_over_seeds(rng):
    change = ratio(3.0 + rng.normal(size=(50, 2)), np.ones((50, 2)))
    baseline, run = contrast(change, [1], is_trained=False), contrast(change, [1])
    assert baseline.interval == run.interval
    assert baseline.interval[0] > 2
    assert (baseline.over, baseline.num_seeds, baseline.verdict) == ("subjects", 0, None)
    assert baseline.p < 1e-9
    assert (run.num_seeds, run.verdict) == (1, "undecided")


def test_seeds_that_disagree_leave_a_difference_open_that_subjects_alone_would_decide():
    influence = np.array([[0.01] * 6, [-0.01] * 6])
    values = np.array([1.0, 5.0, 9.0, 0.0, 0.0, 0.0])
    # Many subjects, so that the part over subjects is next to nothing.
    figure = Figure(value_K=values, moved_SK=np.tile(influence, (20, 1)))
    found = contrast(figure, [0, 1, 2], [3, 4, 5])
    assert found.value == 5
    assert contrast(figure, [0, 1], [3, 4]).interval[0] > 2
    assert found.verdict == "open"
    # Variance of the first policy's mean: 16 / 3 with two degrees of freedom, t 4.3027.
    assert found.interval[1] == pytest.approx(5 + 4.3027 * np.sqrt(16 / 3), rel=0.01)


def test_sums_by_subject_leave_nobody_out():
    total = total_by_subject(np.array([2, 0, 2]), np.array([[1.0], [2.0], [3.0]]), 4)
    assert total[:, 0].tolist() == [2, 0, 4, 0]
