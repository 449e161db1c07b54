"""The two-level rule as published: each value drawn on its own, by its code's chance."""

from dataclasses import replace

import numpy as np
import pytest

from cvmae.batches.bricks import stream_bricks
from cvmae.batches.masking import sample_independently
from cvmae.settings import MaskConfig
from cvmae.train.streams import make_plan
from tests.prepared import training_data


def mask(lengths, chances, *, seed=0, epoch=0, subjects=None, first=None):
    lengths = np.asarray(lengths)
    return sample_independently(
        subject_id_W=np.arange(len(lengths)) if subjects is None else subjects,
        first_position_W=np.zeros_like(lengths) if first is None else first,
        length_W=lengths,
        chance_N=np.asarray(chances, np.float32),
        seed=seed,
        epoch=epoch,
    )


def test_each_value_is_hidden_as_often_as_its_chance_says(rng):
    chances, rows = np.array([0.2, 0.8, 0.2, 0.5, 0.05, 0.2, 0.8, 0.2]), 50_000
    hidden = mask(np.full(rows, 8), np.tile(chances, rows), seed=int(rng.integers(2**31)))
    # 5 standard errors of a share near 1/2 over 50,000 rows; all 8 are hidden one time in 10^5.
    np.testing.assert_allclose(hidden.reshape(rows, 8).mean(axis=0), chances, atol=0.0112)


def test_values_of_a_sequence_are_hidden_independently_of_each_other(rng):
    rows = 50_000
    hidden = mask(np.full(rows, 20), np.full(20 * rows, 0.3), seed=int(rng.integers(2**31)))
    counts = hidden.reshape(rows, 20).sum(axis=1)
    # A binomial's variance, 4.2; its estimate has a standard error of 0.027.
    assert counts.var() == pytest.approx(20 * 0.3 * 0.7, abs=0.14)


def test_one_value_of_every_sequence_stays_visible_and_no_place_more_often(rng):
    rows = 40_000
    hidden = mask(np.full(rows, 2), np.tile([0.8, 0.8], rows), seed=int(rng.integers(2**31)))
    visible = ~hidden.reshape(rows, 2)
    assert visible.any(axis=1).all()
    # Both are hidden in 0.64 of the sequences; then either stays: 0.2 + 0.32 of the time.
    np.testing.assert_allclose(visible.mean(axis=0), 0.52, atol=0.0125)


def test_a_mask_depends_on_its_keys_and_on_nothing_else_in_the_batch(rng):
    lengths = rng.integers(1, 40, 300)
    chances = rng.choice([0.2, 0.8], lengths.sum())
    whole, bounds = mask(lengths, chances), np.cumsum([0, *lengths])
    for row in (0, 17, 299):
        own = slice(bounds[row], bounds[row + 1])
        alone = mask(lengths[row : row + 1], chances[own], subjects=np.array([row]))
        np.testing.assert_array_equal(whole[own], alone)
    assert not np.array_equal(whole, mask(lengths, chances, seed=1))
    assert not np.array_equal(whole, mask(lengths, chances, epoch=1))


def test_no_sequences_give_no_mask():
    assert mask(np.zeros(0, np.int64), []).shape == (0,)


def test_training_hides_by_these_chances_and_tuning_by_the_mask_of_comparisons(tiny):
    data = training_data(tiny)
    published = MaskConfig(policy="cv_two_level", two_level_ratio="published")
    plan = make_plan(replace(tiny, mask=published), data)
    hidden, seen = np.zeros(8), np.zeros(8)
    for epoch in range(30):
        for brick in stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=epoch):
            hidden += np.bincount(brick.code_index_N, brick.hidden_N, minlength=8)
            seen += np.bincount(brick.code_index_N, minlength=8)
    chances = plan.train_reader.weight_C
    assert {*chances} == {np.float32(0.2), np.float32(0.8)}
    # Of each code thousands of values were drawn: 5 standard errors are 0.05 at most.
    np.testing.assert_allclose(hidden / seen, chances, atol=0.05)
    other = make_plan(tiny, data)
    tuning = [
        [
            brick.hidden_N
            for brick in stream_bricks(p.tuning_reader, p.tuning_order, p.units, epoch=0)
        ]
        for p in (plan, other)
    ]
    np.testing.assert_array_equal(*map(np.concatenate, tuning))


def test_the_overall_ratio_is_not_used(tiny):
    data = training_data(tiny)
    first = []
    for ratio in (0.1, 0.6):
        published = MaskConfig(policy="cv_two_level", two_level_ratio="published", ratio=ratio)
        plan = make_plan(replace(tiny, mask=published), data)
        bricks = stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=0)
        first.append(next(iter(bricks)).hidden_N)
    np.testing.assert_array_equal(*first)
