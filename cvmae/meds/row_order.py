"""The order that MEDS asks for: subjects together, times ascending; checked as rows are read.

Beneath `cvmae.meds.reading`. Messages give the row of the file, counted from 0; never a subject id,
never a value.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt

from cvmae import compiled
from cvmae.arrays import Bools, Ints
from cvmae.meds.refused import RefusedDataError

__all__ = ["FIRST_US", "LAST_US", "NO_CALENDAR", "NULL_TIME", "Column", "RowOrder", "run_starts"]

# Shape letters beside those of `cvmae.arrays`: N rows of the row group, S subjects in it.

# Beyond these, differences of times in microseconds would leave 64 bits.
FIRST_US, LAST_US = (
    int(np.datetime64(time, "us").astype(np.int64))
    for time in ("0001-01-01", "9999-12-31T23:59:59.999999")
)
NO_CALENDAR = ("has a time that is in no year from 1 to 9999", "mend the export")
NULL_TIME = np.iinfo(np.int64).min  # sorts before every time: MEDS wants rows without one first


@dataclass(frozen=True)
class Column:
    """A column as Arrow holds it, nothing copied; values where there is none are arbitrary."""

    value_N: npt.NDArray[Any]
    bitmap: npt.NDArray[np.uint8]  # a bit for each row, 0: no value; empty: all have one
    first_bit: int
    num_null: int

    @classmethod
    def of(cls, array: Any, dtype: Any) -> Self:
        """Look at an array of Arrow's."""
        bitmap, data = array.buffers()
        value_N = np.frombuffer(data, dtype=dtype, count=array.offset + len(array))
        if array.null_count == 0 or bitmap is None:
            return cls(value_N[array.offset :], np.empty(0, np.uint8), 0, 0)
        bits = np.frombuffer(bitmap, np.uint8)
        return cls(value_N[array.offset :], bits, array.offset, array.null_count)

    @cached_property
    def valid_N(self) -> Bools | None:
        """Return which rows have a value, None where all have."""
        if not self.num_null:
            return None
        end = self.first_bit + len(self.value_N)
        bits = np.unpackbits(self.bitmap, count=end, bitorder="little")
        return bits[self.first_bit :].view(np.bool_)


class RowOrder:
    """Checks that the rows of a file are in MEDS order, one row group after another.

    Subjects ascend and each is contiguous; times ascend within a subject, nulls first.
    """

    def __init__(self, path: str, first_row: int = 0) -> None:
        self.path = path
        self._first_row = first_row  # row of the file where the current row group begins
        self._next_row = first_row
        self._last_subject: int | None = None  # of the row group before
        self._continues = False  # the current row group begins within a subject
        self._last_time: int | None = None

    def check_subjects(self, subject_N: Ints) -> Ints:
        """Return where each subject begins in the next row group (0 first).

        Raises:
            RefusedDataError: A row belongs to a lower subject than the row before it.
        """
        self._first_row, self._next_row = self._next_row, self._next_row + len(subject_N)
        starts_N = np.empty(len(subject_N) + 1, np.int64)
        num_subjects = compiled.find_starts(subject_N, starts_N)
        before, first = self._last_subject, int(subject_N[0])
        if before is not None and first < before:
            num_subjects = -1
        if num_subjects < 0:
            self.refuse(
                -1 - num_subjects,
                "belongs to a lower subject_id than the row before it",
                "MEDS needs the rows of a subject together, and cvmae subjects ascending: sort "
                "the file by subject_id, then time",
            )
        self._continues = first == before
        self._last_subject = int(subject_N[-1])
        return starts_N[:num_subjects].copy()

    def check_times(self, times: Column, starts_S: Ints) -> Ints:
        """Check the times of the row group whose subjects were checked last.

        Args:
            times: Times, one a row.
            starts_S: Where each subject begins.

        Returns:
            Each subject's first row with a time; its rows before that have none.

        Raises:
            RefusedDataError: A row is earlier than the row before it of the same subject, or
                its time is in no year from 1 to 9999.
        """
        timed_S = np.empty_like(starts_S)
        if self._ascend(times, starts_S, timed_S):
            self._last_time = (
                NULL_TIME if timed_S[-1] == len(times.value_N) else int(times.value_N[-1])
            )
        else:
            self._refuse_times(times.value_N, times.valid_N, starts_S)
        return timed_S

    def _ascend(self, times: Column, starts_S: Ints, timed_S: Ints) -> bool:
        """Return whether times are as they must be; write each subject's first row with one."""
        ends_S = np.append(starts_S, len(times.value_N))
        if not compiled.find_timed(
            times.value_N,
            times.bitmap,
            times.first_bit,
            times.num_null,
            ends_S,
            FIRST_US,
            LAST_US,
            timed_S,
        ):
            return False
        first = NULL_TIME if timed_S[0] else int(times.value_N[0])
        return not self._continues or self._last_time is None or first >= self._last_time

    def _refuse_times(self, time_N: Ints, timed_N: Bools | None, starts_S: Ints) -> None:
        """Find the row that `check_times` refuses."""
        earlier_N = time_N[1:] < time_N[:-1]  # entry i compares rows i + 1 and i
        first = int(time_N[0])
        edges = [starts_S, starts_S[1:] - 1, np.array([len(time_N) - 1])]
        if timed_N is not None:
            null = _null_rows(timed_N, starts_S)
            before = null[null < len(earlier_N)]
            earlier_N[before] = False
            after = null[null > 0]
            earlier_N[after - 1] = timed_N[after - 1]
            first = first if timed_N[0] else NULL_TIME
            edges.append(before + 1)
        earlier_N[starts_S[1:] - 1] = False  # a new subject may begin at any time
        row = int(np.argmax(earlier_N)) + 1 if earlier_N.any() else None
        # Where times ascend, a subject's first and last bound all of them.
        self._check_calendar(time_N, timed_N, None if row is not None else np.concatenate(edges))
        if self._continues and self._last_time is not None and first < self._last_time:
            row = 0
        if row is not None:
            self.refuse(
                row,
                "is earlier than the row before it of the same subject, or has no time behind "
                "rows that have one",
                "sort the file by subject_id, then time, nulls first",
            )

    def _check_calendar(self, time_N: Ints, timed_N: Bools | None, edges: Ints | None) -> None:
        """Refuse times in no year from 1 to 9999, looking at some rows first (None: at all)."""
        if edges is not None and not _outside(time_N, timed_N, edges).any():
            return
        outside_N = _outside(time_N, timed_N, slice(None))
        if outside_N.any():
            self.refuse(int(np.argmax(outside_N)), *NO_CALENDAR)

    def skip_times(self) -> None:
        """Leave the times of the current row group unchecked (none of its subjects is read)."""
        self._last_time = None

    def refuse_damaged(self, index: int, what: str) -> NoReturn:
        """Raise RefusedDataError about a row group that cannot be as it was written."""
        raise RefusedDataError(
            f"has a row group ({index}, from 0) that {what}",
            "the file is damaged: write it again",
            file=self.path,
        )

    def refuse(self, row: int, what: str, remedy: str) -> NoReturn:
        """Raise RefusedDataError about a row of the current row group."""
        raise RefusedDataError(what, remedy, file=self.path, rows=[self._first_row + row])


def _outside(time_N: Ints, timed_N: Bools | None, rows: "Ints | slice") -> Bools:
    time_R = time_N[rows]
    outside_R = (time_R < FIRST_US) | (time_R > LAST_US)
    return outside_R if timed_N is None else outside_R & timed_N[rows]


def _null_rows(timed_N: Bools, starts_S: Ints) -> Ints:
    """Return the rows without a time: mostly one for each subject, its first."""
    first = starts_S[~timed_N[starts_S]]
    if len(first) == len(timed_N) - np.count_nonzero(timed_N):
        return first
    return np.flatnonzero(~timed_N)


def run_starts(key_N: npt.NDArray[Any], *more: npt.NDArray[Any]) -> Ints:
    """Return where each run of rows begins whose keys are all equal; empty for empty arrays."""
    differs = key_N[1:] != key_N[:-1]
    for own_N in more:
        differs |= own_N[1:] != own_N[:-1]
    return np.concatenate([np.zeros(min(len(key_N), 1), np.int64), np.flatnonzero(differs) + 1])
