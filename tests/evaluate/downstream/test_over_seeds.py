from functools import partial

import numpy as np
import pytest

from cvmae.evaluate.downstream.over_seeds import are_enough, estimate, resample_labels, verdict
from cvmae.evaluate.downstream.scores import weighted_auroc


def simulated(rng, num_seeds, num_subjects, seed_spread):
    """Two policies without a difference, whose seeds differ, on the same subjects."""
    outcome_L = (rng.random(num_subjects) < 0.3).astype(float)
    shared_L = rng.normal(size=num_subjects)
    sides = []
    for sign in (1.0, -1.0):
        strength_K = 1.0 + seed_spread * rng.normal(size=num_seeds)
        noise_KL = rng.normal(size=(num_seeds, num_subjects))
        scores = [
            partial(weighted_auroc, outcome_L, strength * outcome_L + shared_L + 0.3 * noise_L)
            for strength, noise_L in zip(strength_K, noise_KL, strict=True)
        ]
        drawn_TK = resample_labels(np.arange(num_subjects), scores, samples=100, seed=1)
        one_TL = np.ones((1, num_subjects))
        sides.append((np.concatenate([score(one_TL) for score in scores]), drawn_TK, sign))
    return sides


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_intervals_of_differences_cover_nothing_where_seeds_differ(rng, num_seeds):
    rounds, covered, naive = 200, 0, 0
    for _ in range(rounds):
        sides = simulated(rng, num_seeds, 150, seed_spread=0.4)
        low, high = estimate(sides, 150).interval
        covered += low <= 0 <= high
        draws_T = sides[0][1].mean(axis=1) - sides[1][1].mean(axis=1)
        low, high = np.quantile(draws_T, [0.025, 0.975])
        naive += low <= 0 <= high
    # 0.95 less 3 standard errors of a share over 200 rounds; subjects alone are far from it.
    assert covered / rounds >= 0.95 - 0.046
    assert naive / rounds < 0.8


def test_labels_of_a_subject_are_drawn_together():
    subject_id_L = np.array([7, 7, 7, 9, 9, 4])
    seen = []

    def score(weight_TL):
        seen.append(weight_TL)
        return weight_TL.sum(axis=1)

    resample_labels(subject_id_L, [score], samples=50, seed=0)
    weight_TL = np.concatenate(seen)
    assert (weight_TL[:, :1] == weight_TL[:, :3]).all()
    assert (weight_TL[:, 3] == weight_TL[:, 4]).all()
    assert (weight_TL[:, 0] + weight_TL[:, 3] + weight_TL[:, 5] == 3).all()


def test_many_labels_of_few_subjects_widen_the_interval(rng):
    outcome_S = (rng.random(40) < 0.5).astype(float)
    predicted_S = outcome_S + rng.normal(size=40)
    widths = {}
    for name, repeats in (("once", 1), ("tenfold", 10)):
        subject_L = np.repeat(np.arange(40), repeats)
        score = partial(weighted_auroc, outcome_S[subject_L], predicted_S[subject_L])
        drawn_TK = resample_labels(subject_L, [score], samples=400, seed=0)
        one_K = score(np.ones((1, len(subject_L))))
        low, high = estimate([(one_K, drawn_TK, 1.0)], 40).interval
        widths[name] = high - low
    # Repeating the labels adds nothing, and must not seem to.
    assert widths["tenfold"] == pytest.approx(widths["once"], rel=1e-9)


def test_fewer_than_three_seeds_decide_nothing():
    assert not are_enough((2, 3))
    assert are_enough((3, 3))
    assert are_enough((3, None))  # what is not random needs no seeds
    assert verdict(0.1, float("nan")) == "undecided"


def test_a_verdict_follows_from_p_and_the_sign_of_the_difference():
    assert verdict(0.1, 0.049) == "higher"
    assert verdict(-0.1, 0.049) == "lower"
    assert verdict(0.1, 0.051) == "no clear difference"


def test_p_is_below_the_level_just_where_the_interval_leaves_out_0(rng):
    beside = []
    for shift in np.linspace(-0.3, 0.3, 13):
        (score_K, drawn_TK, sign), other = simulated(rng, 3, 150, seed_spread=0.05)
        found = estimate([(score_K + shift, drawn_TK + shift, sign), other], 150)
        low, high = found.interval
        beside.append(not low <= 0 <= high)
        assert (found.p < 0.05) == beside[-1]
    assert 0 < sum(beside) < len(beside)


def test_without_seeds_p_is_by_resamples():
    draws_T1 = np.linspace(-0.1, 0.9, 999)[:, None]
    found = estimate([(np.array([0.4]), draws_T1, 1.0)], 100)
    assert found.p == pytest.approx(2 * (np.sum(draws_T1 <= 0) + 1) / 1000)
    above = estimate([(np.array([1.4]), draws_T1 + 1, 1.0)], 100)
    assert above.p == pytest.approx(2 / 1000)  # never 0: there are only so many resamples
