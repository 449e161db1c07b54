"""Mask weights of the policies: what each says of a code, and what settings make of it."""

from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest

from cvmae.batches.masking import sample_hidden
from cvmae.batches.policies import mask_weights
from cvmae.settings import MaskConfig, Policy
from cvmae.statistics.code_statistics import CodeStatistics, flagged_codes

BY_MEAN = ("cv", "cv_two_level", "robust_cv", "within_subject_cv", "shuffled_cv", "inverse_cv")


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
        | {name: np.array(values, np.float64) for name, values in changes.items()}
    )


def weights(statistics, policy, *, seed=0, table=None, **settings):
    mask = MaskConfig(policy=policy, weights_file="given" if policy == "table" else "", **settings)
    return mask_weights(statistics, mask, seed=seed, table_C=table)


def volatile(num_codes=20, **changes) -> CodeStatistics:
    """Codes whose figures are all different, the first with the most values."""
    by_code = np.arange(num_codes)
    return statistics_of(
        np.full(num_codes, 10.0),
        np.linspace(0.1, 9, num_codes),
        **{
            "num_values": 1000 - by_code,
            "mad": np.linspace(2, 0.3, num_codes),
            "median": np.full(num_codes, 9.0),
            "within_subject_std": np.linspace(1, 5, num_codes),
            "entropy": np.linspace(5, 1, num_codes),
        }
        | changes,
    )


# --- what each policy says of a code


def test_random_weighs_all_codes_alike():
    assert weights(statistics_of([1, 2], [3, 4]), "random").tolist() == [1.0, 1.0]


def test_variance_weights_are_squares_of_std_and_cv_weights_ratios_to_the_mean():
    statistics = statistics_of([10, -2, 4], [4, 1, 2])
    assert weights(statistics, "variance").tolist() == [1.0, 1 / 16, 1 / 4]
    assert weights(statistics, "cv").tolist() == pytest.approx([0.8, 1.0, 1.0], rel=1e-7)


def test_codes_strictly_above_the_quantile_of_cv_are_hidden_four_times_as_readily():
    statistics = statistics_of(np.ones(5), [0.1, 0.2, 0.3, 0.4, 0.5])
    # The 0.75 quantile of five CVs is the fourth, which is not above itself.
    assert weights(statistics, "cv_two_level").tolist() == [0.25, 0.25, 0.25, 0.25, 1]
    lower = weights(statistics, "cv_two_level", two_level_quantile=0.5)
    assert lower.tolist() == [0.25, 0.25, 0.25, 1, 1]
    milder = weights(statistics, "cv_two_level", two_level_chances=(0.6, 0.3))
    assert milder.tolist() == [0.5, 0.5, 0.5, 0.5, 1]


def test_the_two_levels_as_published_are_the_chances_themselves():
    statistics = statistics_of(np.ones(5), [0.1, 0.2, 0.3, 0.4, 0.5])
    chances = weights(statistics, "cv_two_level", two_level_ratio="published")
    assert chances.tolist() == np.float32([0.2, 0.2, 0.2, 0.2, 0.8]).tolist()


def test_robust_cv_is_the_scaled_median_deviation_over_the_median_whatever_outliers_do():
    sound = statistics_of([10, 10], [2, 1], median=[10, 10], mad=[1.2, 0.6])
    assert sound.robust_cv == pytest.approx([1.4826 * 0.12, 1.4826 * 0.06], rel=1e-12)
    slipped = replace(sound, mean=np.array([10.0, 40.0]), std=np.array([2.0, 150.0]))
    assert weights(slipped, "cv").tolist() != weights(sound, "cv").tolist()
    assert weights(slipped, "robust_cv").tolist() == pytest.approx([1, 0.5], rel=1e-7)


def test_within_subject_cv_counts_how_values_move_in_a_subject_not_how_subjects_differ():
    statistics = statistics_of([10, 10], [5, 1], within_subject_std=[0.5, 1])
    assert weights(statistics, "within_subject_cv").tolist() == [0.5, 1]


def test_entropy_weights_are_the_entropies():
    assert weights(volatile(3), "entropy").tolist() == pytest.approx([1, 0.6, 0.2], rel=1e-6)


def test_statistics_without_entropies_are_refused_with_what_to_do():
    unknown = volatile(3, entropy=np.full(3, np.nan))
    with pytest.raises(ValueError, match=r"mask\.policy=entropy .* Fit them again"):
        weights(unknown, "entropy")


def test_inverse_cv_weights_are_the_inverses_of_cv_weights():
    statistics = volatile()
    products = weights(statistics, "inverse_cv") * weights(statistics, "cv")
    np.testing.assert_allclose(products, products[0], rtol=1e-6)  # both are float32


def test_table_weights_are_those_of_the_file():
    found = weights(volatile(3), "table", table=np.array([2.0, 8.0, 4.0]))
    assert found.tolist() == [0.25, 1, 0.5]


def test_every_policy_has_a_test_here():
    said = {"random", "variance", "entropy", "table", "adaptive", *BY_MEAN}  # adaptive: below
    assert said == set(get_args(Policy))


# --- the control: volatility taken away from its codes


@pytest.mark.parametrize("num_codes", [2, 3, 7, 8, 23, 100])
def test_shuffling_gives_each_code_the_cv_of_another_of_similar_frequency(num_codes):
    statistics = volatile(num_codes)
    own = weights(statistics, "cv")
    for seed in range(20):
        shuffled = weights(statistics, "shuffled_cv", seed=seed)
        assert sorted(shuffled) == sorted(own)
        assert not (shuffled == own).any()
        # Codes are in order of frequency; blocks have four to seven.
        from_code = np.searchsorted(own, shuffled)
        assert np.abs(from_code - np.arange(num_codes)).max() < 8


def test_frequency_decides_who_swaps_with_whom_not_the_order_of_codes(rng):
    statistics = volatile(20)
    order = rng.permutation(20)
    moved = replace(statistics, num_values=statistics.num_values[order], std=statistics.std[order])
    one, other = (weights(s, "shuffled_cv", seed=4) for s in (statistics, moved))
    np.testing.assert_array_equal(other, one[order])


def test_every_seed_shuffles_anew_and_the_same_seed_alike():
    found = [weights(volatile(), "shuffled_cv", seed=seed).tolist() for seed in range(10)]
    assert len({tuple(row) for row in found}) == 10
    assert found[3] == weights(volatile(), "shuffled_cv", seed=3).tolist()


def test_every_other_code_of_a_block_is_as_likely():
    statistics = volatile(5)
    own = weights(statistics, "cv")
    first = [weights(statistics, "shuffled_cv", seed=seed)[0] for seed in range(2000)]
    counts = np.bincount(np.searchsorted(own, first), minlength=5)
    assert counts[0] == 0
    # 2,000 draws among four: 5 standard deviations are 97.
    assert np.abs(counts[1:] - 500).max() < 97


# --- codes whose mean says nothing


def test_codes_without_a_natural_zero_are_flagged():
    statistics = statistics_of(
        [5, -2.3, 0.0, 1, 1],
        [1, 6, 1, 4.9, 5.1],
        minimum=[1.0, -20, 0, 0, 0],
        maximum=[9.0, 20, 3, 9, 9],
    )
    # Straddles zero; mean 0; the last has a mean below 0.2 standard deviations.
    assert flagged_codes(statistics).tolist() == [False, True, True, False, True]


def test_an_outlier_beyond_the_clip_bounds_does_not_flag_a_code():
    statistics = statistics_of([5], [1], minimum=[-1.0], clip_low=[2.0])
    assert flagged_codes(statistics).tolist() == [False]


@pytest.mark.parametrize("policy", BY_MEAN)
def test_a_flagged_code_gets_the_median_weight_of_the_others(policy):
    statistics = replace(volatile(6), mean=np.array([0.0, 1e-300, 10, 10, 10, 10]))
    found = weights(statistics, policy)
    assert np.isfinite(found).all()
    if policy == "shuffled_cv":  # it is another code that gets it
        np.testing.assert_array_equal(np.sort(found), np.sort(weights(statistics, "cv")))
        return
    np.testing.assert_allclose(found[:2], np.median(found[2:]), rtol=1e-6)


@pytest.mark.parametrize(
    ("policy", "unknown"),
    [
        ("robust_cv", {"median": [0.0, 9, 9, 9]}),
        ("within_subject_cv", {"within_subject_std": [np.nan, 1, 2, 3]}),
    ],
)
def test_a_code_that_a_policy_knows_nothing_of_gets_the_median_weight(policy, unknown):
    found = weights(volatile(4, **unknown), policy)
    assert found[0] == pytest.approx(np.median(found[1:]), rel=1e-6)


def test_no_mean_is_asked_for_by_variance():
    assert weights(statistics_of([0, 1], [2, 1]), "variance").tolist() == [1, 0.25]


@pytest.mark.parametrize("policy", BY_MEAN)
def test_codes_that_are_all_flagged_weigh_alike(policy):
    assert weights(statistics_of([0, 0], [1, 2]), policy).tolist() == [1.0, 1.0]


# --- units, equality, bounds


@pytest.mark.parametrize("policy", ["variance", "cv", "robust_cv", "inverse_cv", "shuffled_cv"])
def test_equal_volatility_gives_exactly_one_as_random_does(policy):
    statistics = statistics_of([0.3, 0.3, 0.3], [0.1, 0.1, 0.1])
    assert weights(statistics, policy).tolist() == [1.0, 1.0, 1.0]


def test_a_unit_8_times_smaller_moves_variance_weights_and_not_those_of_ratios():
    before = statistics_of([7.4, 140, 0.31], [0.08, 4.7, 0.11], mad=[0.05, 3, 0.07])
    factor = np.array([8, 1, 1])
    scaled = ("mean", "std", "mad", "median", "within_subject_std")
    after = replace(before, **{name: getattr(before, name) * factor for name in scaled})
    for policy in BY_MEAN:
        np.testing.assert_array_equal(weights(after, policy), weights(before, policy))
    ratio = weights(after, "variance")[0] / weights(before, "variance")[0]
    assert ratio == pytest.approx(64, rel=1e-6)


def test_no_weight_is_below_a_millionth_of_the_largest():
    found = weights(statistics_of([1, 1], [1e-5, 1]), "variance")
    assert found.tolist() == [np.float32(1e-6), 1.0]
    assert weights(volatile(2, entropy=[0, 1]), "entropy")[0] == np.float32(1e-6)


# --- sharpness and equal shares


def hidden_by(weight_C, rng):
    lengths = rng.integers(2, 300, 200)
    code_N = rng.integers(0, len(weight_C), lengths.sum())
    return sample_hidden(
        subject_id_W=np.arange(200),
        first_position_W=np.zeros(200, np.int64),
        length_W=lengths,
        weight_N=weight_C[code_N],
        ratio=0.25,
        seed=0,
        epoch=0,
    )


@pytest.mark.parametrize("changes", [{"sharpness": 0}, {"uniform_share": 1}])
@pytest.mark.parametrize("policy", sorted(set(get_args(Policy)) - {"table", "adaptive"}))
def test_no_sharpness_and_only_equal_shares_hide_what_random_hides_bit_for_bit(policy, changes):
    found = hidden_by(weights(volatile(), policy, **changes), np.random.default_rng(1))
    alike = hidden_by(np.ones(20, np.float32), np.random.default_rng(1))
    np.testing.assert_array_equal(found, alike)


def test_sharpness_is_the_power_to_which_weights_are_raised():
    for power in (0.25, 0.5, 2):
        found = weights(volatile(), "cv", sharpness=power)
        np.testing.assert_allclose(found, weights(volatile(), "cv") ** power, rtol=1e-6)


def test_the_floor_is_that_of_the_tempered_weights():
    statistics = statistics_of([1, 1], [1e-5, 1])  # variances of 1e-10 and 1
    half = weights(statistics, "variance", sharpness=0.5)
    assert half[0] == pytest.approx(1e-5, rel=1e-6)
    assert weights(statistics, "variance", sharpness=3)[0] == np.float32(1e-6)


def test_equal_weights_are_mixed_in_by_their_share_of_the_values_of_train():
    statistics = volatile(3, num_values=[600, 300, 100])
    cv, share = statistics.cv, 0.3
    mean = (cv * statistics.num_values).sum() / 1000
    wanted = (1 - share) * cv / mean + share
    # Over the values of train the mix has mean 1, as equal weights have.
    assert (wanted * statistics.num_values).sum() / 1000 == pytest.approx(1)
    found = weights(statistics, "cv", uniform_share=share)
    np.testing.assert_allclose(found, wanted / wanted.max(), rtol=1e-6)


def test_plain_settings_leave_a_weight_as_it_is():
    statistics = volatile()
    found = weights(statistics, "cv", sharpness=1.0, uniform_share=0.0)
    np.testing.assert_array_equal(found, (statistics.cv / statistics.cv.max()).astype(np.float32))
