import numpy as np
import pytest

from cvmae.evaluate.intervals import FEW_SUBJECTS, bootstrap_intervals
from cvmae.evaluate.reconstruction import scores
from tests.evaluate.made_sums import make_sums, sums_of


def intervals_of(sums, *, samples=400, seed=1, counted=None):
    if counted is None:
        counted = np.ones(sums.num_codes, bool)
    return bootstrap_intervals(sums, counted, samples=samples, seed=seed)


def skewed(rng, num_subjects, num_codes=3):
    """A few subjects hold most of the errors, as in a hospital."""
    burden = rng.lognormal(0, 1.2, size=(num_subjects, 1))
    square = burden * rng.lognormal(0, 0.8, size=(num_subjects, num_codes))
    error = square * 1.03 * rng.lognormal(-0.32, 0.8, size=(num_subjects, num_codes))
    return sums_of(square, error[..., None])


@pytest.mark.parametrize("num_subjects", [8, 35, 300])
def test_no_estimate_lies_outside_its_own_interval(rng, num_subjects):
    # About the mean of the scored values, 35 subjects gave -0.032 with (-0.199, -0.035).
    for _ in range(20):
        sums = skewed(rng, num_subjects)
        found, told = intervals_of(sums, samples=60), scores(sums, min_scored=2)
        macro = np.mean(told.r2_CK[:, 0])
        for value, (low, high) in [
            (told.pooled_K[0], found.pooled[0]),
            (macro, found.macro[0]),
            *zip(told.r2_CK[:, 0], (code[0] for code in found.codes), strict=True),
        ]:
            assert low <= value <= high


def test_an_interval_does_not_move_away_from_its_estimate(rng):
    # Centred anew in every resample, R2 of few subjects is lower in resamples than it is.
    middles = []
    for _ in range(60):
        sums = skewed(rng, 60, num_codes=1)
        value = scores(sums, min_scored=2).pooled_K[0]
        low, high = intervals_of(sums, samples=200).pooled[0]
        middles.append(((low + high) / 2 - value) / (high - low))
    # Skewed errors reach further down; a bias of a third of the width would be the old fault.
    assert abs(np.mean(middles)) < 0.15


@pytest.mark.parametrize("num_subjects", [FEW_SUBJECTS - 50, FEW_SUBJECTS + 100])
def test_an_interval_is_as_wide_as_the_formula_says(rng, num_subjects):
    # With error e = s * noise, 1 - R2 is a ratio of two independent means of squares over
    # n = subjects x codes x values: its standard error is s^2 * sqrt(2 / n + 2 / n).
    found = intervals_of(make_sums(rng, [0.5], num_subjects=num_subjects), samples=2000)
    low, high = found.pooled[0]
    expected = 2 * 1.96 * 0.25 * np.sqrt(4 / (num_subjects * 3 * 4))
    # The squares' variance itself is known to 6 to 8% from so many subjects: 4 of these.
    assert high - low == pytest.approx(expected, rel=0.3)


def test_the_bootstrap_of_t_covers_where_percentiles_of_few_subjects_do_not(rng, monkeypatch):
    truth, samples, seed = 1 - 1.03, 150, int(rng.integers(1000))
    held = {}
    for few in (0, FEW_SUBJECTS):
        monkeypatch.setattr("cvmae.evaluate.intervals.FEW_SUBJECTS", few)
        draws = np.random.default_rng(seed)
        held[few] = 0
        for _ in range(samples):
            sums = skewed(draws, 25, num_codes=1)
            low, high = intervals_of(sums, samples=200).pooled[0]
            held[few] += low <= truth <= high
    assert held[FEW_SUBJECTS] > held[0]  # on the same samples
    assert held[FEW_SUBJECTS] >= 0.8 * samples  # 25 subjects with such tails are hard


def test_resampling_is_paired_and_depends_on_the_seed_alone(rng):
    sums = make_sums(rng, [0.5, 0.5])
    one, same, other = (intervals_of(sums, samples=150, seed=seed) for seed in (3, 3, 4))
    assert one == same != other
    assert one.pooled[0] == one.pooled[1]


def test_what_cannot_vary_has_an_interval_of_one_point_and_what_is_not_there_has_none(rng):
    square = rng.random((30, 2))
    error = np.stack([square, np.zeros_like(square)], axis=2)  # the code mean; a perfect model
    found = intervals_of(sums_of(square, error), counted=np.array([True, False]))
    assert found.pooled == ((0, 0), (1, 1))
    assert found.macro == ((0, 0), (1, 1))
    none = intervals_of(sums_of(square, error), counted=np.zeros(2, bool))
    assert np.isnan(none.macro).all()
    alone = intervals_of(sums_of(square[:1], 0.5 * error[:1]))
    assert np.isnan(alone.codes).all()
