"""Compiled passes over rows: each does in one loop what array operations need several for.

Plain loops over flat arrays of fixed types. They check nothing of what they are given: their
callers do, and tests compare each with a loop in Python. Integer and float64 operations follow
IEEE and are not reordered, so that results are the same bits as NumPy's.
"""

import functools
import math
from typing import Any

import numba
import numpy as np
from numba import types

from cvmae.runtime.compile_cache import compile_for

__all__ = [
    "draw",
    "fill_batch",
    "find_starts",
    "find_timed",
    "hide_earliest",
    "inclusion",
    "pick_rows",
    "standardise",
    "transform",
]

US_PER_MINUTE = np.uint64(60_000_000)
MOST_MINUTES = np.uint64(np.iinfo(np.int32).max)
# Below, a quotient in float64 never rounds up to the next whole minute: it stays 1 / 60e6 away,
# which is more than half of the last bit.
EXACT_US = 2**51
STRIDE = 64  # rows looked at together for a new subject
MOST_FLOAT32 = np.finfo(np.float32).max

# Shape letters: N rows or measurements, S subjects, M kept rows, W sequences, C codes.


def _in(kind: Any) -> Any:
    """Return the type of an array that is only read; writable ones may be given as well."""
    return types.Array(kind, 1, "C", readonly=True)


_compile = functools.partial(compile_for, nogil=True, error_model="numpy")
_i16, _i32, _i64 = types.int16, types.int32, types.int64
_u8, _u16, _u32 = types.uint8, types.uint16, types.uint32
_f32, _f64, _bool = types.float32, types.float64, types.boolean


@_compile(_i64(_in(_i64), _i64[::1]))
def find_starts(subject_N, starts_S):
    """Write where each run of equal subjects begins; return their number.

    Returns -1 - row at the first row of a lower subject than the one before it.
    """
    count = 0
    last = len(subject_N) - 1
    if last < 0:
        return count
    starts_S[0] = 0
    count = 1
    before, after = subject_N[:-1], subject_N[1:]
    for begin in range(0, last, STRIDE):
        own, following = before[begin : begin + STRIDE], after[begin : begin + STRIDE]
        changes = 0
        for row in range(len(own)):
            changes |= own[row] ^ following[row]
        if changes == 0:  # mostly: subjects have hundreds of rows
            continue
        for row in range(begin, begin + len(own)):
            if before[row] > after[row]:
                return -2 - row
            starts_S[count] = row + 1
            count += before[row] != after[row]
    return count


@_compile(_bool(_in(_i64), _in(_u8), _i64, _i64, _in(_i64), _i64, _i64, _i64[::1]))
def find_timed(time_N, bitmap, first_bit, num_null, ends_S, first_us, last_us, timed_S):
    """Write each subject's first row with a time, its end where there is none.

    Returns True if rows without a time come first in each subject, times ascend behind them,
    and all lie between the two times given.
    """
    num_leading = 0
    good = True
    for subject in range(len(timed_S)):
        row, end = ends_S[subject], ends_S[subject + 1]
        if num_null > 0:
            begin = row
            while row < end and not bitmap[(first_bit + row) >> 3] >> ((first_bit + row) & 7) & 1:
                row += 1
            num_leading += row - begin
        timed_S[subject] = row
        if row == end:
            continue
        own = time_N[row:end]
        later = own[1:]
        descends = 0
        for place in range(len(later)):
            descends |= later[place] < own[place]
        good &= descends == 0 and own[0] >= first_us and own[-1] <= last_us
    return good and num_leading == num_null


def _pick_type(code: Any) -> Any:
    rows = (_in(_u32), _in(code), _in(_i64), _in(_f32), _in(_u8), _i64)
    subjects = (_in(_i64), _in(_i64), _in(_bool))
    written = (_i64[::1], code[::1], _i64[::1], _f32[::1])
    counts: Any = types.Tuple([_i64] * 5)
    return counts(*rows, *subjects, *written)


@_compile(_pick_type(_i16), _pick_type(_i32))
def pick_rows(
    index_N,
    code_index_of,
    time_N,
    value_N,
    bitmap,
    first_bit,
    ends_S,
    timed_S,
    chosen_S,
    count_S,
    code_index_M,
    time_M,
    value_M,
):
    """Write the measurements of the chosen subjects and how many each has, in file order.

    An empty bitmap: all rows have a value. Outputs need an entry more than rows are kept.

    Returns:
        Rows of the chosen subjects; of these wanted; of these with a value; of these with a
        time; of these finite.
    """
    num_rows, num_untimed = 0, 0
    num_matching, num_timed = np.int64(0), np.int64(0)
    kept = np.uint64(0)
    unsigned_first_bit = np.uint64(first_bit)
    all_valued = len(bitmap) == 0
    for subject in range(len(chosen_S)):
        count_S[subject] = 0
        if not chosen_S[subject]:
            continue
        begin, timed, end = ends_S[subject], timed_S[subject], ends_S[subject + 1]
        num_rows += end - begin
        for row in range(begin, timed):
            wanted = code_index_of[index_N[row]] >= 0
            bit = first_bit + row
            num_matching += wanted
            num_untimed += wanted and (all_valued or (bitmap[bit >> 3] >> (bit & 7) & 1) != 0)
        kept_before = kept
        for row in range(np.uint64(timed), np.uint64(end)):
            code = code_index_of[index_N[row]]
            value = value_N[row]
            keep = np.uint64(code >= 0)
            num_matching += np.int64(keep)
            if not all_valued:
                bit = row + unsigned_first_bit
                keep &= np.uint64(bitmap[bit >> np.uint64(3)] >> (bit & np.uint64(7)))
            num_timed += np.int64(keep)
            keep &= np.uint64(abs(value) <= MOST_FLOAT32)
            # Written at any rate: a branch that cannot be foreseen costs more than the write.
            code_index_M[kept] = code
            time_M[kept] = time_N[row]
            value_M[kept] = value
            kept += keep
        count_S[subject] = np.int64(kept - kept_before)
    return num_rows, num_matching, num_untimed + num_timed, num_timed, np.int64(kept)


@_compile(types.void(_in(_u32), _in(_i64), _in(_i64), _f64[::1]))
def draw(key_W, first_position_W, length_W, draw_N):
    """Write the keyed draw of each position of each sequence: `uniform(counter_hash(...))`."""
    begin = 0
    for sequence in range(len(length_W)):
        own = draw_N[begin : begin + length_W[sequence]]
        begin += length_W[sequence]
        key, first = key_W[sequence], np.uint32(first_position_W[sequence])
        for place in range(len(own)):
            bits = np.uint32(first + np.uint32(place)) * np.uint32(0x9E3779B1)
            bits = np.uint32(np.uint32(bits) ^ key)
            bits = np.uint32(bits ^ (bits >> np.uint32(16)))
            bits = np.uint32(bits * np.uint32(0x7FEB352D))
            bits = np.uint32(bits ^ (bits >> np.uint32(15)))
            bits = np.uint32(bits * np.uint32(0x846CA68B))
            bits = np.uint32(bits ^ (bits >> np.uint32(16)))
            own[place] = (np.float64(bits) + 0.5) * 2.0**-32


@_compile(types.void(_in(_f64), _in(_f32), _in(_i64), _in(_i64), _f32[::1], _bool[::1]))
def hide_earliest(log_N, weight_N, length_W, hidden_W, finish_N, hidden_N):
    """Mark the `hidden_W` earliest of each sequence; they finish at -log / weight (empty: 1).

    What is written to finish_N is of no use to callers.
    """
    # The bits of floats above 0 sort as the floats do, and integers are halved exactly.
    if len(weight_N):
        for place in range(len(log_N)):
            finish_N[place] = np.float32(-log_N[place] / np.float64(weight_N[place]))
    else:
        for place in range(len(log_N)):
            finish_N[place] = np.float32(-log_N[place])
    bits_N = finish_N.view(np.int32)
    begin = 0
    for sequence in range(len(length_W)):
        end = begin + length_W[sequence]
        bits, hidden = bits_N[begin:end], hidden_N[begin:end]
        begin = end
        wanted = hidden_W[sequence]
        if wanted <= 0:
            hidden[:] = False
            continue
        low, high = np.int32(-1), np.int32(0)
        for place in range(len(bits)):
            high = max(high, bits[place])
        low = high
        for place in range(len(bits)):
            low = min(low, bits[place])
        low = np.int32(low - 1)
        # At most `low` finish fewer than are wanted, at most `high` as many or more.
        below = np.int32(0)
        while high - low > 1:
            middle = np.int32(low + (high - low) // 2)
            count = np.int32(0)
            for place in range(len(bits)):
                count = np.int32(count + np.int32(bits[place] <= middle))
            if count < wanted:
                low, below = middle, count
            else:
                high = middle
                if count == wanted:
                    break
        for place in range(len(bits)):
            hidden[place] = bits[place] <= high
        if high - low > 1:
            continue
        # All between are equal: the earlier position goes first.
        left = wanted - below
        for place in range(len(bits)):
            if bits[place] == high:
                hidden[place] = left > 0
                left -= 1


@_compile(types.void(_in(_i64), _in(_f32), _in(_i64), _in(_f64), _f32[::1]))
def inclusion(length_W, weight_N, hidden_W, share_W, chance_N):
    """Add `share_W` of each measurement's chance to be among the `hidden_W` earliest.

    By time t one has finished with chance 1 - exp(-weight t); at that t they add up to the count.
    """
    begin = 0
    for sequence in range(len(length_W)):
        end = begin + length_W[sequence]
        weight, chance = weight_N[begin:end], chance_N[begin:end]
        begin = end
        time, missing = 0.0, np.float64(hidden_W[sequence])
        # Newton: the sum is concave, so that no step goes too far.
        while missing > 1e-9 * len(weight):
            missing, slope = np.float64(hidden_W[sequence]), 0.0
            for place in range(len(weight)):
                left = math.exp(-weight[place] * time)
                missing -= 1 - left
                slope += weight[place] * left
            time += missing / slope
        for place in range(len(weight)):
            chance[place] -= share_W[sequence] * math.expm1(-weight[place] * time)


@numba.njit(inline="always")
def _standardised(value, low, high, mean, std):
    """Return (clip(x) - mean) / std, in float64: float32 would lose digits of 140 +- 3."""
    value = low if value < low else value
    value = high if value > high else value
    return np.float32((np.float64(value) - mean) / std)


_TABLES = (_in(_f32), _in(_f32), _in(_f64), _in(_f64))


@_compile(types.void(_in(_i64), _in(_f32), *_TABLES, _f32[::1]))
def standardise(code_N, value_N, low_C, high_C, mean_C, std_C, z_N):
    """Write (clip(x) - mean) / std of each value."""
    for place in range(len(z_N)):
        code = np.uint64(code_N[place])
        z_N[place] = _standardised(
            value_N[place], low_C[code], high_C[code], mean_C[code], std_C[code]
        )


def _transform_type(code: Any) -> Any:
    read = (_in(_i64), _in(_i64), _in(code), _in(_i64), _in(_f32))
    written = (_u16[::1], _i32[::1], _f32[::1], _f32[::1])
    return types.void(*read, *_TABLES, _in(_f32), *written)


@_compile(_transform_type(_i16), _transform_type(_i32))
def transform(
    start_W,
    length_W,
    code_M,
    time_M,
    value_M,
    low_C,
    high_C,
    mean_C,
    std_C,
    weight_C,
    code_N,
    minutes_N,
    z_N,
    weight_N,
):
    """Write code_index, minutes since the first, z-score and mask weight of some sequences.

    An empty weight_C: weights are not wanted.
    """
    begin = 0
    for sequence in range(len(length_W)):
        first, length = start_W[sequence], length_W[sequence]
        end = begin + length
        code, time = code_M[first : first + length], time_M[first : first + length]
        code_out, minutes = code_N[begin:end], minutes_N[begin:end]
        for place in range(len(code)):
            code_out[place] = code[place]
        if time[-1] - time[0] < EXACT_US:
            for place in range(len(time)):
                minutes[place] = np.int32(np.float64(time[place] - time[0]) / 60e6)
        else:
            for place in range(len(time)):
                elapsed = np.uint64(time[place] - time[0]) // US_PER_MINUTE
                minutes[place] = np.int32(min(elapsed, MOST_MINUTES))
        value, z = value_M[first : first + length], z_N[begin:end]
        for place in range(len(code)):
            entry = np.uint64(code[place])
            z[place] = _standardised(
                value[place], low_C[entry], high_C[entry], mean_C[entry], std_C[entry]
            )
        if len(weight_C):
            weight = weight_N[begin:end]
            for place in range(len(code)):
                weight[place] = weight_C[np.uint64(code[place])]
        begin = end


def _fill_type(code: Any) -> Any:
    read = (_in(_i32), _in(code), _in(_i32), _in(_f32), _in(_bool), _i64, _i64)
    columns = (_i32[::1], _f32[::1], _f32[::1], _i64[::1], _i64[::1])
    return _i64(*read, *columns, _i64[::1])


@_compile(_fill_type(_u16), _fill_type(_i32))
def fill_batch(
    length_W,
    code_W,
    minutes_W,
    value_W,
    hidden_W,
    first,
    num_hidden,
    code_N,
    hours_N,
    value_N,
    visible_V,
    hidden_M,
    num_hidden_W,
):
    """Write some sequences' measurements into a batch, behind the `first` that it has.

    Of the batch's measurements, `num_hidden` are hidden so far; returns how many are then.
    Indices of what is visible and of what is hidden need an entry more than there are.
    """
    end = first + len(code_W)
    code, hours, value = code_N[first:end], hours_N[first:end], value_N[first:end]
    for place in range(len(code_W)):
        code[place] = code_W[place]
    for place in range(len(minutes_W)):
        hours[place] = np.float32(minutes_W[place]) / np.float32(60)
    for place in range(len(value_W)):
        value[place] = value_W[place]
    hidden_before = np.uint64(num_hidden)
    begin = np.uint64(0)
    at = np.uint64(first)
    count = hidden_before
    for sequence in range(len(length_W)):
        before = count
        for place in range(begin, begin + np.uint64(length_W[sequence])):
            index = at + place
            # Both are written: a branch that cannot be foreseen costs more.
            visible_V[index - count] = np.int64(index)
            hidden_M[count] = np.int64(index)
            count += np.uint64(hidden_W[place])
        begin += np.uint64(length_W[sequence])
        num_hidden_W[sequence] = np.int64(count - before)
    return np.int64(count)
