"""Chances to be hidden: those of the draws themselves, whatever the weights and the counts."""

import numpy as np
import pytest

from cvmae.batches.inclusion import error_weights, inclusion_chances
from cvmae.batches.masking import sample_hidden


def expected_counts(lengths, ratio):
    """Return the mean of k over a fine grid of its draw."""
    draws = (np.arange(10_000) + 0.5) / 10_000
    counts = np.floor(ratio * np.asarray(lengths)[:, None] + draws)
    return np.clip(counts, 0, np.maximum(np.asarray(lengths)[:, None] - 1, 0)).mean(axis=1)


def test_chances_are_the_shares_of_draws_and_not_proportional_to_weights():
    volatility = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
    weights = np.resize(volatility, 60).astype(np.float32)
    weights[1:3] = 2.4
    ratio, rows, seeds = 0.26, 20_000, 5  # 15 or 16 of 60
    hidden = [
        sample_hidden(
            subject_id_W=np.arange(rows),
            first_position_W=np.zeros(rows, np.int64),
            length_W=np.full(rows, 60),
            weight_N=np.tile(weights, rows),
            ratio=ratio,
            seed=seed,
            epoch=0,
        )
        for seed in range(seeds)
    ]
    share = np.concatenate(hidden).reshape(-1, 60).mean(axis=0)
    chances = inclusion_chances(np.array([60]), weights, ratio)
    # 4.5 standard errors of a share near 1/2 over 100,000 draws, and the approximation's 0.003.
    np.testing.assert_allclose(chances, share, atol=0.01)
    naive = ratio * 60 * weights / weights.sum()
    assert naive.max() > 1.1
    assert share.max() < 0.9


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.9])
def test_equal_weights_give_everybody_the_expected_share(ratio):
    lengths = np.array([1, 2, 3, 40, 7])
    chances = inclusion_chances(lengths, None, ratio)
    np.testing.assert_allclose(
        chances, np.repeat(expected_counts(lengths, ratio) / lengths, lengths), atol=2e-4
    )
    alike = inclusion_chances(lengths, np.full(lengths.sum(), 0.3, np.float32), ratio)
    np.testing.assert_allclose(alike, chances, rtol=1e-6)


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.9])
def test_the_chances_of_a_sequence_add_up_to_the_expected_count(rng, ratio):
    lengths = rng.integers(1, 200, 50)
    weights = (10 ** rng.uniform(-6, 0, lengths.sum())).astype(np.float32)
    chances = inclusion_chances(lengths, weights, ratio)
    sums = np.add.reduceat(chances, np.cumsum(lengths) - lengths, dtype=np.float64)
    np.testing.assert_allclose(sums, expected_counts(lengths, ratio), atol=2e-3, rtol=1e-3)
    assert chances.min() >= 0
    assert chances.max() <= 1


def test_no_sequences_have_no_chances():
    none = np.zeros(0, np.int64)
    assert len(inclusion_chances(none, np.zeros(0, np.float32), 0.25)) == 0
    assert len(inclusion_chances(none, None, 0.25)) == 0


def test_an_error_counts_as_the_inverse_of_its_chance_and_at_most_a_hundredfold():
    chances = np.array([1.0, 0.25, 0.02, 0.01, 1e-5, 0.0], np.float32)
    np.testing.assert_allclose(error_weights(chances), [1, 4, 50, 100, 100, 100], rtol=1e-6)
