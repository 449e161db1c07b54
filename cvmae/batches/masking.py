"""Weights and keyed draws -> which values are hidden.

Exactly k values of each sequence are hidden, without replacement, by an exponential race:
position i finishes at -log(u_i) / w_i and the k earliest are hidden (Efraimidis and Spirakis,
2006), so the first is i with probability w_i / sum(w). Every u is a hash of (seed, epoch,
subject, position): a mask depends on keys, weights and the window, and on nothing else. The
two-level rule as published draws each value on its own instead, from the same u.
"""

from dataclasses import dataclass

import numpy as np

from cvmae import compiled
from cvmae.arrays import Bools, Float32s, Ints
from cvmae.batches.inclusion import inclusion_chances
from cvmae.batches.keys import counter_hash, stream_keys, uniform
from cvmae.batches.sequences import Sequences, blocks, gather_index
from cvmae.meds.measurements import Measurements

__all__ = [
    "DrawnMask",
    "FixedMask",
    "IndependentMask",
    "Mask",
    "SingleMask",
    "evaluation_hidden",
    "hidden_counts",
    "sample_hidden",
    "sample_independently",
]


# Shape letters beside those of `cvmae.arrays`: M measurements of a whole unit; F sequences that
# would be hidden whole, P their measurements, Q some of these.


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnMask:
    """Each window's values are drawn by their codes' weights: another mask every epoch."""

    weight_C: Float32s | None  # above 0; None: all equal
    ratio: float
    seed: int
    epoch: int

    def hidden(self, windows: Sequences, weight_N: Float32s | None) -> Bools:
        """Return which values of some windows are hidden; see `sample_hidden`."""
        return sample_hidden(
            subject_id_W=windows.subject_id_W,
            first_position_W=windows.first_position_W,
            length_W=windows.length_W,
            weight_N=weight_N,
            ratio=self.ratio,
            seed=self.seed,
            epoch=self.epoch,
        )

    def chances(self, windows: Sequences, weight_N: Float32s | None) -> Float32s:
        """Return the chance of each value of some windows to be hidden."""
        return inclusion_chances(windows.length_W, weight_N, self.ratio)


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedMask:
    """The mask of every comparison, over the whole subjects of a unit; see `evaluation_hidden`."""

    hidden_M: Bools
    weight_C: None = None

    def hidden(self, windows: Sequences, weight_N: Float32s | None) -> Bools:
        """Return the share of some windows, whatever their weights."""
        return self.hidden_M.take(gather_index(windows.start_W, windows.length_W))

    def chances(self, windows: Sequences, weight_N: Float32s | None) -> None:
        """Return none: in comparisons all errors count alike."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SingleMask:
    """One value of each window, all others visible: leave-one-out."""

    target_W: Ints  # index into the unit's columns
    weight_C: None = None

    def hidden(self, windows: Sequences, weight_N: Float32s | None) -> Bools:
        """Return True for the target of each window, which must be in it."""
        before_W = np.cumsum(windows.length_W) - windows.length_W
        hidden_N = np.zeros(int(windows.length_W.sum()), np.bool_)
        hidden_N[before_W + self.target_W - windows.start_W] = True
        return hidden_N

    def chances(self, windows: Sequences, weight_N: Float32s | None) -> None:
        """Return none: in comparisons all errors count alike."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IndependentMask:
    """Each value is drawn on its own, by its code's chance: another mask every epoch."""

    weight_C: Float32s  # chances between 0 and 1
    seed: int
    epoch: int

    def hidden(self, windows: Sequences, weight_N: Float32s | None) -> Bools:
        """Return which values of some windows are hidden; see `sample_independently`."""
        assert weight_N is not None, "chances are never left out"
        return sample_independently(
            subject_id_W=windows.subject_id_W,
            first_position_W=windows.first_position_W,
            length_W=windows.length_W,
            chance_N=weight_N,
            seed=self.seed,
            epoch=self.epoch,
        )

    def chances(self, windows: Sequences, weight_N: Float32s | None) -> Float32s | None:
        """Return the chance of each value of some windows to be hidden."""
        return weight_N


Mask = DrawnMask | FixedMask | SingleMask | IndependentMask


def sample_hidden(
    *,
    subject_id_W: Ints,
    first_position_W: Ints,
    length_W: Ints,
    weight_N: Float32s | None,
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
    hidden_W = hidden_counts(
        subject_id_W, first_position_W, length_W, ratio=ratio, seed=seed, epoch=epoch
    )
    keys_W = stream_keys(seed, epoch, subject_id_W, stream="mask")
    weight_N = np.empty(0, np.float32) if weight_N is None else weight_N
    hidden_N = np.empty(int(length_W.sum()), np.bool_)
    for sequences, own in blocks(length_W):
        # The logarithm is taken in float64: the last bit of a float32 logarithm differs
        # between processors, and a mask must not.
        log_N = np.empty(own.stop - own.start)
        compiled.draw(keys_W[sequences], first_position_W[sequences], length_W[sequences], log_N)
        np.log(log_N, out=log_N)
        compiled.hide_earliest(
            log_N,
            weight_N[own],
            length_W[sequences],
            hidden_W[sequences],
            np.empty(len(log_N), np.float32),
            hidden_N[own],
        )
    return hidden_N


def sample_independently(
    *,
    subject_id_W: Ints,
    first_position_W: Ints,
    length_W: Ints,
    chance_N: Float32s,
    seed: int,
    epoch: int,
) -> Bools:
    """Hide each value with its own chance, whatever happens to the others (Poisson sampling).

    A value is hidden where its draw is below its chance; the draws are those of `sample_hidden`.
    How many are hidden follows from the chances, but for one: where all values of a sequence
    would be, the one whose draw is the largest part of its chance stays visible.

    Args:
        subject_id_W: Owner of each sequence.
        first_position_W: Index of its first measurement among the subject's own.
        length_W: Measurements of each sequence.
        chance_N: Chance of each measurement, between 0 and 1.
        seed: Of the run.
        epoch: Masks differ from epoch to epoch.

    Returns:
        True where the encoder may not see the value, N entries.
    """
    keys_W = stream_keys(seed, epoch, subject_id_W, stream="mask")
    draw_N = np.empty(int(length_W.sum()))
    compiled.draw(keys_W, first_position_W, length_W, draw_N)
    hidden_N: Bools = draw_N < chance_N
    ends_W = np.cumsum(length_W)
    num_hidden_N = np.concatenate([np.zeros(1, np.int64), np.cumsum(hidden_N)])
    num_hidden_W = num_hidden_N[ends_W] - num_hidden_N[ends_W - length_W]
    full_W = np.flatnonzero((num_hidden_W == length_W) & (length_W > 0))
    if len(full_W):
        length_F, start_F = length_W[full_W], (ends_W - length_W)[full_W]
        index_P = gather_index(start_F, length_F)
        part_P = draw_N[index_P] / chance_N[index_P]
        most_F = np.maximum.reduceat(part_P, np.cumsum(length_F) - length_F)
        place_Q = np.flatnonzero(part_P == np.repeat(most_F, length_F))
        # The earlier position, where two are the same part.
        owner_Q = np.repeat(np.arange(len(full_W)), length_F)[place_Q]
        hidden_N[index_P[place_Q[np.unique(owner_Q, return_index=True)[1]]]] = False
    return hidden_N


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


def evaluation_hidden(
    measurements: Measurements, *, ratio: float, seed: int, weight_M: Float32s | None = None
) -> Bools:
    """Hide values over each subject's whole sequence: the mask of every comparison.

    It is drawn before windows are cut, so that models with other windows are scored on the
    same values, and it is the same in every epoch. Without weights it is uniform.
    """
    return sample_hidden(
        subject_id_W=measurements.subject_id_S,
        first_position_W=np.zeros_like(measurements.subject_id_S),
        length_W=np.diff(measurements.offsets_S),
        weight_N=weight_M,
        ratio=ratio,
        seed=seed,
        epoch=0,
    )
