"""Mask weights of the policies."""

from dataclasses import fields, replace

import numpy as np
import pytest

from cvmae.batches.policies import mask_weights
from cvmae.statistics.code_statistics import CodeStatistics, flagged_codes


def statistics_of(mean, std, **changes) -> CodeStatistics:
    mean, std = np.array(mean, np.float64), np.array(std, np.float64)
    names = tuple(f"code {number}" for number in range(len(mean)))
    arrays = {f.name: np.ones(len(mean)) for f in fields(CodeStatistics)}
    infinite = np.full(len(mean), np.inf)
    return CodeStatistics(
        **arrays
        | {
            "codes": names,
            "members": tuple((name,) for name in names),
            "mean": mean,
            "std": std,
            "minimum": np.abs(mean) / 2 * np.sign(mean),
            "maximum": 2 * mean,
            "clip_low": -infinite,
            "clip_high": infinite,
        }
        | changes
    )


def test_random_weighs_all_codes_alike():
    assert mask_weights(statistics_of([1, 2], [3, 4]), "random").tolist() == [1.0, 1.0]


def test_variance_weights_are_squares_of_std_and_cv_weights_ratios_to_the_mean():
    statistics = statistics_of([10, -2, 4], [4, 1, 2])
    assert mask_weights(statistics, "variance").tolist() == [1.0, 1 / 16, 1 / 4]
    assert mask_weights(statistics, "cv").tolist() == pytest.approx([0.8, 1.0, 1.0], rel=1e-15)


@pytest.mark.parametrize("policy", ["variance", "cv"])
def test_equal_volatility_gives_exactly_one_as_random_does(policy):
    statistics = statistics_of([0.3, 0.3, 0.3], [0.1, 0.1, 0.1])
    assert mask_weights(statistics, policy).tolist() == [1.0, 1.0, 1.0]


def test_a_unit_8_times_smaller_moves_variance_weights_and_not_cv_weights():
    before = statistics_of([7.4, 140, 0.31], [0.08, 4.7, 0.11])
    factor = np.array([8, 1, 1])
    after = replace(before, mean=before.mean * factor, std=before.std * factor)
    np.testing.assert_array_equal(mask_weights(after, "cv"), mask_weights(before, "cv"))
    ratio = mask_weights(after, "variance")[0] / mask_weights(before, "variance")[0]
    assert ratio == pytest.approx(64, rel=1e-12)


def test_no_weight_is_below_a_millionth_of_the_largest():
    weights = mask_weights(statistics_of([1, 1], [1e-5, 1]), "variance")
    assert weights.tolist() == [1e-6, 1.0]


def test_codes_without_a_natural_zero_are_flagged():
    statistics = statistics_of(
        [5, -2.3, 0.0, 1, 1],
        [1, 6, 1, 4.9, 5.1],
        minimum=np.array([1.0, -20, 0, 0, 0]),
        maximum=np.array([9.0, 20, 3, 9, 9]),
    )
    # Straddles zero; mean 0; the last has a mean below 0.2 standard deviations.
    assert flagged_codes(statistics).tolist() == [False, True, True, False, True]


def test_an_outlier_beyond_the_clip_bounds_does_not_flag_a_code():
    statistics = statistics_of([5], [1], minimum=np.array([-1.0]), clip_low=np.array([2.0]))
    assert flagged_codes(statistics).tolist() == [False]


def test_a_mean_near_zero_is_capped_at_the_99th_percentile_of_the_other_weights():
    mean = np.array([0.0, 1e-300, *np.ones(101)])
    std = np.array([1.0, 1.0, *np.linspace(0.5, 1.5, 101)])
    weights = mask_weights(statistics_of(mean, std), "cv")
    assert np.isfinite(weights).all()
    # 101 weights from 0.5 to 1.5: the 0.99 quantile is 1.49, the largest 1.5.
    np.testing.assert_allclose(weights[:2], 1.49 / 1.5, rtol=1e-12)
    assert weights[-1] == 1.0


def test_a_flagged_code_below_the_cap_keeps_its_weight():
    statistics = statistics_of([1, 1, 1], [4, 1, 2], minimum=np.array([0.5, -1, 0.5]))
    assert mask_weights(statistics, "cv").tolist() == [1.0, 0.25, 0.5]


def test_codes_that_are_all_flagged_weigh_alike():
    assert mask_weights(statistics_of([0, 0], [1, 2]), "cv").tolist() == [1.0, 1.0]
