"""Rows that are asked for, put among the measurements of their subjects: what a model sees of them.

Nothing that is asked for is seen. There are two ways.

`place`: a subject's measurements are cut into windows as in training and in evaluation. A row that
was measured is hidden where it stands, whatever its value; any other is put into the window that is
nearest in time. All other measurements of the window are seen, earlier and later ones. The model
reads a window once or several times, in passes. Hours count from the first row of a pass, as in
training: a row before the window's first measurement would move all others in time, so the rows of
such a time get a pass of their own. (They cannot share one: each time makes other hours of the same
measurements.) And no pass has more rows beside its window than a window has at most.

`place_after_past`: a row is put behind the last measurements at or before its time, so that nothing
later is seen; each time of a subject is a pass of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from cvmae.arrays import Bools, Float32s, Ints
from cvmae.batches.sequences import Sequences, cut_windows, gather_index
from cvmae.infer.asked import Asked
from cvmae.infer.histories import Moments, last_windows, num_until
from cvmae.meds.measurements import Measurements
from cvmae.meds.row_order import run_starts
from cvmae.meds.splits import is_among

__all__ = ["Passes", "Placed", "is_measured", "place", "place_after_past"]

# Shape letters: L rows that are asked for, N measurements, W windows, U rows that nobody measured,
# R measurements and behind them those rows, P passes.


class Passes(NamedTuple):
    """Some passes over windows, and what is hidden in each."""

    rows: Measurements
    windows: Sequences
    hidden_N: Bools
    row_M: Ints  # which of the rows of `Placed` each hidden one is; -1: another pass restores it


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """Windows in which the rows that are asked for stand, hidden, among measurements."""

    code_R: Ints
    time_us_R: Ints
    value_R: Float32s
    hidden_R: Bools
    row_L: Ints  # which each is; -1: its subject has no measurement that may be seen
    windows: Sequences  # P windows: the measurements of each pass
    start_P: Ints  # the first row that each pass has beside them
    num_beside_P: Ints
    is_early_P: Bools  # whether those are from before the window

    def in_batches(self, max_rows: int) -> Iterator[Passes]:
        """Yield the passes, of at most `max_rows` together; a longer one comes alone."""
        whole = replace(self.windows, length_W=self.windows.length_W + self.num_beside_P)
        for index_B in whole.in_batches(max_rows):
            yield self._take(index_B)

    def _take(self, index_B: Ints) -> Passes:
        own, num_beside_B = self.windows.take(index_B), self.num_beside_P[index_B]
        row_N = np.concatenate(
            [
                gather_index(own.start_W, own.length_W),
                gather_index(self.start_P[index_B], num_beside_B),
            ]
        )
        number_B = np.arange(len(index_B))
        pass_N = np.repeat(np.tile(number_B, 2), np.concatenate([own.length_W, num_beside_B]))
        # Stable: measurements of one time keep their order, and what was put there comes behind.
        order_N = np.lexsort((self.time_us_R[row_N], pass_N))
        row_N, pass_N = row_N[order_N], pass_N[order_N]
        length_B = own.length_W + num_beside_B
        offsets_B = np.append(0, np.cumsum(length_B))
        hidden_N = self.hidden_R[row_N]
        num_measured = len(self.hidden_R) - int(self.num_beside_P.sum())
        elsewhere_N = self.is_early_P[index_B][pass_N] & (row_N < num_measured)
        return Passes(
            rows=Measurements(
                subject_id_S=own.subject_id_W,
                offsets_S=offsets_B,
                code_index_N=self.code_R[row_N].astype(np.int32),
                time_us_N=self.time_us_R[row_N],
                numeric_value_N=self.value_R[row_N],
            ),
            windows=replace(own, start_W=offsets_B[:-1], length_W=length_B),
            hidden_N=hidden_N,
            row_M=np.where(elsewhere_N, -1, row_N)[hidden_N],
        )


def is_measured(measurements: Measurements, asked: Asked) -> Bools:
    """Return which rows stand among the measurements, L entries; codes are those of both."""
    return _match(measurements, asked)[1] >= 0


def place(measurements: Measurements, asked: Asked, sequence_length: int) -> Placed:
    """Put rows among the measurements of their subjects, into windows of which some may be seen.

    Args:
        measurements: Of a unit.
        asked: Whose codes are entries of the vocabulary, as those of the measurements are.
        sequence_length: Measurements of a window at most, and rows beside them in one pass.
    """
    own = _of_asked(measurements, asked)
    hidden_N, row_L = _match(own, asked)
    windows = cut_windows(own, sequence_length, singles=True)
    window_N = np.repeat(np.arange(windows.num_sequences), windows.length_W)
    # A window of which nothing is left to see is as good as not there.
    seen_W = np.bincount(window_N[~hidden_N], minlength=windows.num_sequences) > 0
    kept_N = seen_W[window_N]
    row_L = np.where((row_L >= 0) & np.append(kept_N, False)[row_L], row_L, -1)
    beside_U, window_U = _nearest(own, window_N, kept_N, asked.take(row_L < 0))
    index_U = np.flatnonzero(row_L < 0)[beside_U]
    time_U = asked.time_us_L[index_U]
    is_early_U = time_U < own.time_us_N[windows.start_W[window_U]]
    order_U = np.lexsort((time_U, is_early_U, window_U))
    index_U, window_U, is_early_U = index_U[order_U], window_U[order_U], is_early_U[order_U]
    time_U = time_U[order_U]
    keys = (window_U, np.where(is_early_U, time_U, 0), is_early_U)
    first_P = _cut_passes(keys, sequence_length)
    # Windows of which measurements are asked for, and nothing that fits in beside them.
    alone_W = np.bincount(window_N[hidden_N & kept_N], minlength=windows.num_sequences) > 0
    alone_W[window_U[~is_early_U]] = False
    alone = np.flatnonzero(alone_W)
    none_P = np.zeros(len(alone), np.int64)
    row_L[index_U] = len(kept_N) + np.arange(len(index_U))
    return Placed(
        **_rows(own, hidden_N, asked.take(index_U)),
        row_L=row_L,
        windows=windows.take(np.concatenate([alone, window_U[first_P]])),
        start_P=len(kept_N) + np.concatenate([none_P, first_P]),
        num_beside_P=np.concatenate([none_P, np.diff(first_P, append=len(index_U))]),
        is_early_P=np.concatenate([none_P > 0, is_early_U[first_P]]),
    )


def place_after_past(measurements: Measurements, asked: Asked, sequence_length: int) -> Placed:
    """Put rows behind the last measurements of their subjects at or before their time.

    Args:
        measurements: Of a unit.
        asked: Whose codes are entries of the vocabulary, as those of the measurements are.
        sequence_length: Measurements that are seen at most, and rows beside them in one pass.
    """
    own = _of_asked(measurements, asked)
    seen = _only(own, ~_match(own, asked)[0])
    moments = Moments(subject_id_L=asked.subject_id_L, time_us_L=asked.time_us_L)
    index_U, windows = last_windows(seen, moments, sequence_length)
    order_U = np.lexsort((asked.time_us_L[index_U], asked.subject_id_L[index_U]))
    beside = asked.take(index_U[order_U])
    first_P = _cut_passes((beside.subject_id_L, beside.time_us_L), sequence_length)
    num_seen = len(seen.time_us_N)
    row_L = np.full(asked.num_rows, -1)
    row_L[index_U[order_U]] = num_seen + np.arange(beside.num_rows)
    return Placed(
        **_rows(seen, np.zeros(num_seen, np.bool_), beside),
        row_L=row_L,
        windows=windows.take(order_U[first_P]),
        start_P=num_seen + first_P,
        num_beside_P=np.diff(first_P, append=beside.num_rows),
        is_early_P=np.zeros(len(first_P), np.bool_),
    )


def _rows(measurements: Measurements, hidden_N: Bools, beside: Asked) -> dict[str, Any]:
    """Return the columns of `Placed`: measurements, and behind them the rows beside them."""
    m, num_beside = measurements, beside.num_rows
    return {
        "code_R": np.concatenate([m.code_index_N, beside.code_L]),
        "time_us_R": np.concatenate([m.time_us_N, beside.time_us_L]),
        "value_R": np.concatenate([m.numeric_value_N, np.zeros(num_beside, np.float32)]),
        "hidden_R": np.concatenate([hidden_N, np.ones(num_beside, np.bool_)]),
    }


def _cut_passes(keys: tuple[Ints | Bools, ...], most: int) -> Ints:
    """Return where each pass begins, of rows in order: one for each key, and for so many rows."""
    begin_G = run_starts(*keys)
    num_G = np.diff(begin_G, append=len(keys[0]))
    number_U = np.arange(len(keys[0])) - np.repeat(begin_G, num_G)
    return np.flatnonzero(number_U % most == 0)


def _of_asked(measurements: Measurements, asked: Asked) -> Measurements:
    """Return the measurements of subjects of whom something is asked."""
    own_S = is_among(np.unique(asked.subject_id_L), measurements.subject_id_S)
    return _only(measurements, np.repeat(own_S, np.diff(measurements.offsets_S)))


def _only(measurements: Measurements, kept_N: Bools) -> Measurements:
    """Return some measurements, and the subjects that have one."""
    m = measurements
    offsets_S = np.append(0, np.cumsum(kept_N))[m.offsets_S]
    has_S = np.diff(offsets_S) > 0
    return Measurements(
        subject_id_S=m.subject_id_S[has_S],
        offsets_S=np.append(0, offsets_S[1:][has_S]),
        code_index_N=m.code_index_N[kept_N],
        time_us_N=m.time_us_N[kept_N],
        numeric_value_N=m.numeric_value_N[kept_N],
    )


def _match(measurements: Measurements, asked: Asked) -> tuple[Bools, Ints]:
    """Return which measurements are asked for, and which one each row is; -1: it is none."""
    m, num_rows = measurements, len(measurements.time_us_N)
    keys = (
        np.concatenate([m.code_index_N, asked.code_L]),
        np.concatenate([m.time_us_N, asked.time_us_L]),
        np.concatenate([np.repeat(m.subject_id_S, np.diff(m.offsets_S)), asked.subject_id_L]),
    )
    # Stable, so that of equal ones the first is a measurement if any is.
    order_R = np.lexsort(keys)
    begin_G = run_starts(*(key_R[order_R] for key_R in keys))
    first_G = order_R[begin_G]
    group_R = np.empty_like(order_R)
    group_R[order_R] = np.repeat(np.arange(len(begin_G)), np.diff(begin_G, append=len(order_R)))
    asked_G = np.zeros(len(first_G), np.bool_)
    asked_G[group_R[num_rows:]] = True
    row_L = first_G[group_R[num_rows:]]
    return asked_G[group_R[:num_rows]], np.where(row_L < num_rows, row_L, -1)


def _nearest(
    measurements: Measurements, window_N: Ints, kept_N: Bools, asked: Asked
) -> tuple[Ints, Ints]:
    """Return the rows whose subject has a kept window, and the window that is nearest in time.

    It is that of the last measurement at or before the row, or of the first one after it.
    """
    seen = _only(measurements, kept_N)
    order_S = np.argsort(seen.subject_id_S, kind="stable")
    ascending_S = seen.subject_id_S[order_S]
    found_U = np.flatnonzero(is_among(ascending_S, asked.subject_id_L))
    own = asked.take(found_U)
    subject_U = order_S[np.searchsorted(ascending_S, own.subject_id_L)]
    first_U, end_U = seen.offsets_S[subject_U], seen.offsets_S[subject_U + 1]
    moments = Moments(subject_id_L=own.subject_id_L, time_us_L=own.time_us_L)
    next_U = first_U + num_until(seen, moments)[1]
    before_U, after_U = np.maximum(next_U - 1, first_U), np.minimum(next_U, end_U - 1)
    is_before_U = np.abs(own.time_us_L - seen.time_us_N[before_U]) <= np.abs(
        seen.time_us_N[after_U] - own.time_us_L
    )
    return found_U, window_N[kept_N][np.where(is_before_U, before_U, after_U)]
