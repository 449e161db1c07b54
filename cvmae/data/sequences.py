"""A unit's measurements -> sequences: windows of whole subjects, or one crop of each."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cvmae.data.keys import stream_keys, uniform
from cvmae.data.meds import Measurements

__all__ = [
    "Sequences",
    "count_sequences",
    "crop_windows",
    "cut_windows",
    "gather_index",
    "relative_minutes",
]

Ints = npt.NDArray[np.int64]

# Shape letters: S subjects, W sequences (windows), N measurements.


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Windows into the columns of one `Measurements`."""

    subject_id_W: Ints
    start_W: Ints  # index of the first measurement in the unit's columns
    length_W: Ints
    first_position_W: Ints  # index of the first measurement among the subject's own

    @property
    def num_sequences(self) -> int:
        """Return W."""
        return len(self.start_W)


def count_sequences(lengths_S: Ints, sequence_length: int, *, crop: bool = False) -> Ints:
    """Return the number of sequences that a subject of each length gives, 0 below length 2.

    Example:
        >>> count_sequences(np.array([1, 2, 512, 513]), 512)
        array([0, 1, 1, 2])
    """
    windows_S = np.ones_like(lengths_S) if crop else -(-lengths_S // sequence_length)
    return np.where(lengths_S < 2, 0, windows_S)


def cut_windows(measurements: Measurements, sequence_length: int) -> Sequences:
    """Cut every subject into consecutive windows whose lengths differ by at most 1.

    A subject with fewer than two measurements gives none: nothing could be restored.
    """
    lengths_S = np.diff(measurements.offsets_S)
    windows_S = count_sequences(lengths_S, sequence_length)
    subject_W = np.repeat(np.arange(len(lengths_S)), windows_S)
    first_window_S = np.cumsum(windows_S) - windows_S
    number_W = np.arange(len(subject_W)) - first_window_S[subject_W]
    base_S, longer_S = np.divmod(lengths_S, np.maximum(windows_S, 1))
    base_W, longer_W = base_S[subject_W], longer_S[subject_W]
    first_position_W = number_W * base_W + np.minimum(number_W, longer_W)
    return Sequences(
        subject_id_W=measurements.subject_id_S[subject_W],
        start_W=measurements.offsets_S[subject_W] + first_position_W,
        length_W=base_W + (number_W < longer_W),
        first_position_W=first_position_W,
    )


def crop_windows(
    measurements: Measurements, sequence_length: int, *, seed: int, epoch: int
) -> Sequences:
    """Take one window of at most `sequence_length` per subject, at random each epoch."""
    lengths_S = np.diff(measurements.offsets_S)
    kept_S = np.flatnonzero(lengths_S >= 2)
    subject_id_W = measurements.subject_id_S[kept_S]
    length_W = np.minimum(lengths_S[kept_S], sequence_length)
    room_W = lengths_S[kept_S] - length_W + 1
    draw_W = uniform(stream_keys(seed, epoch, subject_id_W, stream="crop"))
    first_position_W = np.minimum((draw_W * room_W).astype(np.int64), room_W - 1)
    return Sequences(
        subject_id_W=subject_id_W,
        start_W=measurements.offsets_S[kept_S] + first_position_W,
        length_W=length_W,
        first_position_W=first_position_W,
    )


def gather_index(start_W: Ints, length_W: Ints) -> Ints:
    """Return the column index of every measurement of the given sequences, one after another."""
    before_W = np.cumsum(length_W) - length_W
    index_N: Ints = np.arange(int(length_W.sum())) + np.repeat(start_W - before_W, length_W)
    return index_N


def relative_minutes(
    time_us_N: Ints, first_time_us_W: Ints, length_W: Ints
) -> npt.NDArray[np.int32]:
    """Return whole minutes since each sequence's first measurement (at most 2^31 - 1)."""
    minutes_N = (time_us_N - np.repeat(first_time_us_W, length_W)) // 60_000_000
    return np.minimum(minutes_N, np.iinfo(np.int32).max).astype(np.int32)
