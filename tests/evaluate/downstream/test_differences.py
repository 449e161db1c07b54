"""What is said of differences between ways to predict, by how many were asked."""

from dataclasses import replace

import numpy as np
from scipy import stats

from cvmae.evaluate.downstream.candidates import Candidate
from cvmae.evaluate.downstream.probes import Probe
from cvmae.evaluate.downstream.rows import differences
from cvmae.evaluate.downstream.scored import Outcomes, Scored

NUM_LABELS, SAMPLES = 100, 400
NAMES = ("auroc", "auprc")


def made(gains, *, num_seeds=3, begun_with=("",) * 3):
    """Policies whose scores are those of `random` and a gain, with seeds and resamples alike."""
    seed_K = np.linspace(-0.02, 0.02, num_seeds)
    draws_TK = 0.01 * np.random.default_rng(0).normal(size=(SAMPLES, num_seeds))
    candidates, score_K, drawn_TK = [], {}, {}
    probe = Probe(
        learner="logistic regression",
        predicted_L=np.zeros(NUM_LABELS),
        strength=1.0,
        tuning_loss=0.5,
    )
    by_hand = Candidate(
        method="hand-made features",
        kind="hand-made",
        features="hand-made",
        learner="logistic regression",
        probes=[probe],
    )
    for place, (name, gain) in enumerate({**gains, "by hand": None}.items()):
        if gain is None:
            candidates.append(by_hand)
            own_K, own_TK = np.array([0.7]), 0.7 + draws_TK[:, :1]
        else:
            candidates.append(
                Candidate(
                    method=name,
                    kind="model",
                    features="mean",
                    learner="logistic regression",
                    probes=[replace(probe, begun_with=own) for own in begun_with[:num_seeds]],
                )
            )
            own_K, own_TK = 0.7 + gain + seed_K, 0.7 + gain + draws_TK
        score_K |= {(place, score): own_K for score in NAMES}
        drawn_TK |= {(place, score): own_TK for score in NAMES}
    return Scored(
        candidates=candidates,
        outcomes=Outcomes(
            outcome_L=np.arange(NUM_LABELS) % 2.0,
            subject_id_L=np.arange(NUM_LABELS),
            boolean=True,
        ),
        chosen_L=np.ones(NUM_LABELS, bool),
        undefined="",
        score_K=score_K,
        draws_TK=drawn_TK,
    )


def compared(gains, **options):
    return differences(made(gains, **options), list(gains), "random")


ONE = {"random": 0.0, "cv": 0.06}
MANY = {**ONE, **{f"policy {number}": 0.002 * number for number in range(1, 7)}}


def test_a_difference_that_is_clear_alone_may_not_be_among_many():
    (alone, _), (among, _) = (
        [pair for pair in compared(gains) if (pair.first, pair.second) == ("cv", "random")]
        for gains in (ONE, MANY)
    )
    assert alone.p == among.p < 0.05
    assert alone.interval == among.interval
    assert alone.interval[0] > 0
    assert among.p_adjusted > 0.05
    assert (alone.verdict, among.verdict) == ("higher", "no clear difference")


def test_all_differences_of_a_task_are_adjusted_together():
    found = compared(MANY)
    assert len(found) == 2 * (7 + 8)  # two scores; against `random`, and all against hand-made ones
    expected = stats.false_discovery_control([pair.p for pair in found])
    np.testing.assert_allclose([pair.p_adjusted for pair in found], expected)


def test_what_is_not_tested_with_two_seeds_costs_nothing_and_is_undecided():
    found = compared(MANY, num_seeds=2)
    assert {pair.verdict for pair in found} == {"undecided"}
    assert all(np.isnan(pair.p) and np.isnan(pair.p_adjusted) for pair in found)


def test_fine_tunings_of_one_pretraining_are_one_seed():
    (one, _), (three, _) = (
        [pair for pair in compared(ONE, begun_with=began) if pair.second == "random"]
        for began in (("a", "a", "a"), ("a", "b", "c"))
    )
    assert (one.num_seeds, one.verdict) == ((1, 1), "undecided")
    assert (three.num_seeds, three.verdict) == ((3, 3), "higher")
    # The mean of three that share a training: its draws of subjects are all that is known of it.
    scored = made(ONE, begun_with=("a", "a", "b"))
    score_K, draws_TK, _ = scored.side(0, "auroc", 1.0)
    np.testing.assert_allclose(score_K, [0.69, 0.72])
    own_TK = scored.draws_TK[0, "auroc"]
    np.testing.assert_allclose(draws_TK, np.stack([own_TK[:, :2].mean(axis=1), own_TK[:, 2]], 1))


def test_the_interval_of_a_score_holds_nothing_that_no_score_can_be():
    scored = made({"random": 0.29})
    low, high = scored.score(0, "auroc").interval
    assert low < scored.score(0, "auroc").value < high == 1.0
