from dataclasses import replace

import numpy as np
import pytest

from cvmae.evaluate.context import KEPT, truncations
from cvmae.evaluate.history import visible_before
from cvmae.evaluate.perturbation import NOISE, corruptions
from cvmae.evaluate.targets import Window, find_targets, smallest, window_of
from cvmae.meds.measurements import Measurements
from tests.evaluate.made_results import make_statistics

A, B, C = range(3)


def measured(*subjects):
    """Measurements of subjects 10, 11, ...: each a list of codes, an hour apart."""
    codes = np.concatenate([np.asarray(codes, np.int16) for codes in subjects])
    lengths = [len(codes) for codes in subjects]
    return Measurements(
        subject_id_S=10 + np.arange(len(subjects)),
        offsets_S=np.cumsum([0, *lengths]),
        code_index_N=codes,
        time_us_N=np.concatenate([np.arange(n) for n in lengths]) * 3_600_000_000,
        numeric_value_N=np.arange(len(codes), dtype=np.float32),
    )


def find(measurements, *, sequence_length=512, min_priors=3, seed=0):
    return find_targets(measurements, sequence_length, min_priors=min_priors, seed=seed)


def test_a_target_is_the_last_of_its_code_with_priors_enough():
    found = find(measured([A, B, A, B, A, B, A], [B, A, B, B, B, C]))
    # Four of A in the first subject, of which the last stands at 6; of B there are three.
    assert found.index_T.tolist() == [6, 7 + 4]
    assert found.code_T.tolist() == [A, B]
    assert found.num_prior_T.tolist() == [3, 3]
    assert found.subject_id_T.tolist() == [10, 11]
    assert (found.start_T.tolist(), found.end_T.tolist()) == ([0, 7], [7, 13])


def test_subjects_of_several_files_do_not_ascend_and_each_has_its_targets():
    rows = measured(*[[A, B, A, A, A]] * 6)
    files = replace(rows, subject_id_S=np.array([2, 4, 6, 1, 3, 5]))
    assert find(files).index_T.tolist() == [4, 9, 14, 19, 24, 29]
    assert find(files).subject_id_T.tolist() == [2, 4, 6, 1, 3, 5]


def test_what_counts_as_prior_stands_in_the_targets_own_window():
    codes = [A, B] * 8  # two windows of eight: four of A in each
    found = find(measured(codes), sequence_length=8)
    assert found.num_prior_T.tolist() == [3, 3]
    assert found.index_T.tolist() == [14, 15]  # once a subject and code, not once a window
    assert found.first_position_T.tolist() == [8, 8]
    assert len(find(measured(codes), sequence_length=8, min_priors=4).index_T) == 0


def test_a_target_with_a_twin_is_left_out():
    rows = measured([A, A, A, A, A, B])
    times = rows.time_us_N.copy()
    times[4] = times[3]
    assert len(find(rows).index_T) == 1
    assert len(find(replace(rows, time_us_N=times)).index_T) == 0


def test_a_window_of_one_code_alone_has_no_target():
    assert len(find(measured([A] * 6)).index_T) == 0


def test_a_unit_without_measurements_has_no_target():
    assert len(find(measured([])).index_T) == 0


def test_draws_depend_on_seed_subject_and_position_only():
    together = find(measured([A, B] * 5, [A, C] * 6))
    alone = find(replace(measured([A, C] * 6), subject_id_S=np.array([11])))
    assert together.draw_T[2:].tolist() == alone.draw_T.tolist()
    assert len(set(together.draw_T.tolist())) == 4
    assert set(find(measured([A, B] * 5), seed=1).draw_T) != set(together.draw_T[:2])
    assert sorted(smallest(together.draw_T, 2)) == sorted(together.draw_T)[:2]


def test_prior_values_count_where_they_are_visible_and_in_the_same_sequence():
    sequence = np.array([0, 0, 0, 0, 1, 1])
    code = np.array([A, B, A, A, A, A])
    visible = np.array([1, 1, 0, 0, 1, 0], bool)
    assert visible_before(sequence, code, visible).tolist() == [0, 0, 1, 1, 0, 1]


def window(codes, values=None, subject=10):
    rows = measured(codes)
    if values is not None:
        rows = replace(rows, numeric_value_N=np.asarray(values, np.float32))
    rows = replace(rows, subject_id_S=np.array([subject]))
    found = find(rows, min_priors=1)
    last = int(np.flatnonzero(found.code_T == A)[0])
    return window_of(rows, found, last)


def test_truncation_leaves_the_last_values_of_the_code_and_everything_else():
    given = window([A, B, A, A, B, A, A])
    assert (given.place, given.priors_P.tolist()) == (6, [0, 2, 3, 5])
    kept = [v.kept_L.astype(int).tolist() for v in truncations(given, make_statistics(), 0)]
    assert KEPT[:3] == (0, 1, 2)
    assert kept[0] == [0, 1, 0, 0, 1, 0, 1]
    assert kept[1] == [0, 1, 0, 0, 1, 1, 1]
    assert kept[2] == [0, 1, 0, 1, 1, 1, 1]
    assert kept[3:] == [[1] * 7] * 3  # 4, 8 and all: there are four


def test_noise_has_the_stated_size_and_touches_the_codes_own_history_only():
    rng = np.random.default_rng(3)
    scales = []
    for subject in range(1000):
        values = 100 + 10 * rng.normal(size=6)
        given = window([A, B, A, A, B, A], values, subject=subject)
        clean, own, other = corruptions(given, make_statistics(), seed=5)
        assert other is None  # B has one value before
        assert clean.value_L.tolist() == given.value_L.tolist()
        changed = own.value_L - given.value_L
        assert changed[[1, 4, 5]].tolist() == [0, 0, 0]
        scales.append(changed[[0, 2, 3]] / (NOISE * given.value_L[[0, 2, 3]].std(ddof=1)))
    # 3,000 draws of a standard normal: four standard errors of mean and deviation.
    assert abs(np.mean(scales)) < 4 / np.sqrt(3000)
    assert np.std(scales) == pytest.approx(1, abs=4 / np.sqrt(6000))


def test_the_noise_is_the_same_whoever_asks_and_for_whatever_reason():
    codes = [A, B, A, B, A, B, A, B]
    values = np.arange(8) + 100.0
    given = window(codes, values)
    statistics = make_statistics()
    assert np.array_equal(
        corruptions(given, statistics, 5)[1].value_L, corruptions(given, statistics, 5)[1].value_L
    )
    # The values of B are corrupted alike where B is the target and where it is the control.
    as_target = Window(**given._asdict() | {"place": 7, "priors_P": np.array([1, 3, 5])})
    own = corruptions(as_target, statistics, 5)[1].value_L
    control = corruptions(given, statistics, 5)[2].value_L
    assert np.array_equal(own[[1, 3, 5]], control[[1, 3, 5]])
    assert control[[0, 2, 4, 6]].tolist() == values[[0, 2, 4, 6]].tolist()
    assert not np.array_equal(corruptions(given, statistics, 6)[1].value_L, own)


def test_corrupted_values_stay_within_the_clipping_and_a_slip_of_units_makes_no_noise():
    plain = make_statistics()
    bounds = {"clip_low": np.full(12, 99.0), "clip_high": np.full(12, 101.0)}
    clipped = replace(plain, **bounds)
    given = window([A, B, A, A, B, A], [99.5, 0, 100.5, 10_000, 0, 100])
    own = corruptions(given, clipped, seed=5)[1].value_L[[0, 2, 3]]
    assert (own >= 99).all()
    assert (own <= 101).all()
    assert ((own > 99) & (own < 101)).any()  # noise of 10,000 would end at the bounds
    assert abs(corruptions(given, plain, seed=5)[1].value_L[0] - 99.5) > 100
