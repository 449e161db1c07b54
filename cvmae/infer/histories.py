"""What was known of subjects at given times, as batches: their last measurements until then.

Rows are cut at the time first, and only then is a window taken: nothing later can reach a model.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from cvmae.arrays import Bools, Ints
from cvmae.batches.batch import Batch, join_cells, make_batch
from cvmae.batches.cells import Cell, make_cell
from cvmae.batches.masking import FixedMask
from cvmae.batches.sequences import Sequences
from cvmae.meds.measurements import Measurements
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = [
    "HistoryBatch",
    "Moments",
    "ask_every_code",
    "history_batches",
    "last_moments",
    "last_windows",
    "num_until",
    "visible_cell",
]

# Shape letters: L moments (a subject and a time), S subjects, N measurements, B sequences.

US_PER_MINUTE = 60_000_000
MOST_MINUTES = np.iinfo(np.int32).max


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Subjects and times that something is asked about."""

    subject_id_L: Ints = field(repr=False)
    time_us_L: Ints = field(repr=False)

    @property
    def num_moments(self) -> int:
        """Return L."""
        return len(self.subject_id_L)

    def take(self, chosen_L: Ints | Bools) -> Self:
        """Return some of them."""
        return type(self)(
            subject_id_L=self.subject_id_L[chosen_L], time_us_L=self.time_us_L[chosen_L]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class HistoryBatch:
    """Whole histories, all of it visible."""

    batch: Batch
    moment_B: Ints  # which of the moments each sequence leads up to
    elapsed_us_B: Ints  # from the sequence's first measurement to the moment


def history_batches(
    measurements: Measurements,
    moments: Moments,
    statistics: CodeStatistics,
    *,
    sequence_length: int,
    num_asked: int = 0,
    max_measurements: int = 16_384,
) -> Iterator[HistoryBatch]:
    """Yield what was known at each moment, in order, each batch of at most `max_measurements`.

    A history is one of `last_windows`; one longer than `max_measurements` forms a batch of its own.
    It counts for `num_asked` at least: that many codes are asked for, however short it is.
    """
    known_K, windows = last_windows(measurements, moments, sequence_length)
    for index_B in windows.in_batches(max_measurements, at_least=num_asked):
        own, moment_B = windows.take(index_B), known_K[index_B]
        yield HistoryBatch(
            batch=join_cells([visible_cell(measurements, own, statistics)]),
            moment_B=moment_B,
            elapsed_us_B=moments.time_us_L[moment_B] - measurements.time_us_N[own.start_W],
        )


def last_windows(
    measurements: Measurements, moments: Moments, sequence_length: int
) -> tuple[Ints, Sequences]:
    """Return the moments of which something was known, and a window for each.

    It is of the last `sequence_length` measurements at or before the moment; a moment before the
    subject's first, or of a subject without any, has none and is left out.
    """
    begin_L, num_L = num_until(measurements, moments)
    known_K = np.flatnonzero(num_L)
    length_K = np.minimum(num_L[known_K], sequence_length)
    position_K = num_L[known_K] - length_K
    return known_K, Sequences(
        subject_id_W=moments.subject_id_L[known_K],
        start_W=begin_L[known_K] + position_K,
        length_W=length_K,
        first_position_W=position_K,
    )


def last_moments(measurements: Measurements) -> Moments:
    """Return each subject's last measurement, by ascending subject."""
    order_S = np.argsort(measurements.subject_id_S, kind="stable")
    last_S = measurements.time_us_N[measurements.offsets_S[1:] - 1]
    return Moments(subject_id_L=measurements.subject_id_S[order_S], time_us_L=last_S[order_S])


def visible_cell(
    measurements: Measurements, windows: Sequences, statistics: CodeStatistics
) -> Cell:
    """Standardise the measurements of some windows; none is hidden."""
    nothing = FixedMask(hidden_M=np.zeros(len(measurements.time_us_N), np.bool_))
    return make_cell(measurements, windows, statistics, nothing)


def num_until(measurements: Measurements, moments: Moments) -> tuple[Ints, Ints]:
    """Return where each moment's subject begins, and how many of its rows are at it or before."""
    order_S = np.argsort(measurements.subject_id_S, kind="stable")  # ascending by file only
    ascending_S = measurements.subject_id_S[order_S]
    place_L = np.searchsorted(ascending_S, moments.subject_id_L)
    found_L: Bools = place_L < len(ascending_S)
    found_L[found_L] = ascending_S[place_L[found_L]] == moments.subject_id_L[found_L]
    subject_L = order_S[place_L[found_L]]
    begin_L, num_L = np.zeros((2, moments.num_moments), np.int64)
    begin_L[found_L] = measurements.offsets_S[subject_L]
    num_L[found_L] = _last_until(
        measurements.time_us_N,
        measurements.offsets_S[subject_L],
        measurements.offsets_S[subject_L + 1],
        moments.time_us_L[found_L],
    )
    return begin_L, num_L


def _last_until(time_us_N: Ints, begin_L: Ints, end_L: Ints, time_us_L: Ints) -> Ints:
    """Count the times at or before a bound in ascending ranges, by bisecting all at once."""
    low_L, high_L = begin_L.copy(), end_L.copy()
    while (open_L := low_L < high_L).any():
        middle_L = (low_L + high_L) // 2
        # Where a range is closed, its middle may lie beyond the last row.
        is_until_L = open_L.copy()
        is_until_L[open_L] = time_us_N[middle_L[open_L]] <= time_us_L[open_L]
        low_L = np.where(is_until_L, middle_L + 1, low_L)
        high_L = np.where(open_L & ~is_until_L, middle_L, high_L)
    return low_L - begin_L


def ask_every_code(history: HistoryBatch, num_codes: int) -> Batch:
    """Return a batch that asks, of each history, for every code of the vocabulary at its moment."""
    num_sequences = len(history.moment_B)
    minutes_B = np.minimum(history.elapsed_us_B.astype(np.uint64) // US_PER_MINUTE, MOST_MINUTES)
    total = num_sequences * num_codes
    return make_batch(
        lengths_B=np.full(num_sequences, num_codes),
        code_index_N=np.tile(np.arange(num_codes), num_sequences),
        minutes_N=np.repeat(minutes_B, num_codes),
        value_N=np.zeros(total, np.float32),
        hidden_N=np.ones(total, np.bool_),
    )
