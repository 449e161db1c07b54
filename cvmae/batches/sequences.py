"""A unit's measurements -> sequences: windows of whole subjects, or one crop of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from cvmae.arrays import Ints
from cvmae.batches.keys import stream_keys, uniform
from cvmae.meds.measurements import Measurements
from cvmae.statistics.sequence_counts import count_sequences

__all__ = [
    "Sequences",
    "blocks",
    "crop_windows",
    "cut_windows",
    "gather_index",
]


BLOCK_MEASUREMENTS = 32_768  # at a time, so that arrays stay in cache


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

    def take(self, index: Ints) -> Self:
        """Return some of the windows, in the order given."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def in_batches(self, max_measurements: int, *, at_least: int = 0) -> Iterator[Ints]:
        """Yield the indices of windows, in order, of at most `max_measurements` together.

        A longer window comes alone; each counts for `at_least` measurements, however short it is.
        """
        ends_W = np.cumsum(np.maximum(self.length_W, at_least))
        first = 0
        while first < self.num_sequences:
            budget = max_measurements + (ends_W[first - 1] if first else 0)
            last = max(first + 1, int(np.searchsorted(ends_W, budget, side="right")))
            yield np.arange(first, last)
            first = last

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Put windows into the same columns one after another."""
        names = [f.name for f in fields(cls)]
        return cls(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})


def cut_windows(
    measurements: Measurements, sequence_length: int, *, singles: bool = False
) -> Sequences:
    """Cut every subject into consecutive windows whose lengths differ by at most 1.

    A subject with a single measurement gives none, since nothing of it could be restored, but for
    `singles`, where something beside it is.
    """
    lengths_S = np.diff(measurements.offsets_S)
    at_least_S = np.maximum(lengths_S, 2) if singles else lengths_S
    windows_S = count_sequences(at_least_S, sequence_length)
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


def blocks(length_W: Ints) -> Iterator[tuple[slice, slice]]:
    """Yield runs of sequences, and of their measurements, small enough to stay in cache."""
    ends_W = np.cumsum(length_W)
    total = int(ends_W[-1]) if len(ends_W) else 0
    cuts = np.searchsorted(ends_W, np.arange(BLOCK_MEASUREMENTS, total, BLOCK_MEASUREMENTS)) + 1
    first, begin = 0, 0
    for last in [*cuts.tolist(), len(length_W)]:
        if last > first:
            end = int(ends_W[last - 1])
            yield slice(first, last), slice(begin, end)
            first, begin = last, end


def gather_index(start_W: Ints, length_W: Ints) -> Ints:
    """Return the column index of every measurement of the given sequences, one after another."""
    before_W = np.cumsum(length_W) - length_W
    index_N: Ints = np.arange(int(length_W.sum())) + np.repeat(start_W - before_W, length_W)
    return index_N
