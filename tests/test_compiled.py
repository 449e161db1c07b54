"""Compiled passes, each against a plain loop over ragged random input."""

from itertools import pairwise

import numpy as np
import pytest

from cvmae import compiled
from cvmae.batches.keys import counter_hash, uniform

SEEDS = range(30)


def ragged(rng, most_rows=40):
    """Return where each of some subjects ends: S + 1 entries."""
    return np.concatenate([[0], np.cumsum(rng.integers(1, most_rows, rng.integers(1, 12)))])


def bitmap_of(valid_N, first_bit):
    bits = np.concatenate([np.ones(first_bit, bool), valid_N])
    return np.packbits(bits, bitorder="little")


@pytest.mark.parametrize("seed", SEEDS)
def test_subjects_begin_where_they_change(seed):
    rng = np.random.default_rng(seed)
    subject_N = np.repeat(np.cumsum(rng.integers(1, 9, 6)), rng.integers(1, 150, 6))
    starts = np.empty(len(subject_N) + 1, np.int64)
    count = compiled.find_starts(subject_N, starts)
    changes = [i for i in range(1, len(subject_N)) if subject_N[i] != subject_N[i - 1]]
    assert starts[:count].tolist() == [0, *changes]
    row = int(rng.choice(changes))
    subject_N[row:] -= subject_N[row] - subject_N[row - 1] + 1
    assert compiled.find_starts(subject_N, starts) == -1 - row
    assert compiled.find_starts(subject_N[:0], starts) == 0


def timed_rows(rng, ends):
    """Return times that ascend in each subject, and which rows have one: the first may not."""
    time_N = rng.integers(0, 50, ends[-1])
    timed_N = np.ones(ends[-1], bool)
    for begin, end in pairwise(ends):
        time_N[begin:end].sort()
        timed_N[begin : begin + rng.choice([0, 0, 1, end - begin])] = False
    return np.where(timed_N, time_N, rng.integers(-99, 999, len(time_N))), timed_N


def find_timed(time_N, timed_N, ends, first=0, last=50, first_bit=3):
    timed_S = np.empty(len(ends) - 1, np.int64)
    nulls = int((~timed_N).sum())
    bitmap = bitmap_of(timed_N, first_bit) if nulls else np.empty(0, np.uint8)
    good = compiled.find_timed(time_N, bitmap, first_bit, nulls, ends, first, last, timed_S)
    return good, timed_S.tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_times_are_found_and_their_order_is_checked(seed):
    rng = np.random.default_rng(seed)
    ends = ragged(rng)
    time_N, timed_N = timed_rows(rng, ends)
    expected = [
        next((row for row in range(begin, end) if timed_N[row]), end)
        for begin, end in pairwise(ends)
    ]
    assert find_timed(time_N, timed_N, ends) == (True, expected)
    pairs = [i for i in range(1, ends[-1]) if i not in ends and timed_N[i - 1] and timed_N[i]]
    if not pairs:
        return
    row = int(rng.choice(pairs))
    earlier = time_N.copy()
    earlier[row] = time_N[row - 1] - 1
    assert not find_timed(earlier, timed_N, ends, first=-9)[0]
    late_null = timed_N.copy()
    late_null[row] = False
    assert not find_timed(time_N, late_null, ends)[0]
    assert not find_timed(time_N, timed_N, ends, first=int(time_N[timed_N].min()) + 1)[0]
    assert not find_timed(time_N, timed_N, ends, last=int(time_N[timed_N].max()) - 1)[0]


@pytest.mark.parametrize("code_type", [np.int16, np.int32])
@pytest.mark.parametrize("seed", SEEDS)
def test_measurements_are_picked_as_row_by_row(seed, code_type):
    rng = np.random.default_rng(seed)
    ends = ragged(rng)
    time_N, timed_N = timed_rows(rng, ends)
    timed_S = np.array(find_timed(time_N, timed_N, ends)[1])
    num_rows, chosen_S = int(ends[-1]), rng.random(len(ends) - 1) < 0.7
    code_index_of = rng.integers(-1, 5, 9).astype(code_type)
    index_N = rng.integers(0, 9, num_rows).astype(np.uint32)
    value_N = rng.choice([1.5, -2.0, np.nan, np.inf, -np.inf], num_rows).astype(np.float32)
    valued_N = rng.random(num_rows) < (1 if seed % 3 == 0 else 0.6)
    first_bit = int(rng.integers(0, 9))
    empty = np.empty(0, np.uint8)
    bitmap = empty if valued_N.all() else bitmap_of(valued_N, first_bit)
    kept: list[tuple[int, int, float]] = []
    counts, count_S = [0] * 5, np.zeros(len(chosen_S), int)
    for subject in np.flatnonzero(chosen_S):
        for row in range(ends[subject], ends[subject + 1]):
            code = code_index_of[index_N[row]]
            passed = [code >= 0, valued_N[row], timed_N[row], np.isfinite(value_N[row])]
            counts[0] += 1
            for place in range(4):
                counts[place + 1] += all(passed[: place + 1])
            if all(passed):
                kept.append((code, time_N[row], value_N[row]))
                count_S[subject] += 1
    found_S = np.empty(len(chosen_S), np.int64)
    code, time = np.empty(num_rows + 1, code_type), np.empty(num_rows + 1, np.int64)
    value = np.empty(num_rows + 1, np.float32)
    rows = (index_N, code_index_of, time_N, value_N, bitmap, first_bit, ends, timed_S)
    found = compiled.pick_rows(*rows, chosen_S, found_S, code, time, value)
    assert list(found) == counts
    assert found_S.tolist() == count_S.tolist()
    columns = (column[: len(kept)] for column in (code, time, value))
    assert list(zip(*columns, strict=True)) == kept


@pytest.mark.parametrize("seed", SEEDS)
def test_draws_are_those_of_the_keys(seed):
    rng = np.random.default_rng(seed)
    length_W = np.diff(ragged(rng))
    key_W = rng.integers(0, 2**32, len(length_W), dtype=np.uint32)
    first_W = rng.integers(0, 2**34, len(length_W))
    draws = np.empty(length_W.sum())
    compiled.draw(key_W, first_W, length_W, draws)
    expected = [
        uniform(counter_hash(np.repeat(key, length), first + np.arange(length)))
        for key, first, length in zip(key_W, first_W, length_W, strict=True)
    ]
    np.testing.assert_array_equal(draws, np.concatenate(expected), strict=True)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_earliest_are_hidden_and_ties_go_to_the_first(seed, weighted):
    rng = np.random.default_rng(seed)
    ends = ragged(rng, most_rows=200 if seed % 2 else 8)
    length_W = np.diff(ends)
    hidden_W = rng.integers(0, length_W)
    # Few different draws: ties, across the last place, too.
    draws = rng.choice(rng.random(4 if seed % 3 else 4000), ends[-1])
    log_N = np.log(draws)
    weight_N = (rng.random(ends[-1] if weighted else 0) + 0.1).astype(np.float32)
    hidden_N = np.empty(ends[-1], bool)
    scratch = np.empty(ends[-1], np.float32)
    compiled.hide_earliest(log_N, weight_N, length_W, hidden_W, scratch, hidden_N)
    finish_N = (-log_N / weight_N if weighted else -log_N).astype(np.float32)
    for begin, end, count in zip(ends[:-1], ends[1:], hidden_W, strict=True):
        first = np.argsort(finish_N[begin:end], kind="stable")[:count]
        assert np.flatnonzero(hidden_N[begin:end]).tolist() == sorted(first.tolist())


@pytest.mark.parametrize("code_type", [np.int16, np.int32])
@pytest.mark.parametrize("seed", SEEDS)
def test_columns_are_transformed_as_measurement_by_measurement(seed, code_type):
    rng = np.random.default_rng(seed)
    ends = ragged(rng)
    total, chosen = int(ends[-1]), rng.permutation(len(ends) - 1)
    start_W, length_W = ends[chosen], np.diff(ends)[chosen]
    code_M = rng.integers(0, 7, total).astype(code_type)
    # Up to minutes that do not fit, and just below and at whole ones.
    most = 60_000_000 * int(rng.choice([1000, 2**31, 2**32]))
    time_M = rng.integers(0, most, total) // 60_000_000 * 60_000_000 - rng.integers(0, 2, total)
    for begin, end in pairwise(ends):
        time_M[begin:end].sort()
    value_M = rng.normal(5, 40, total).astype(np.float32)
    low_C, high_C = np.full(7, -9, np.float32), np.full(7, 60, np.float32)
    mean_C, std_C = rng.normal(size=7), rng.random(7) + 0.1
    weight_C = rng.random(7 * (seed % 2)).astype(np.float32)
    code, minutes = np.empty(total, np.uint16), np.empty(total, np.int32)
    z, weight = np.empty(total, np.float32), np.zeros(total * (seed % 2), np.float32)
    tables = (low_C, high_C, mean_C, std_C)
    columns = (start_W, length_W, code_M, time_M, value_M)
    compiled.transform(*columns, *tables, weight_C, code, minutes, z, weight)
    place = 0
    for start, length in zip(start_W.tolist(), length_W.tolist(), strict=True):
        for row in range(start, start + length):
            entry = code_M[row]
            elapsed = (int(time_M[row]) - int(time_M[start])) // 60_000_000
            clipped = np.float64(min(max(value_M[row], low_C[entry]), high_C[entry]))
            assert code[place] == entry
            assert minutes[place] == min(elapsed, 2**31 - 1)
            assert z[place] == np.float32((clipped - mean_C[entry]) / std_C[entry])
            assert not len(weight) or weight[place] == weight_C[entry]
            place += 1
    alone = np.empty(total, np.float32)
    compiled.standardise(code.astype(np.int64), value_M, *tables, alone)
    row_N = np.concatenate([np.arange(s, s + n) for s, n in zip(start_W, length_W, strict=True)])
    compiled.standardise(code.astype(np.int64), value_M[row_N], *tables, alone)
    np.testing.assert_array_equal(alone, z, strict=True)


@pytest.mark.parametrize("code_type", [np.uint16, np.int32])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_batch_is_filled_cell_by_cell(seed, code_type):
    rng = np.random.default_rng(seed)
    cells = []
    for _ in range(int(rng.integers(1, 5))):
        length_W = np.diff(ragged(rng)).astype(np.int32)[: rng.integers(0, 9)]
        total = int(length_W.sum())
        code = rng.integers(0, 99, total).astype(code_type)
        minutes = rng.integers(0, 2**31 - 1, total).astype(np.int32)
        value = rng.normal(size=total).astype(np.float32)
        cells.append((length_W, code, minutes, value, rng.random(total) < 0.4))
    length_W, code, minutes, value, hidden = (np.concatenate(c) for c in zip(*cells, strict=True))
    total, count = len(code), int(hidden.sum())
    code_N, hours_N = np.empty(total, np.int32), np.empty(total, np.float32)
    value_N, counts = np.empty(total, np.float32), np.empty(len(length_W), np.int64)
    visible, masked = np.empty(total - count + 1, np.int64), np.empty(count + 1, np.int64)
    at, sequence, done = 0, 0, 0
    for cell in cells:
        own = counts[sequence : sequence + len(cell[0])]
        columns = (code_N, hours_N, value_N, visible, masked, own)
        done = compiled.fill_batch(*cell, at, done, *columns)
        at, sequence = at + len(cell[1]), sequence + len(cell[0])
    assert done == count
    np.testing.assert_array_equal(code_N, code)
    np.testing.assert_array_equal(hours_N, minutes.astype(np.float32) / np.float32(60), strict=True)
    np.testing.assert_array_equal(value_N, value)
    np.testing.assert_array_equal(visible[:-1], np.flatnonzero(~hidden))
    np.testing.assert_array_equal(masked[:-1], np.flatnonzero(hidden))
    ends = np.cumsum(length_W)
    by_loop = [hidden[end - n : end].sum() for end, n in zip(ends, length_W, strict=True)]
    assert counts.tolist() == by_loop
