"""Columns: what each hides, the same for any batching; one target of each subject and code."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from cvmae.batches.columns import (
    LEAVE_ONE_OUT,
    Column,
    choose_targets,
    column_hidden,
    uniform_column,
)
from cvmae.batches.evaluation import column_batches, evaluation_batches
from cvmae.batches.masking import evaluation_hidden
from cvmae.meds.dataset import open_dataset
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_unit
from cvmae.meds.units import plan_units
from tests.prepared import fit

SINGLE = Column(name=LEAVE_ONE_OUT, kind=LEAVE_ONE_OUT, meaning="")


def many_measurements(rng, num_subjects=400, length=40, num_codes=5):
    """Subjects of one length, no twins, codes at random."""
    total = num_subjects * length
    return Measurements(
        subject_id_S=rng.permutation(10 * num_subjects)[:num_subjects].astype(np.int64),
        offsets_S=np.arange(num_subjects + 1) * length,
        code_index_N=rng.integers(0, num_codes, total).astype(np.int32),
        time_us_N=np.arange(total) * 60_000_000,
        numeric_value_N=rng.normal(size=total).astype(np.float32),
    )


def own_mask(weight_C, **changes):
    column = Column(name="own", kind="own mask", meaning="", ratio=0.25, weight_C=weight_C)
    return replace(column, **changes)


def hospital_unit(tiny):
    dataset, fitted = open_dataset(tiny.data.root), fit(tiny)
    (unit,) = plan_units(dataset, 10**6)
    measurements, _ = read_unit(dataset.source, unit, fitted.statistics.lookup, "train")
    return dataset, fitted.statistics, unit, measurements


def test_the_uniform_column_is_the_mask_of_every_comparison_bit_for_bit(tiny):
    dataset, statistics, unit, measurements = hospital_unit(tiny)
    options = {"sequence_length": 32, "seed": 5}
    before = evaluation_batches(dataset, unit, statistics, split="train", ratio=0.25, **options)
    after = column_batches(measurements, statistics, uniform_column(0.25), **options)
    digests = [[part.batch.digest() for part in parts] for parts in (before, after)]
    assert len(digests[0]) > 0
    assert digests[0] == digests[1]
    hidden = column_hidden(uniform_column(0.25), measurements, seed=5)
    expected = evaluation_hidden(measurements, ratio=0.25, seed=5)
    np.testing.assert_array_equal(hidden, expected)


def test_equal_weights_hide_what_the_uniform_column_hides(rng):
    measurements = many_measurements(rng)
    hidden = column_hidden(own_mask(np.ones(5, np.float32)), measurements, seed=3)
    expected = column_hidden(uniform_column(0.25), measurements, seed=3)
    np.testing.assert_array_equal(hidden, expected)


def test_an_own_mask_hides_as_many_values_and_heavy_codes_more_often(rng):
    measurements = many_measurements(rng)
    weight_C = np.array([1, 0.5, 0.25, 0.05, 0.01], np.float32)
    hidden = column_hidden(own_mask(weight_C), measurements, seed=3)
    rate_C = np.array([hidden[measurements.code_index_N == code].mean() for code in range(5)])
    assert hidden.mean() == 0.25  # of 40 measurements exactly 10
    assert (np.diff(rate_C) < 0).all()
    assert rate_C[0] > 10 * rate_C[4]


def test_independent_draws_hide_each_code_by_its_own_chance(rng):
    measurements = many_measurements(rng)
    chance_C = np.array([0.8, 0.2, 0.2, 0.2, 0.2], np.float32)
    column = own_mask(chance_C, draws_independently=True)
    hidden = column_hidden(column, measurements, seed=3)
    rate_C = np.array([hidden[measurements.code_index_N == code].mean() for code in range(5)])
    # 3,200 values of a code: five standard errors of a share of 0.2 are 0.035.
    np.testing.assert_allclose(rate_C, chance_C, atol=0.036)


def test_leave_one_out_hides_one_value_of_each_subject_and_code_in_its_own_window(tiny):
    _, statistics, _, measurements = hospital_unit(tiny)
    seen = []
    for part in column_batches(measurements, statistics, SINGLE, sequence_length=32, seed=5):
        batch = part.batch
        assert (batch.num_hidden_B == 1).all()
        assert part.scored_M.all()
        lengths_B = batch.num_visible_B + batch.num_hidden_B
        assert lengths_B.max() <= 32
        codes_M = part.code_index_N[batch.hidden_M.numpy()]
        seen += zip(part.subject_id_B.tolist(), codes_M.tolist(), strict=True)
    lengths_S = np.diff(measurements.offsets_S)
    subject_N = np.repeat(measurements.subject_id_S, lengths_S)
    long_N = np.repeat(lengths_S >= 2, lengths_S)
    pairs = zip(subject_N[long_N].tolist(), measurements.code_index_N[long_N].tolist(), strict=True)
    assert len(seen) == len(set(seen)) > 50
    assert set(seen) == set(pairs)


def test_the_other_values_of_a_window_are_visible_and_as_they_were(tiny):
    _, statistics, _, measurements = hospital_unit(tiny)
    whole = list(
        column_batches(measurements, statistics, uniform_column(0.25), sequence_length=32, seed=5)
    )
    windows = set()
    for part in whole:
        offsets = part.batch.offsets_B.tolist()
        for first, last in itertools.pairwise(offsets):
            windows.add(part.batch.value_N[first:last].numpy().tobytes())
    for part in column_batches(measurements, statistics, SINGLE, sequence_length=32, seed=5):
        offsets = part.batch.offsets_B.tolist()
        for first, last in itertools.pairwise(offsets):
            assert part.batch.value_N[first:last].numpy().tobytes() in windows


@pytest.mark.parametrize("most", [40, 100_000])
def test_targets_do_not_depend_on_how_copies_are_batched(tiny, most):
    _, statistics, _, measurements = hospital_unit(tiny)
    expected = measurements.numeric_value_N[choose_targets(measurements, seed=5).index_T]
    parts = column_batches(
        measurements, statistics, SINGLE, sequence_length=32, seed=5, max_measurements=most
    )
    found = [part.numeric_value_N[part.batch.hidden_M.numpy()] for part in parts]
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_a_value_with_a_twin_and_a_lone_one_are_no_targets():
    targets = choose_targets(
        Measurements(
            subject_id_S=np.array([1, 2]),
            offsets_S=np.array([0, 4, 5]),
            #                      twins   a lone code, and the third of code 0 | a lone subject
            code_index_N=np.array([0, 0, 1, 0, 0], np.int32),
            time_us_N=np.array([5, 5, 5, 9, 9]),
            numeric_value_N=np.arange(5, dtype=np.float32),
        ),
        seed=1,
    )
    assert targets.index_T.tolist() == [2, 3]


def test_targets_and_draws_are_uniform_and_a_limit_favours_no_frequent_code(rng):
    measurements = many_measurements(rng, num_subjects=2000)
    code_N = measurements.code_index_N
    code_N[:] = np.tile([0] * 36 + [1, 2, 3, 4], 2000)
    found = choose_targets(measurements, seed=8)
    position = found.index_T % 40
    often = position[code_N[found.index_T] == 0]
    # 2,000 draws over 36 places: mean 17.5, standard error 10.4 / sqrt(2000) = 0.23.
    assert abs(often.mean() - 17.5) < 1.2
    taken = found.below(0.3)
    share_C = np.bincount(code_N[taken], minlength=5) / 2000
    # Five standard errors of a share of 0.3 over 2,000 subjects: 0.051.
    np.testing.assert_allclose(share_C, 0.3, atol=0.052)
