"""Rows of one row group: their order checked, their measurements picked out.

The hot path of everything that reads MEDS: array operations over a row group, no loop over rows
or subjects, no code string built. Beneath `cvmae.meds.reading`. Messages give the row of the file,
counted from 0; never a subject id, never a value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from meds.schema import DataSchema

from cvmae import compiled
from cvmae.arrays import Bools, Float32s, Ints
from cvmae.meds.row_order import FIRST_US, LAST_US, NO_CALENDAR, Column, RowOrder, run_starts

__all__ = [
    "CODE",
    "NO_BLOCK",
    "SUBJECT",
    "TIME",
    "VALUE",
    "Block",
    "Lookup",
    "Rows",
    "distinct_subjects",
    "find_shared",
    "pick_measurements",
    "pick_missing",
    "read_rows",
    "read_subjects",
    "subject_bounds",
]

# Shape letters: N rows of the row group, S subjects in it, M rows that are kept.
# MEDS codes of a row group's dictionary -> code_index of each, -1 where not wanted.
Lookup = Callable[[Sequence[str]], npt.NDArray[np.int32]]

SUBJECT, TIME = DataSchema.subject_id_name, DataSchema.time_name
CODE, VALUE = DataSchema.code_name, DataSchema.numeric_value_name
MOST_INT16 = np.iinfo(np.int16).max
EVERY_ROW = "MEDS needs one in every row"
HEAD_ROWS = 4096  # at a time, where only the beginning of a row group is wanted


@dataclass(frozen=True, kw_only=True)
class Block:
    """Measurements of one row group; a subject may have none, or run into the next one."""

    subject_id_S: Ints  # the chosen ones
    count_S: Ints
    code_index_M: npt.NDArray[np.signedinteger]
    time_us_M: Ints
    numeric_value_M: Float32s
    num_rows: int  # of the chosen subjects
    num_matching: int
    num_null_value: int
    num_null_time: int
    num_non_finite: int


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Columns of one row group (or of its beginning), as they stand in the file."""

    subject_S: Ints
    ends_S: Ints  # S + 1 entries: subject s owns rows [ends[s], ends[s + 1])
    times: Column
    timed_S: Ints  # each subject's first row with a time; those before have none
    values: Column
    index_N: npt.NDArray[np.uint32]  # of the row's code in the row group's dictionary
    code_index_of: npt.NDArray[np.signedinteger]  # -1 where the code is not wanted


def read_rows(
    parquet: Any, index: int, order: RowOrder, lookup: Lookup, subject_N: Ints, starts_S: Ints
) -> Rows:
    """Read what measurements are picked from, of a row group whose subjects were read last.

    Args:
        parquet: Open file, with codes read as dictionaries.
        index: Row group.
        order: State of the check of the file's order, which this row group continues.
        lookup: Maps codes to a code_index, or -1 for codes that are not wanted.
        subject_N: What `read_subjects` returned.
        starts_S: Likewise.

    Raises:
        RefusedDataError: The rows are not in MEDS order, or lack a code.
    """
    num_rows = len(subject_N)
    found = parquet.schema_arrow.names
    names = [name for name in (TIME, CODE, VALUE) if name in found]
    if num_rows == parquet.metadata.row_group(index).num_rows:
        table = parquet.read_row_group(index, columns=names, use_threads=False)
    else:
        enough = partial(_enough, num_rows=num_rows)
        table = _read_head(parquet, index, names, enough).slice(0, num_rows)
    if table.num_rows != num_rows:
        order.refuse_damaged(index, "has columns of different lengths")
    times = Column.of(_times(table.column(TIME), order), np.int64)
    timed_S = order.check_times(times, starts_S)
    if VALUE in names:
        values = Column.of(_cast(table.column(VALUE), pa.float32()), np.float32)
    else:  # a shard of MEDS may leave the column out
        nowhere = np.zeros(num_rows // 8 + 1, np.uint8)
        values = Column(np.zeros(num_rows, np.float32), nowhere, 0, num_rows)
    index_N, code_index_of = _codes(table.column(CODE), lookup, order, index)
    return Rows(
        subject_S=subject_N[starts_S],
        ends_S=np.append(starts_S, num_rows),
        times=times,
        timed_S=timed_S,
        values=values,
        index_N=index_N,
        code_index_of=code_index_of,
    )


def pick_measurements(rows: Rows, chosen_S: Bools) -> Block:
    """Pick the measurements of the chosen subjects, in file order."""
    if not chosen_S.any():
        return NO_BLOCK
    room = int(np.diff(rows.ends_S)[chosen_S].sum()) + 1
    code_index_M = np.empty(room, rows.code_index_of.dtype)
    time_us_M, numeric_value_M = np.empty(room, np.int64), np.empty(room, np.float32)
    count_S = np.empty(len(chosen_S), np.int64)
    num_rows, num_matching, num_valued, num_timed, num_kept = compiled.pick_rows(
        rows.index_N,
        rows.code_index_of,
        rows.times.value_N,
        rows.values.value_N,
        rows.values.bitmap,
        rows.values.first_bit,
        rows.ends_S,
        rows.timed_S,
        chosen_S,
        count_S,
        code_index_M,
        time_us_M,
        numeric_value_M,
    )
    for array in (code_index_M, time_us_M, numeric_value_M):
        array.resize(num_kept, refcheck=False)  # gives back the rest, without copying
    return Block(
        subject_id_S=rows.subject_S[chosen_S],
        count_S=count_S[chosen_S],
        code_index_M=code_index_M,
        time_us_M=time_us_M,
        numeric_value_M=numeric_value_M,
        num_rows=num_rows,
        num_matching=num_matching,
        num_null_value=num_matching - num_valued,
        num_null_time=num_valued - num_timed,
        num_non_finite=num_timed - num_kept,
    )


def pick_missing(rows: Rows, chosen_S: Bools) -> Block:
    """Pick the rows of wanted codes that have a time and no finite value, as if it was 0.

    What it counts is of them: `num_null_time` are those without a time.
    """
    lacking_N = ~np.isfinite(rows.values.value_N)
    if rows.values.valid_N is not None:
        lacking_N |= ~rows.values.valid_N
    bitmap = np.packbits(lacking_N, bitorder="little")
    zeros_N = np.zeros(len(lacking_N), np.float32)
    values = Column(zeros_N, bitmap, 0, int(np.count_nonzero(~lacking_N)))
    return pick_measurements(replace(rows, values=values), chosen_S)


def read_subjects(
    parquet: Any, index: int, order: RowOrder, last_subject: int | None = None
) -> tuple[Ints, Ints]:
    """Read a row group's subject_id, and where each subject begins (0 first); check its order.

    Args:
        parquet: Open file.
        index: Row group.
        order: State of the check of the file's order.
        last_subject: Return only the rows up to this subject's (None: all).

    Raises:
        RefusedDataError: As `RowOrder.check_subjects`.
    """
    if last_subject is None:
        table = parquet.read_row_group(index, columns=[SUBJECT], use_threads=False)
    else:
        beyond = partial(_beyond, last_subject=last_subject)
        table = _read_head(parquet, index, [SUBJECT], beyond)
    subjects = Column.of(_cast(table.column(SUBJECT), pa.int64()), np.int64)
    subject_N, valid_N = subjects.value_N, subjects.valid_N
    if valid_N is not None:
        order.refuse(int(np.argmin(valid_N)), "has no subject_id", EVERY_ROW)
    if last_subject is None and len(subject_N) != parquet.metadata.row_group(index).num_rows:
        order.refuse_damaged(index, "has another number of rows than the footer says")
    starts_S = order.check_subjects(subject_N)
    bounds = subject_bounds(parquet.metadata, index)
    # Units are cut by these bounds: rows beyond them would be left out without a word.
    first, last = bounds or (int(subject_N[0]), int(subject_N[-1]))
    is_head = last_subject is not None and subject_N[-1] < last
    if subject_N[0] != first or (subject_N[-1] != last and not is_head):
        order.refuse_damaged(index, "has other subjects than the footer says")
    if last_subject is None:
        return subject_N, starts_S
    num_rows = int(np.searchsorted(subject_N, last_subject, side="right"))
    return subject_N[:num_rows], starts_S[starts_S < num_rows]


def subject_bounds(metadata: Any, index: int) -> tuple[int, int] | None:
    """Return a row group's first and last subject as the footer has them, None where it has not."""
    schema = metadata.schema
    leaf = next(i for i in range(metadata.num_columns) if schema.column(i).path == SUBJECT)
    column = metadata.row_group(index).column(leaf)
    if column.physical_type != schema.column(leaf).physical_type:
        return None  # damaged, and pyarrow would end the process over its statistics
    statistics = column.statistics
    if statistics is None or not statistics.has_min_max:
        return None
    return int(statistics.min), int(statistics.max)


def _read_head(
    parquet: Any, index: int, columns: Sequence[str], enough: Callable[[Sequence[Any]], bool]
) -> Any:
    """Read a row group from its beginning until there are enough rows."""
    batches: list[Any] = []
    for batch in parquet.iter_batches(
        HEAD_ROWS, row_groups=[index], columns=columns, use_threads=False
    ):
        batches.append(batch)
        if enough(batches):
            break
    return pa.Table.from_batches(batches)


def _enough(batches: Sequence[Any], num_rows: int) -> bool:
    return sum(int(batch.num_rows) for batch in batches) >= num_rows


def _beyond(batches: Sequence[Any], last_subject: int) -> bool:
    newest = batches[-1].column(SUBJECT)[-1].as_py()
    return newest is None or int(newest) > last_subject


def _codes(
    column: Any, lookup: Lookup, order: RowOrder, index: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.signedinteger]]:
    """Return each row's place in the dictionary, and the code_index there (-1: not wanted)."""
    if not pa.types.is_dictionary(column.type):  # the file's encoding does not allow it
        column = column.cast(pa.large_string()).dictionary_encode()
    array = _array(column)
    places = Column.of(array.indices, array.indices.type.to_pandas_dtype())
    if places.valid_N is not None:
        order.refuse(int(np.argmin(places.valid_N)), "has no code", EVERY_ROW)
    # Arrow does not check this; beyond the end, codes would be taken for others. As unsigned
    # numbers, negative ones are large.
    index_N = places.value_N.view(f"u{places.value_N.itemsize}")
    if len(index_N) and int(index_N.max()) >= len(array.dictionary):
        order.refuse_damaged(index, "has codes that are not in its dictionary")
    # Through numpy: `to_pylist` builds a scalar of Arrow's for each code.
    code_index_of = lookup(array.dictionary.to_numpy(zero_copy_only=False).tolist())
    if code_index_of.max(initial=0) <= MOST_INT16:
        return index_N.astype(np.uint32, copy=False), code_index_of.astype(np.int16)
    return index_N.astype(np.uint32, copy=False), code_index_of


def _times(column: Any, order: RowOrder) -> Any:
    """Return times in microseconds; refuse those that only a coarser unit can hold."""
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit in ("s", "ms"):
        ticks = Column.of(_array(column), np.int64)
        ticks_N, timed_N = ticks.value_N, ticks.valid_N
        us_per_tick = 1_000_000 if kind.unit == "s" else 1_000
        outside_N = (ticks_N < FIRST_US // us_per_tick) | (ticks_N > LAST_US // us_per_tick)
        if timed_N is not None:
            outside_N &= timed_N
        if outside_N.any():
            order.refuse(int(np.argmax(outside_N)), *NO_CALENDAR)
    return _cast(column, pa.timestamp("us"))


def _cast(column: Any, kind: Any) -> Any:
    # A column of nulls may be of type null. Unsafe casts only round (nanoseconds, float64, wide
    # integers, decimals); a checked one would show a value.
    return _array(column if column.type == kind else column.cast(kind, safe=False))


def distinct_subjects(subjects: Sequence[Ints]) -> Ints:
    """Join the subjects of successive row groups, which ascend."""
    subject_S = np.concatenate([np.empty(0, np.int64), *subjects])
    return subject_S[run_starts(subject_S)]


def find_shared(subjects: Sequence[Ints]) -> list[tuple[int, int, int]]:
    """Return each subject that two of the arrays hold, and which two; of three, two pairs."""
    subject_S = np.concatenate([np.empty(0, np.int64), *subjects])
    array_S = np.repeat(np.arange(len(subjects)), [len(array) for array in subjects])
    order_S = np.argsort(subject_S, kind="stable")
    subject_S, array_S = subject_S[order_S], array_S[order_S]
    again = np.flatnonzero(subject_S[1:] == subject_S[:-1])
    shared = (subject_S[again], array_S[again], array_S[again + 1])
    return list(zip(*(column.tolist() for column in shared), strict=True))


def _array(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


NO_BLOCK = Block(
    subject_id_S=np.empty(0, np.int64),
    count_S=np.empty(0, np.int64),
    code_index_M=np.empty(0, np.int16),
    time_us_M=np.empty(0, np.int64),
    numeric_value_M=np.empty(0, np.float32),
    num_rows=0,
    num_matching=0,
    num_null_value=0,
    num_null_time=0,
    num_non_finite=0,
)
