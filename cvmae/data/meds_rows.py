"""Rows of one row group: their order checked, their measurements picked out.

The hot path of everything that reads MEDS: array operations over a row group, no loop over rows
or subjects, no code string built. Beneath `cvmae.data.meds`. Messages give the row of the file,
counted from 0; never a subject id, never a value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from meds.schema import DataSchema

from cvmae.data.meds_order import FIRST_US, LAST_US, NO_CALENDAR, RowOrder, run_starts

__all__ = [
    "CODE",
    "NO_BLOCK",
    "SUBJECT",
    "TIME",
    "VALUE",
    "Block",
    "Rows",
    "distinct_subjects",
    "find_shared",
    "pick_measurements",
    "read_rows",
    "read_subjects",
    "subject_bounds",
]

# Shape letters: N rows of the row group, S subjects in it, M rows that are kept.
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
# MEDS codes of a row group's dictionary -> code_index of each, -1 where not wanted.
Lookup = Callable[[Sequence[str]], npt.NDArray[np.int32]]

SUBJECT, TIME = DataSchema.subject_id_name, DataSchema.time_name
CODE, VALUE = DataSchema.code_name, DataSchema.numeric_value_name
HEAD_ROWS = 4096  # at a time, where only the beginning of a row group is wanted


@dataclass(frozen=True, kw_only=True)
class Block:
    """Measurements of one row group; a subject may have none, or run into the next one."""

    subject_id_S: Ints  # the chosen ones
    count_S: Ints
    code_index_M: npt.NDArray[np.signedinteger]
    time_us_M: Ints
    numeric_value_M: npt.NDArray[np.float32]
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
    time_N: Ints
    timed_N: Bools | None  # None: all have a time
    value_N: npt.NDArray[np.float32]
    valued_N: Bools | None
    code_index_N: npt.NDArray[np.signedinteger]  # -1 where the code is not wanted


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
        ValueError: The rows are not in MEDS order, or lack a code.
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
    time_N, timed_N = _buffers(_times(table.column(TIME), order), np.int64)
    order.check_times(time_N, timed_N, starts_S)
    if VALUE in names:
        value_N, valued_N = _buffers(_cast(table.column(VALUE), pa.float32()), np.float32)
    else:  # a shard of MEDS may leave the column out
        value_N, valued_N = np.zeros(num_rows, np.float32), np.zeros(num_rows, np.bool_)
    return Rows(
        subject_S=subject_N[starts_S],
        ends_S=np.append(starts_S, num_rows),
        time_N=time_N,
        timed_N=timed_N,
        value_N=value_N,
        valued_N=valued_N,
        code_index_N=_codes(table.column(CODE), lookup, order, index),
    )


def pick_measurements(rows: Rows, chosen_S: Bools) -> Block:
    """Pick the measurements of the chosen subjects, in file order."""
    num_rows_S = np.diff(rows.ends_S)
    if not chosen_S.any():
        return NO_BLOCK
    wanted_N = None if chosen_S.all() else np.repeat(chosen_S, num_rows_S)
    # All that can be told from booleans comes before the first gather: those are what costs.
    conditions = (wanted_N, rows.valued_N, rows.timed_N)
    row_M, num_kept = _filter(rows.code_index_N >= 0, conditions)
    value_M = rows.value_N.take(row_M)
    finite_M = np.isfinite(value_M)
    if not finite_M.all():
        row_M, value_M = row_M[finite_M], value_M[finite_M]
    # Rows ascend, so a binary search per subject replaces a pass over the rows.
    count_S = np.diff(np.searchsorted(row_M, rows.ends_S))
    return Block(
        subject_id_S=rows.subject_S[chosen_S],
        count_S=count_S[chosen_S],
        code_index_M=rows.code_index_N.take(row_M),
        time_us_M=rows.time_N.take(row_M),
        numeric_value_M=value_M,
        num_rows=int(num_rows_S[chosen_S].sum()),
        num_matching=num_kept[0],
        num_null_value=num_kept[0] - num_kept[1],
        num_null_time=num_kept[1] - num_kept[2],
        num_non_finite=num_kept[2] - len(row_M),
    )


def _filter(kept_N: Bools, conditions: Sequence[Bools | None]) -> tuple[Ints, list[int]]:
    """Return the rows that meet all conditions (None: all do), and how many met each in turn."""
    num_kept = []
    for condition_N in conditions:
        if condition_N is not None:
            kept_N &= condition_N
        num_kept.append(int(np.count_nonzero(kept_N)))
    return np.flatnonzero(kept_N), num_kept


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
        ValueError: As `RowOrder.check_subjects`.
    """
    if last_subject is None:
        table = parquet.read_row_group(index, columns=[SUBJECT], use_threads=False)
    else:
        beyond = partial(_beyond, last_subject=last_subject)
        table = _read_head(parquet, index, [SUBJECT], beyond)
    subject_N, valid = _buffers(_array(table.column(0)), np.int64)
    if valid is not None:
        order.refuse(int(np.argmin(valid)), "has no subject_id; MEDS needs one in every row")
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
    newest = batches[-1].column(0)[-1].as_py()
    return newest is None or int(newest) > last_subject


def _codes(
    column: Any, lookup: Lookup, order: RowOrder, index: int
) -> npt.NDArray[np.signedinteger]:
    """Return each row's code_index, -1 where its code is not wanted."""
    array = _array(column)
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    index_N, valid_N = _buffers(array.indices, array.indices.type.to_pandas_dtype())
    if valid_N is not None:
        order.refuse(int(np.argmin(valid_N)), "has no code; MEDS needs one in every row")
    # Arrow does not check this; beyond the end, codes would be taken for others. As unsigned
    # numbers, negative ones are large.
    if len(index_N) and int(index_N.view(f"u{index_N.itemsize}").max()) >= len(array.dictionary):
        order.refuse_damaged(index, "has codes that are not in its dictionary")
    # Through numpy: `to_pylist` builds a scalar of Arrow's for each code.
    code_index_of = lookup(array.dictionary.to_numpy(zero_copy_only=False).tolist())
    if code_index_of.max(initial=0) <= np.iinfo(np.int16).max:
        code_index_of = code_index_of.astype(np.int16)
    # Half the time of numpy, which widens indices to 8 bytes before it takes.
    code_index_N: npt.NDArray[np.signedinteger] = pc.take(
        pa.array(code_index_of), array.indices, boundscheck=False
    ).to_numpy()
    return code_index_N


def _times(column: Any, order: RowOrder) -> Any:
    """Return times in microseconds; refuse those that only a coarser unit can hold."""
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit in ("s", "ms"):
        ticks_N, timed_N = _buffers(_array(column), np.int64)
        us_per_tick = 1_000_000 if kind.unit == "s" else 1_000
        outside_N = (ticks_N < FIRST_US // us_per_tick) | (ticks_N > LAST_US // us_per_tick)
        if timed_N is not None:
            outside_N &= timed_N
        if outside_N.any():
            order.refuse(int(np.argmax(outside_N)), NO_CALENDAR)
    return _cast(column, pa.timestamp("us"))


def _cast(column: Any, kind: Any) -> Any:
    # A column of nulls may be of type null. Unsafe casts only round (nanoseconds, float64); a
    # checked one would show a value.
    return _array(column if column.type == kind else column.cast(kind, safe=False))


def distinct_subjects(subjects: Sequence[Ints]) -> Ints:
    """Join the subjects of successive row groups, which ascend."""
    subject_S = np.concatenate([np.empty(0, np.int64), *subjects])
    return subject_S[run_starts(subject_S)]


def find_shared(subjects: Sequence[Ints]) -> tuple[int, int, int] | None:
    """Return a subject that two of the arrays hold, and which two; None where there is none."""
    subject_S = np.concatenate([np.empty(0, np.int64), *subjects])
    array_S = np.repeat(np.arange(len(subjects)), [len(array) for array in subjects])
    order_S = np.argsort(subject_S, kind="stable")
    sorted_S = subject_S[order_S]
    again = np.flatnonzero(sorted_S[1:] == sorted_S[:-1])
    if not len(again):
        return None
    one, other = array_S[order_S[again[0] : again[0] + 2]]
    return int(sorted_S[again[0]]), int(one), int(other)


def _array(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _buffers(array: Any, dtype: Any) -> tuple[npt.NDArray[Any], Bools | None]:
    """Return an array's values without copying, and which of them are valid.

    Values beneath a null are arbitrary. Validity is None where there are no nulls: taking it
    from the bitmap costs a fraction of filling nulls with NaN.
    """
    bitmap, data = array.buffers()
    end = array.offset + len(array)
    values = np.frombuffer(data, dtype=dtype, count=end)[array.offset :]
    if array.null_count == 0 or bitmap is None:
        return values, None
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=end, bitorder="little")
    return values, bits[array.offset :].view(np.bool_)


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
