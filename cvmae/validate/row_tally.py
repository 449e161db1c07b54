"""Row by row: what pretraining leaves out or takes as it is, and every row out of order.

The reader refuses a file at its first row out of order. Whoever mends the file wants to know
them all, so `validate` looks again, here; which of them refuse the file is the reader's to say.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cvmae.arrays import Bools, Float32s, Ints
from cvmae.meds.row_order import NULL_TIME
from cvmae.meds.rows import CODE, SUBJECT, TIME, VALUE, Lookup
from cvmae.meds.units import Piece
from cvmae.validate.findings import SHOWN_ROWS

__all__ = ["COUNTED", "DISORDER", "NO_VALUES", "RowTally", "tally_rows"]

# Shape letters beside those of `cvmae.arrays`: N rows, D codes of their dictionary.

BATCH_ROWS = 1 << 18
TICKS = {"s": 1, "ms": 10**3, "us": 10**6}  # a second; nanoseconds end before any limit here
FIRST_S, END_S = -62_135_596_800, 253_402_300_800  # years 1 and 10,000, since 1970
LIKELY_FROM_US, LIKELY_TO_US = (
    int(np.datetime64(day, "us").astype(np.int64)) for day in ("1900-01-01", "2301-01-01")
)
# Kind of row -> what is said of it, and what to do.
DISORDER = {
    "no_subject": ("has no subject_id", "complete or remove the rows"),
    "lower_subject": (
        "belongs to a lower subject_id than the row before it",
        "sort the file by subject_id, then time",
    ),
    "no_code": ("has no code", "complete or remove the rows"),
    "no_calendar": (
        "has a time before the year 1 or after 9999",
        "mend it, or the unit of the column",
    ),
    "earlier": (
        "is earlier than the row before it of the same subject, or has no time behind rows that "
        "have one",
        "sort the file by subject_id, then time, nulls first",
    ),
}
COUNTED = {
    "null_value": ("has no value, though its code matches", "nothing: such rows are left out"),
    "null_time": ("has no time, though its code matches", "nothing: such rows are left out"),
    "nan": ("has a value that is not a number (NaN)", "left out: write null, or mend the export"),
    "infinite": (
        "has a value that is infinite, or too large for float32",
        "left out: write null, or mend the export",
    ),
    "absurd_time": (
        "has a time before 1900 or after 2300",
        "kept: mend the export, unless dates were shifted on purpose",
    ),
    "blank_code": (
        "has a code that is blank, or begins or ends with a blank",
        "kept: a pattern or a codes file has to match the blank, too",
    ),
    "non_ascii_code": (
        "has a code with characters beyond ASCII",
        "kept: check that all files spell it with the same characters",
    ),
}

# What is said where a file has no column for values: it is true of the file, not of rows.
NO_VALUES = (
    f"has no column {VALUE!r}, though codes in it match",
    "all these rows are left out: write it, as float32, if something was measured there",
)


@dataclass(frozen=True, kw_only=True)
class RowTally:
    """How many rows of a piece are of each kind, and the first ones of the file."""

    count: Mapping[str, int]  # kinds of DISORDER and COUNTED, and rows, matching, measurements
    rows: Mapping[str, tuple[int, ...]]
    has_values: bool = True  # or at least a column for them


def tally_rows(parquet: Any, piece: Piece, lookup: Lookup) -> RowTally:
    """Count the rows of a piece, some at a time.

    Values and times count where the code matches, for no other rows are ever used.

    Args:
        parquet: The piece's open file.
        piece: Its row groups and subjects.
        lookup: Maps codes to a number, or -1 where they do not match.
    """
    count: Counter[str] = Counter()
    rows: dict[str, list[int]] = defaultdict(list)
    metadata, names = parquet.metadata, parquet.schema_arrow.names
    first_row = sum(metadata.row_group(index).num_rows for index in range(piece.first_row_group))
    before: tuple[int, int] | None = None  # subject and time of the row before
    for batch in parquet.iter_batches(
        batch_size=BATCH_ROWS,
        row_groups=list(range(piece.first_row_group, piece.last_row_group + 1)),
        columns=[name for name in (SUBJECT, TIME, CODE, VALUE) if name in names],
        use_threads=False,
    ):
        kinds, before = _kinds(_columns(batch, lookup), piece, before)
        for kind, of_kind_N in kinds.items():
            found = np.flatnonzero(of_kind_N)
            count[kind] += len(found)
            room = SHOWN_ROWS - len(rows[kind])
            rows[kind] += [first_row + int(row) for row in found[:room]]
        first_row += batch.num_rows
        if before[0] > piece.last_subject:
            break  # the rest is the next piece's
    return RowTally(
        count=dict(count),
        rows={kind: tuple(some) for kind, some in rows.items()},
        has_values=VALUE in names,
    )


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Some rows of a file; what stands beneath a null is arbitrary."""

    subject_N: Ints
    has_subject_N: Bools
    time_N: Ints  # microseconds, NULL_TIME where there is none
    no_calendar_N: Bools  # the time is beyond the years 1 to 9999
    value_N: Float32s
    has_value_N: Bools
    has_code_N: Bools
    matches_N: Bools
    blank_N: Bools
    non_ascii_N: Bools


def _columns(batch: Any, lookup: Lookup) -> _Columns:
    subject = batch.column(SUBJECT)
    time_N, no_calendar_N = _times(batch.column(TIME))
    value = batch.column(VALUE) if VALUE in batch.schema.names else pa.nulls(batch.num_rows)
    code = batch.column(CODE)
    if not pa.types.is_dictionary(code.type):
        code = code.cast(pa.large_string()).dictionary_encode()
    codes = [code or "" for code in code.dictionary.to_pylist()]
    place_N = code.indices.fill_null(0).to_numpy(zero_copy_only=False)

    def of_code(flag_D: Any) -> Bools:
        flags = np.asarray([*flag_D, False], np.bool_)  # one more, should there be no code at all
        flags_N: Bools = flags[place_N] & has_code_N
        return flags_N

    has_code_N = code.is_valid().to_numpy(zero_copy_only=False)
    return _Columns(
        subject_N=subject.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False),
        has_subject_N=subject.is_valid().to_numpy(zero_copy_only=False),
        time_N=time_N,
        no_calendar_N=no_calendar_N,
        value_N=value.cast(pa.float32(), safe=False).fill_null(0).to_numpy(zero_copy_only=False),
        has_value_N=value.is_valid().to_numpy(zero_copy_only=False),
        has_code_N=has_code_N,
        matches_N=of_code(lookup(codes) >= 0),
        blank_N=of_code(not code or code != code.strip() for code in codes),
        non_ascii_N=of_code(not code.isascii() for code in codes),
    )


def _times(column: Any) -> tuple[Ints, Bools]:
    """Return microseconds within the years 1 to 9999, and which times lie beyond."""
    ticks = TICKS.get(getattr(column.type, "unit", ""))
    if ticks is None:  # nanoseconds, or no time at all
        column, ticks = column.cast(pa.timestamp("us"), safe=False), TICKS["us"]
    timed_N = column.is_valid().to_numpy(zero_copy_only=False)
    tick_N = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    within_N = tick_N.clip(FIRST_S * ticks, END_S * ticks - 1)
    time_N = np.where(timed_N, within_N * (TICKS["us"] // ticks), NULL_TIME)
    return time_N, timed_N & (within_N != tick_N)


def _kinds(
    c: _Columns, piece: Piece, before: tuple[int, int] | None
) -> tuple[dict[str, Bools], tuple[int, int]]:
    """Return which rows are of which kind, and the last row's subject and time."""
    subject, time = before if before is not None else (int(c.subject_N[0]), NULL_TIME)
    lower_N = np.diff(c.subject_N, prepend=subject) < 0
    same_N = np.diff(c.subject_N, prepend=subject) == 0
    timed_N = c.time_N != NULL_TIME
    absurd_N = timed_N & ((c.time_N < LIKELY_FROM_US) | (c.time_N >= LIKELY_TO_US))
    earlier_N = np.concatenate([[c.time_N[0] < time], c.time_N[1:] < c.time_N[:-1]]) & same_N
    # A row group may hold subjects of the pieces beside this one; rows without one are ours.
    own_N = (c.subject_N >= piece.first_subject) & (c.subject_N <= piece.last_subject)
    own_N |= ~c.has_subject_N
    used_N = own_N & c.matches_N
    valued_N = used_N & c.has_value_N
    kinds = {
        "rows": own_N,
        "matching": used_N,
        "measurements": valued_N & timed_N & np.isfinite(c.value_N),
        "no_subject": ~c.has_subject_N,
        "lower_subject": own_N & lower_N & c.has_subject_N,
        "no_code": own_N & ~c.has_code_N,
        "no_calendar": own_N & c.no_calendar_N,
        "earlier": own_N & earlier_N & c.has_subject_N,
        "null_value": used_N & ~c.has_value_N,
        "null_time": used_N & ~timed_N,
        "nan": valued_N & np.isnan(c.value_N),
        "infinite": valued_N & np.isinf(c.value_N),
        "absurd_time": used_N & absurd_N & ~c.no_calendar_N,
        "blank_code": own_N & c.blank_N,
        "non_ascii_code": own_N & c.non_ascii_N,
    }
    return kinds, (int(c.subject_N[-1]), int(c.time_N[-1]))
