"""Weights and keyed draws -> which values are hidden.

Exactly k values of each sequence are hidden, without replacement, by an exponential race:
position i finishes at -log(u_i) / w_i and the k earliest are hidden (Efraimidis and Spirakis,
2006), so the first is i with probability w_i / sum(w). Every u is a hash of (seed, epoch,
subject, position): a mask depends on keys, weights and the window, and on nothing else.
"""

import itertools

import numpy as np
import numpy.typing as npt

from cvmae.data.keys import counter_hash, stream_keys, uniform
from cvmae.data.meds import Measurements

__all__ = ["evaluation_hidden", "hidden_counts", "sample_hidden"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

# Sequences of similar length are raced as rows of one padded block that stays in cache.
BLOCK_MEASUREMENTS = 65_536
LENGTH_STEP = 1.125

# Shape letters: W sequences, N measurements of all of them in order.


def sample_hidden(
    *,
    subject_id_W: Ints,
    first_position_W: Ints,
    length_W: Ints,
    weight_N: Floats | None,
    ratio: float,
    seed: int,
    epoch: int,
) -> Bools:
    """Hide a share of each sequence's values, favouring heavy weights.

    Args:
        subject_id_W: Owner of each sequence.
        first_position_W: Index of its first measurement among the subject's own.
        length_W: Measurements of each sequence.
        weight_N: Mask weight of each measurement's code, above 0; None: all equal.
        ratio: Expected share hidden; see `hidden_counts`.
        seed: Of the run.
        epoch: Masks differ from epoch to epoch.

    Returns:
        True where the encoder may not see the value, N entries.
    """
    finish_N = _finish_times(subject_id_W, first_position_W, length_W, weight_N, seed, epoch)
    hidden_W = hidden_counts(
        subject_id_W, first_position_W, length_W, ratio=ratio, seed=seed, epoch=epoch
    )
    return _earliest(finish_N, length_W, hidden_W)


def hidden_counts(
    subject_id_W: Ints,
    first_position_W: Ints,
    length_W: Ints,
    *,
    ratio: float,
    seed: int,
    epoch: int,
) -> Ints:
    """Return how many values of each sequence are hidden.

    k = floor(ratio * n + r) with r uniform from the sequence's key, so that the expected share
    is exact for short sequences, too; at least one value stays visible.
    """
    keys_W = stream_keys(seed, epoch, subject_id_W, stream="count")
    draw_W = uniform(counter_hash(keys_W, first_position_W))
    counts_W = np.floor(ratio * length_W + draw_W).astype(np.int64)
    return np.clip(counts_W, 0, np.maximum(length_W - 1, 0))


def evaluation_hidden(measurements: Measurements, *, ratio: float, seed: int) -> Bools:
    """Hide values uniformly over each subject's whole sequence: the mask of every comparison.

    It is drawn before windows are cut, so that models with other windows are scored on the
    same values, and it is the same in every epoch.
    """
    return sample_hidden(
        subject_id_W=measurements.subject_id_S,
        first_position_W=np.zeros_like(measurements.subject_id_S),
        length_W=np.diff(measurements.offsets_S),
        weight_N=None,
        ratio=ratio,
        seed=seed,
        epoch=0,
    )


def _finish_times(
    subject_id_W: Ints,
    first_position_W: Ints,
    length_W: Ints,
    weight_N: Floats | None,
    seed: int,
    epoch: int,
) -> Floats:
    keys_W = stream_keys(seed, epoch, subject_id_W, stream="mask")
    before_W = np.cumsum(length_W) - length_W
    total = int(length_W.sum())
    finish_N = np.empty(total, np.float32)
    # Positions are counters; their differences to the column index are constant in a sequence.
    shift_W = first_position_W - before_W
    bounds = np.searchsorted(before_W, np.arange(0, total, BLOCK_MEASUREMENTS), side="left")
    for first, last in itertools.pairwise([*bounds, len(length_W)]):
        if first == last:
            continue
        lengths = length_W[first:last]
        begin, end = int(before_W[first]), int(before_W[last - 1] + lengths[-1])
        positions = np.arange(begin, end) + np.repeat(shift_W[first:last], lengths)
        bits = counter_hash(np.repeat(keys_W[first:last], lengths), positions)
        # The logarithm is taken in float64: the last bit of a float32 logarithm differs
        # between processors, and a mask must not.
        times = -np.log(uniform(bits))
        if weight_N is not None:
            times /= weight_N[begin:end]
        finish_N[begin:end] = times
    return finish_N


def _earliest(finish_N: Floats, length_W: Ints, hidden_W: Ints) -> Bools:
    """Mark the `hidden_W` earliest finishers of each sequence."""
    hidden_N = np.zeros(len(finish_N), bool)
    before_W = np.cumsum(length_W) - length_W
    by_length_W = np.argsort(length_W, kind="stable")
    by_length_W = by_length_W[hidden_W[by_length_W] > 0]
    sorted_lengths = length_W[by_length_W]
    first = 0
    while first < len(by_length_W):
        longest = int(sorted_lengths[first] * LENGTH_STEP)
        last = int(np.searchsorted(sorted_lengths, longest, side="right"))
        last = min(last, first + max(1, BLOCK_MEASUREMENTS // longest))
        rows = by_length_W[first:last]
        columns = np.arange(int(sorted_lengths[last - 1]))
        inside = columns < length_W[rows][:, None]
        index = before_W[rows][:, None] + columns
        race = np.where(inside, finish_N[np.where(inside, index, 0)], np.float32(np.inf))
        counts = hidden_W[rows]
        limit = np.take_along_axis(np.sort(race, axis=1), counts[:, None] - 1, axis=1)
        chosen = race <= limit
        for row in np.flatnonzero(chosen.sum(axis=1) != counts):
            # Two finished in the same float32 instant: the earlier position goes first.
            chosen[row] = False
            chosen[row, np.argsort(race[row], kind="stable")[: counts[row]]] = True
        hidden_N[index[chosen]] = True
        first = last
    return hidden_N
