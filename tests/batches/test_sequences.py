"""Windows: every measurement once, lengths alike, short subjects left out."""

import numpy as np
import pytest

from cvmae.batches.sequences import crop_windows, cut_windows, gather_index
from cvmae.meds.measurements import Measurements
from cvmae.statistics.sequence_counts import count_sequences


def measurements_of(lengths: list[int]) -> Measurements:
    total = sum(lengths)
    return Measurements(
        subject_id_S=np.arange(len(lengths)) * 7 + 3,
        offsets_S=np.cumsum([0, *lengths]),
        code_index_N=np.zeros(total, np.int32),
        time_us_N=np.arange(total) * 60_000_000,
        numeric_value_N=np.arange(total, dtype=np.float32),
    )


def test_windows_cover_every_measurement_once_except_of_lone_subjects(rng):
    lengths = [1, 0, 2, 32, 33, 64, 65, *map(int, rng.integers(1, 300, 50))]
    windows = cut_windows(measurements_of(lengths), 32)
    lone = np.repeat(np.array(lengths) < 2, lengths)
    covered = gather_index(windows.start_W, windows.length_W)
    np.testing.assert_array_equal(covered, np.flatnonzero(~lone))


@pytest.mark.parametrize("length", [2, 31, 32, 33, 65, 1000])
def test_windows_of_a_subject_differ_by_at_most_one_and_are_as_few_as_can_be(length):
    windows = cut_windows(measurements_of([length]), 32)
    assert windows.num_sequences == -(-length // 32)
    assert np.ptp(windows.length_W) <= 1
    assert windows.length_W.max() <= 32
    np.testing.assert_array_equal(
        windows.first_position_W, np.cumsum(windows.length_W) - windows.length_W
    )


def test_the_count_is_that_of_the_windows_cut(rng):
    lengths = [*map(int, rng.integers(0, 200, 100))]
    counts = count_sequences(np.array(lengths), 32)
    assert counts.sum() == cut_windows(measurements_of(lengths), 32).num_sequences
    crops = crop_windows(measurements_of(lengths), 32, seed=0, epoch=0)
    assert count_sequences(np.array(lengths), 32, crop=True).sum() == crops.num_sequences


def test_crops_move_from_epoch_to_epoch_and_reach_both_ends():
    data = measurements_of([40] * 500)
    first = [crop_windows(data, 32, seed=1, epoch=epoch).first_position_W for epoch in range(3)]
    assert not np.array_equal(first[0], first[1])
    assert set(np.concatenate(first)) == set(range(9))
