"""Keyed draws: pinned, uniform, independent of one another."""

import numpy as np

from cvmae.batches.keys import counter_hash, stream_keys, uniform


def test_draws_are_the_ones_that_were_published():
    # Golden values: a change here changes every mask and every order ever drawn.
    keys = stream_keys(7, 3, np.array([1, 10_000_032, -5]), stream="mask")
    assert keys.tolist() == [658209321, 3306303957, 777655646]
    assert counter_hash(keys, np.array([0, 1, 511])).tolist() == [
        2830894006,
        3662515763,
        3925076823,
    ]


def test_neighbouring_seeds_epochs_subjects_and_streams_share_no_keys():
    items = np.arange(1000)
    families = [
        stream_keys(seed, epoch, items, stream=stream)
        for seed in (0, 1)
        for epoch in (0, 1)
        for stream in ("mask", "count", "crop", "order", "tie", "deal")
    ]
    keys = np.concatenate(families)
    # 24,000 draws of 32 bits collide 0.07 times on average; 5 would be a pattern.
    assert len(keys) - len(np.unique(keys)) < 5


def test_draws_are_uniform_in_value_and_along_the_sequence(rng):
    keys = np.repeat(stream_keys(int(rng.integers(2**31)), 0, np.arange(400), stream="mask"), 500)
    draws = uniform(counter_hash(keys, np.tile(np.arange(500), 400)))
    counts = np.histogram(draws, bins=256, range=(0, 1))[0]
    expected = len(draws) / 256
    # chi-squared with 255 degrees of freedom: mean 255, standard deviation 22.6.
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * 22.6
    lagged = np.corrcoef(draws[:-1], draws[1:])[0, 1]
    assert abs(lagged) < 5 / np.sqrt(len(draws))


def test_a_draw_has_a_logarithm_at_both_ends():
    ends = uniform(np.array([0, 2**32 - 1], np.uint32))
    assert 0 < ends[0] < ends[1] < 1
