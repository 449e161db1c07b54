"""Hidden values: exact counts, frequencies of the theory, no influence but keys and weights."""

from itertools import permutations

import numpy as np
import pytest

from cvmae.batches.masking import evaluation_hidden, hidden_counts, sample_hidden
from cvmae.meds.measurements import Measurements


def measurements_of(lengths: list[int]) -> Measurements:
    total = sum(lengths)
    return Measurements(
        subject_id_S=np.arange(len(lengths)) * 7 + 3,
        offsets_S=np.cumsum([0, *lengths]),
        code_index_N=np.zeros(total, np.int32),
        time_us_N=np.arange(total) * 60_000_000,
        numeric_value_N=np.arange(total, dtype=np.float32),
    )


def mask(lengths, weights=None, *, ratio=0.25, seed=0, epoch=0, subjects=None, first=None):
    lengths = np.asarray(lengths)
    return sample_hidden(
        subject_id_W=np.arange(len(lengths)) if subjects is None else subjects,
        first_position_W=np.zeros_like(lengths) if first is None else first,
        length_W=lengths,
        weight_N=weights,
        ratio=ratio,
        seed=seed,
        epoch=epoch,
    )


def inclusion_by_theory(weights: np.ndarray, count: int) -> np.ndarray:
    """Successive sampling without replacement, by enumeration of all orders."""
    inclusion = np.zeros(len(weights))
    for order in permutations(range(len(weights)), count):
        chance, rest = 1.0, weights.sum()
        for item in order:
            chance *= weights[item] / rest
            rest -= weights[item]
        inclusion[list(order)] += chance
    return inclusion


def test_inclusion_frequencies_equal_the_theory(rng):
    weights, rows = np.array([1.0, 2.0, 0.1, 5.0, 1.0, 3.0]), 100_000
    hidden = mask(
        np.full(rows, 6),
        np.tile(weights, rows).astype(np.float32),
        ratio=0.5,
        seed=int(rng.integers(2**31)),
    )
    # 5 standard errors of a proportion near 1/2 over 100k rows is 0.008.
    np.testing.assert_allclose(
        hidden.reshape(rows, 6).mean(axis=0), inclusion_by_theory(weights, 3), atol=0.008
    )


def test_every_sequence_hides_exactly_its_count_and_keeps_one_visible(rng):
    lengths = np.concatenate([rng.integers(1, 600, 500), [1, 2, 3, 60_000]])
    weights = rng.random(lengths.sum()).astype(np.float32) + 1e-6
    hidden = mask(lengths, weights, ratio=0.9)
    counts = hidden_counts(
        np.arange(len(lengths)), np.zeros_like(lengths), lengths, ratio=0.9, seed=0, epoch=0
    )
    np.testing.assert_array_equal(np.add.reduceat(hidden, np.cumsum(lengths) - lengths), counts)
    assert np.all(counts < lengths)


@pytest.mark.parametrize("length", [2, 3, 5, 7])
def test_the_expected_share_is_exact_for_short_sequences(length):
    subjects = np.arange(40_000)
    counts = hidden_counts(
        subjects, np.zeros_like(subjects), np.full(40_000, length), ratio=0.25, seed=5, epoch=0
    )
    # A count is one of two neighbours: its standard deviation is at most 1/2.
    assert abs(counts.mean() - 0.25 * length) < 5 * 0.5 / np.sqrt(40_000)


def test_equal_weights_hide_what_random_hides_bit_for_bit(rng):
    lengths = rng.integers(2, 300, 200)
    ones = np.ones(lengths.sum(), np.float32)
    np.testing.assert_array_equal(mask(lengths, ones), mask(lengths))


def test_a_mask_does_not_depend_on_what_else_is_in_the_batch(rng):
    lengths = rng.integers(2, 300, 100)
    weights = rng.random(lengths.sum()).astype(np.float32)
    whole = mask(lengths, weights)
    bounds = np.cumsum([0, *lengths])
    for row in (0, 17, 99):
        alone = mask(
            lengths[row : row + 1],
            weights[bounds[row] : bounds[row + 1]],
            subjects=np.array([row]),
        )
        np.testing.assert_array_equal(whole[bounds[row] : bounds[row + 1]], alone)


def test_no_sequences_give_no_mask():
    assert mask(np.zeros(0, np.int64)).shape == (0,)
    assert evaluation_hidden(measurements_of([]), ratio=0.25, seed=0).shape == (0,)


def test_masks_differ_between_epochs_seeds_and_windows_of_a_subject():
    lengths, same = np.full(4, 200), np.zeros(4, np.int64)
    base = mask(lengths, subjects=same, first=np.arange(4) * 200)
    assert len({row.tobytes() for row in base.reshape(4, 200)}) == 4
    assert not np.array_equal(base, mask(lengths, subjects=same, first=np.arange(4) * 200, epoch=1))
    assert not np.array_equal(base, mask(lengths, subjects=same, first=np.arange(4) * 200, seed=1))


def test_ties_are_broken_by_position():
    # Weights so heavy that all finish at once, at time zero.
    hidden = mask([8], np.full(8, np.inf, np.float32), ratio=0.5)
    assert hidden.sum() == 4


def test_the_evaluation_mask_is_drawn_before_windows_are_cut(rng):
    data = measurements_of([1, 700, 40])
    hidden = evaluation_hidden(data, ratio=0.25, seed=9)
    assert not hidden[0]
    assert hidden[1:701].sum() in (175, 176)
    np.testing.assert_array_equal(hidden, evaluation_hidden(data, ratio=0.25, seed=9))
