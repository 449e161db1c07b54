"""Weights and keyed draws -> which values are hidden.

Exactly k values of each sequence are hidden, without replacement, by an exponential race:
position i finishes at -log(u_i) / w_i and the k earliest are hidden (Efraimidis and Spirakis,
2006), so the first is i with probability w_i / sum(w). Every u is a hash of (seed, epoch,
subject, position): a mask depends on keys, weights and the window, and on nothing else.
"""

import numpy as np
import numpy.typing as npt

from cvmae.data.keys import counter_hash, stream_keys, uniform
from cvmae.data.meds import Measurements
from cvmae.data.sequences import BLOCK_MEASUREMENTS, blocks

__all__ = ["evaluation_hidden", "hidden_counts", "sample_hidden"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

# Sequences of similar length are raced as rows of one padded block.
LENGTH_STEP = 1.4

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
    # Longer by a row of `_padded`, which begins anywhere.
    total, longest = int(length_W.sum()), int(length_W.max(initial=0))
    finish_N = np.empty(total + longest, np.float32)
    # Positions are counters; their differences to the column index are constant in a sequence.
    shift_W = (first_position_W - (np.cumsum(length_W) - length_W)).astype(np.uint32)
    for sequences, own in blocks(length_W):
        lengths = length_W[sequences]
        positions = np.arange(own.start, own.stop, dtype=np.uint32)
        positions += np.repeat(shift_W[sequences], lengths)
        # The logarithm is taken in float64: the last bit of a float32 logarithm differs
        # between processors, and a mask must not.
        times = uniform(counter_hash(np.repeat(keys_W[sequences], lengths), positions))
        np.log(times, out=times)
        np.negative(times, out=times)
        if weight_N is not None:
            times /= weight_N[own]
        finish_N[own] = times
    return finish_N


def _earliest(finish_N: Floats, length_W: Ints, hidden_W: Ints) -> Bools:
    """Mark the `hidden_W` earliest finishers of each sequence."""
    before_W = np.cumsum(length_W) - length_W
    limit_W = np.full(len(length_W), -np.inf, np.float32)  # the last that is hidden finishes then
    ties: list[Ints] = []
    by_length_W = np.argsort(length_W, kind="stable")
    by_length_W = by_length_W[hidden_W[by_length_W] > 0]
    sorted_lengths = length_W[by_length_W]
    first = 0
    while first < len(by_length_W):
        longest = int(sorted_lengths[first] * LENGTH_STEP)
        last = int(np.searchsorted(sorted_lengths, longest, side="right"))
        last = min(last, first + max(1, BLOCK_MEASUREMENTS // longest))
        rows = by_length_W[first:last]
        race = _padded(finish_N, before_W[rows], sorted_lengths[first:last])
        race.sort(axis=1)
        place = np.arange(len(rows)), hidden_W[rows] - 1
        limit_W[rows] = race[place]
        # At least one value stays visible, so that there is a next one.
        ties.append(rows[race[place[0], place[1] + 1] == race[place]])
        first = last
    hidden_N = finish_N[: int(length_W.sum())] <= np.repeat(limit_W, length_W)
    for row in np.concatenate(ties).tolist() if ties else []:
        # Two finished in the same float32 instant: the earlier position goes first.
        own = slice(int(before_W[row]), int(before_W[row] + length_W[row]))
        hidden_N[own] = False
        earliest = np.argsort(finish_N[own], kind="stable")[: hidden_W[row]]
        hidden_N[own.start + earliest] = True
    return hidden_N


def _padded(finish_N: Floats, begin_R: Ints, length_R: Ints) -> Floats:
    """Return ascending lengths of a column as rows, the rest of each filled with infinity."""
    width = int(length_R[-1])
    # Rows are copied whole, which takes a tenth of the time of gathering their values.
    rows = np.ndarray((len(finish_N) - width + 1, width), np.float32, finish_N, strides=(4, 4))
    race: Floats = rows[begin_R]
    ragged = np.arange(int(length_R[0]), width)  # in the columns before, every row has a value
    np.copyto(race[:, int(length_R[0]) :], np.inf, where=ragged >= length_R[:, None])
    return race
