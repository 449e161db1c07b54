import numpy as np
import pytest
from scipy import stats

from cvmae.evaluate.significance import LEVEL
from cvmae.evaluate.two_way import (
    Figure,
    Runs,
    code_figures,
    estimate,
    macro_figure,
    pooled_figure,
)
from tests.evaluate.made_sums import make_sums, sums_of, varied_runs

THREE, OTHER_THREE = Runs(columns=(0, 1, 2)), Runs(columns=(3, 4, 5))
ONE = Runs(columns=(0,))
BASELINE = Runs(columns=(3,), is_trained=False)


def test_a_figure_moves_with_a_subject_as_leaving_it_out_says(rng):
    square, error = rng.random((40, 3)) + 0.5, rng.random((40, 3, 2))
    sums, without = sums_of(square, error), sums_of(square[1:], error[1:])
    figures = {"pooled": pooled_figure, "code": lambda s: code_figures(s)[1]}
    figures["macro"] = lambda s: macro_figure(s, code_figures(s), np.ones(3, bool))
    for name, figure in figures.items():
        whole = figure(sums)
        np.testing.assert_allclose(whole.moved_SK.sum(axis=0), 0, atol=1e-12, err_msg=name)
        # Without its weight of 1 the figure loses what the subject moves it, to first order.
        lost = whole.value_K - figure(without).value_K
        np.testing.assert_allclose(lost, whole.moved_SK[0], rtol=0.15, atol=1e-4, err_msg=name)


def test_over_subjects_alone_an_interval_is_the_t_interval_of_what_each_moves(rng):
    moved = rng.normal(size=50)
    moved = (moved - moved.mean()) / 50
    figure = Figure(value_K=np.array([0.3]), moved_SK=moved[:, None])
    found = estimate(figure, ONE)
    # A mean of 50 with these deviations has this interval.
    low, high = stats.t.interval(0.95, 49, loc=0.3, scale=stats.sem(50 * moved))
    assert found.interval == pytest.approx((low, high))
    assert found.over == "subjects"
    assert np.isnan(found.p)


def test_over_seeds_alone_a_difference_is_welchs(rng):
    values = rng.normal(size=6)
    found = estimate(Figure(value_K=values, moved_SK=np.zeros((9, 6))), THREE, OTHER_THREE)
    welch = stats.ttest_ind(values[:3], values[3:], equal_var=False)
    assert found.p == pytest.approx(welch.pvalue)
    assert found.interval == pytest.approx(tuple(welch.confidence_interval(0.95)))
    assert found.over == "seeds and subjects"


def test_a_runs_own_luck_with_subjects_is_counted_once(rng):
    # Nothing but luck of each run with each subject: the variance of a mean over three runs is
    # that of a run over three, which seeds and subjects both show.
    own = rng.normal(size=(4000, 3)) / 4000
    value = own.sum(axis=0)
    figure = Figure(value_K=value, moved_SK=own - own.mean(axis=0))
    low, high = estimate(figure, THREE).interval
    only_seeds = stats.t.ppf(0.975, 2) * value.std(ddof=1) / np.sqrt(3)
    assert (high - low) / 2 == pytest.approx(only_seeds, rel=0.05)


def test_two_runs_of_a_policy_decide_nothing_and_three_do(rng):
    sums = varied_runs(rng, 7, effects=[0.5] * 3 + [0.0] * 4, seed_sd=0.01)
    figure = pooled_figure(sums)
    assert estimate(figure, THREE, OTHER_THREE).p < 1e-3
    few = estimate(figure, Runs(columns=(0, 1)), OTHER_THREE)
    assert np.isnan(few.p)
    assert few.over == "subjects"
    against = estimate(figure, THREE, BASELINE)  # which has no seeds
    assert against.p < LEVEL
    assert against.over == "seeds and subjects"


def test_the_same_run_under_two_names_differs_in_nothing(rng):
    figure = pooled_figure(make_sums(rng, [0.5, 0.5]))
    found = estimate(figure, ONE, Runs(columns=(1,)))
    assert (found.value, found.interval) == (0, (0, 0))


def test_the_order_of_runs_changes_nothing(rng):
    figure = pooled_figure(varied_runs(rng, 6))
    one = estimate(figure, THREE, OTHER_THREE)
    other = estimate(figure, OTHER_THREE, THREE)
    assert other.value == -one.value
    assert other.p == pytest.approx(one.p)
    assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]))


def called_significant(rng, samples, effects, **options):
    """How often a difference of two times three runs is called one, of so many samples."""
    p = []
    for _ in range(samples):
        figure = pooled_figure(varied_runs(rng, 6, effects=effects, **options))
        p.append(estimate(figure, THREE, OTHER_THREE).p)
    return int((np.array(p) < LEVEL).sum())


@pytest.mark.parametrize("seed_sd", [0.0, 0.03])
def test_seeds_of_one_policy_are_rarely_called_different(rng, seed_sd):
    # 5% of 200 are 10; more than 17 happen by chance in 1 of 100 tests.
    assert called_significant(rng, 200, [0.0] * 6, seed_sd=seed_sd) <= 17


def test_a_policy_that_errs_a_fifth_more_is_found(rng):
    # 0.08 of R2 where seeds have a standard deviation of 0.012: Welch's power is above 0.9.
    assert called_significant(rng, 100, [0.0] * 3 + [0.2] * 3) >= 80


def test_subjects_alone_call_seeds_of_one_policy_different(rng):
    # The old way: one run each, over subjects. It is why claims need seeds.
    excluded = 0
    for _ in range(100):
        figure = pooled_figure(varied_runs(rng, 2, num_subjects=300))
        low, high = estimate(figure, ONE, Runs(columns=(1,))).interval
        excluded += not low <= 0 <= high
    assert excluded > 20


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_an_interval_over_seeds_and_subjects_holds_the_truth_as_often_as_it_says(rng, num_seeds):
    truth = 0.4 * 0.1  # of R2: the first policy errs a tenth less
    first = Runs(columns=tuple(range(num_seeds)))
    second = Runs(columns=tuple(range(num_seeds, 2 * num_seeds)))
    held = 0
    for _ in range(200):
        effects = [0.0] * num_seeds + [0.1] * num_seeds
        figure = pooled_figure(varied_runs(rng, 2 * num_seeds, effects=effects))
        low, high = estimate(figure, first, second).interval
        held += low <= truth <= high
    # 190 expected; below 178 by chance in 1 of 10,000 tests.
    assert held >= 178
