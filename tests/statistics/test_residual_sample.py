"""Residuals that are too many to keep: a sample that is fair, and the same however it is made."""

from dataclasses import replace

import numpy as np
import pytest

from cvmae.statistics import residual_sample
from cvmae.statistics.residual_sample import MOST_OF_A_CODE, ResidualSample
from cvmae.statistics.residuals import Residuals


def part_of(rng, *sizes):
    """Residuals of so many values of each code, with draws."""
    num_values = sum(sizes)
    return ResidualSample(
        code_Q=rng.permutation(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)),
        residual_Q=rng.normal(size=num_values),
        draw_Q=rng.integers(2**32, size=num_values, dtype=np.uint32),
        count_C=np.array(sizes),
        subjects_C=np.array(sizes) // 4,
        num_subjects=num_values // 4,
    )


def kept(sample):
    return sorted(zip(sample.code_Q, sample.draw_Q, sample.residual_Q, strict=True))


def test_all_values_are_kept_where_they_are_no_more_than_the_most_of_a_code(rng):
    part = part_of(rng, 100, 0, 40)
    whole = ResidualSample.total([part], 3, most=100)
    assert kept(whole) == kept(part)
    assert sorted(whole.of_all()) == sorted(part.residual_Q)
    assert MOST_OF_A_CODE == ResidualSample.total([], 3).most >= 10_000


def test_of_more_those_with_the_smallest_draws_are_kept_and_all_are_counted(rng):
    parts = [part_of(rng, 300, 20), part_of(rng, 500, 30)]
    whole = ResidualSample.total(parts, 2, most=100)
    everything = ResidualSample.total(parts, 2)
    for code, expected in ((0, 100), (1, 50)):
        own = np.sort(whole.draw_Q[whole.code_Q == code])
        of_all = np.sort(everything.draw_Q[everything.code_Q == code])
        assert own.tolist() == of_all[:expected].tolist()
    assert whole.count_C.tolist() == [800, 50]
    assert whole.subjects_C.tolist() == [200, 12]
    assert whole.num_subjects == 212


def test_what_is_kept_depends_neither_on_the_order_of_parts_nor_on_merging(rng, monkeypatch):
    parts = [part_of(rng, 90 * n, 10) for n in range(12)]
    equal = [replace(part, draw_Q=part.draw_Q % 50) for part in parts]  # draws that are not unique
    for own in (parts, equal):
        once = ResidualSample.total(own, 2, most=200)
        with monkeypatch.context() as patch:
            patch.setattr(residual_sample, "AT_ONCE", 1)
            for order in (range(12), rng.permutation(12)):
                again = ResidualSample.total((own[n] for n in order), 2, most=200)
                assert kept(again) == kept(once)
                assert sorted(again.of_all()) == sorted(once.of_all())
    assert len(once.code_Q) >= 200


def test_memory_is_bounded_however_many_parts_there_are(rng, monkeypatch):
    monkeypatch.setattr(residual_sample, "AT_ONCE", 5_000)
    sizes = []
    with_others = ResidualSample._with

    def spied(self, parts):
        sizes.append(len(self.code_Q) + sum(len(part.code_Q) for part in parts))
        return with_others(self, parts)

    monkeypatch.setattr(ResidualSample, "_with", spied)
    whole = ResidualSample.total((part_of(rng, 900, 100) for _ in range(200)), 2, most=1000)
    assert whole.count_C.sum() == 200_000
    assert max(sizes) <= 2_000 + 5_000 + 1_000


def test_the_sample_of_all_codes_takes_each_value_with_the_same_chance(rng):
    part = part_of(rng, 40_000, 10_000, 200)
    part = replace(part, residual_Q=part.code_Q.astype(float))
    whole = ResidualSample.total([part], 3, most=4_000)
    drawn = np.bincount(whole.of_all().astype(int), minlength=3)
    assert drawn[0] == 4_000
    # A tenth of each: 5 standard errors of 10,000 draws are 150, of 200 they are 21.
    assert drawn[1] == pytest.approx(1_000, abs=150)
    assert drawn[2] == pytest.approx(20, abs=21)
    assert len(whole.code_Q) == 8_200


def test_an_interval_by_a_sample_holds_as_often_as_the_level_says(rng):
    held = []
    for _ in range(300):
        sample = ResidualSample.total([part_of(rng, 1_000, 60)], 2, most=150)
        own = Residuals.of(sample, ("own", "of all"), 0.9, past_only=False)
        assert own.is_own_C.tolist() == [True, False]
        assert own.count_C.tolist() == [1_000, 60]
        value = rng.normal(size=(50, 1))
        held.append(np.mean((own.low_C <= value) & (value <= own.high_C), axis=0))
    # By ranks 137 of 151 for 150 values, and about 0.9 for some 160; 5 standard errors: 0.014.
    assert np.mean(held, axis=0) == pytest.approx([137 / 151, 0.9], abs=0.014)
