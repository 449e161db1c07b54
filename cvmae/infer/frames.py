"""Data frames of MEDS columns -> measurements and what is asked, and tables -> frames like them.

Messages say which frame it is and give its row, counted from 0; never a subject id, never a value.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from cvmae.arrays import Bools, Float32s, Ints
from cvmae.infer.asked import Asked, KnownCodes
from cvmae.infer.histories import Moments
from cvmae.infer.matching import side_by_side
from cvmae.meds.code_names import beginning
from cvmae.meds.measurements import Measurements
from cvmae.meds.parquet import open_parquet
from cvmae.meds.refused import RefusedDataError
from cvmae.meds.row_order import FIRST_US, LAST_US, run_starts
from cvmae.meds.rows import CODE, SUBJECT, TIME, VALUE
from cvmae.runtime.tables import counted
from cvmae.statistics.code_statistics import CodeStatistics, MemberLookup
from cvmae.storage.folders import is_file

__all__ = [
    "like",
    "read_asked",
    "read_asked_file",
    "read_measurements",
    "read_missing",
    "read_moments",
]

# Shape letters: N rows of the frame, M measurements, S subjects.

PREDICTION_TIME = "prediction_time"
MOST = np.iinfo(np.int64).max


@contextmanager
def _about(called: str) -> Iterator[None]:
    """Say which of a function's frames it is that has something wrong with it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{called}: {error}") from None


@_about("measurements")
def read_measurements(frame: Any, statistics: CodeStatistics) -> Measurements:
    """Return the measurements of a frame, subject after subject, ascending in time.

    A measurement is a row with a time, a code of the vocabulary and a finite value; other rows are
    left out. Rows may come in any order; those of one subject and time keep theirs.

    Args:
        frame: Columns subject_id, time, code and numeric_value, as MEDS has them.
        statistics: Of the model, whose vocabulary is looked for.

    Raises:
        TypeError: It is no data frame.
        ValueError: A column is missing or of another type, a row lacks what it must have, or no
            row has a code of the vocabulary.
    """
    table = _as_table(frame, (SUBJECT, TIME, CODE, VALUE))
    subject_N = _subjects(table)
    time_N, timed_N = _times(table, TIME)
    code_N, _ = _codes(table, statistics.lookup)
    value_N = _values(table)
    if not (code_N >= 0).any():
        valued = pa.array(np.isfinite(value_N))
        values_of = Counter(_column(table, CODE, pa.large_string()).filter(valued).to_pylist())
        raise ValueError(
            f"the frame has no row of any of the model's {statistics.num_codes} codes. "
            f"{side_by_side(values_of, statistics)}: name codes as in training, or take a model "
            "whose vocabulary was fitted to such codes"
        )
    kept_M = np.flatnonzero((code_N >= 0) & timed_N & np.isfinite(value_N))
    kept_M = kept_M[np.lexsort((time_N[kept_M], subject_N[kept_M]))]
    begins_S = run_starts(subject_N[kept_M])
    return Measurements(
        subject_id_S=subject_N[kept_M][begins_S],
        offsets_S=np.append(begins_S, len(kept_M)),
        code_index_N=code_N[kept_M].astype(np.int32),
        time_us_N=time_N[kept_M],
        numeric_value_N=value_N[kept_M],
    )


@_about("at")
def read_moments(frame: Any) -> Moments:
    """Return the subjects and times of a frame with columns subject_id and prediction_time.

    Raises:
        TypeError: It is no data frame.
        ValueError: A column is missing or of another type, or a row lacks one.
    """
    table = _as_table(frame, (SUBJECT, PREDICTION_TIME))
    subject_L = _subjects(table)
    time_L, timed_L = _times(table, PREDICTION_TIME)
    _refuse(pa.array(~timed_L), PREDICTION_TIME, "is empty")
    return Moments(subject_id_L=subject_L, time_us_L=time_L)


@_about("measurements")
def read_missing(frame: Any, known: KnownCodes) -> Asked:
    """Return the rows of a frame with a known code and a time and without a finite value.

    Raises:
        TypeError: It is no data frame.
        ValueError: As `read_measurements`.
    """
    table = _as_table(frame, (SUBJECT, TIME, CODE, VALUE))
    time_N, timed_N = _times(table, TIME)
    code_N, _ = _codes(table, known.lookup)
    chosen_N = timed_N & (code_N >= 0) & ~np.isfinite(_values(table))
    return Asked(subject_id_L=_subjects(table), time_us_L=time_N, code_L=code_N).take(chosen_N)


@_about("asked")
def read_asked(frame: Any, known: KnownCodes) -> Asked:
    """Return the rows of a frame with columns subject_id, time and code.

    Raises:
        TypeError: It is no data frame.
        ValueError: A column is missing or of another type, a row lacks one, or a code is not known.
    """
    table = _as_table(frame, (SUBJECT, TIME, CODE))
    time_N, timed_N = _times(table, TIME)
    _refuse(pa.array(~timed_N), TIME, "is empty")
    code_N, names = _codes(table, known.lookup)
    unknown_N = code_N < 0
    if unknown_N.any():
        own = set(known.names)
        unknown = sorted(name for name in names if name not in own)
        raise ValueError(
            f"{counted(int(unknown_N.sum()), 'row')} with codes that are none of the model's "
            f"{len(known.names)} ({beginning(known.names)}): {beginning(unknown)}; leave such "
            "rows out"
        )
    return Asked(subject_id_L=_subjects(table), time_us_L=time_N, code_L=code_N)


def read_asked_file(path: str, known: KnownCodes) -> Asked:
    """Return the rows of a parquet file as `read_asked` does, each once and in order.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no such file, or see `read_asked`.
    """
    folder, _, name = path.rpartition("/")
    if not is_file(path):
        raise FileNotFoundError(f"infer.rows={path}: there is no such file")
    columns = (SUBJECT, TIME, CODE)
    try:
        with open_parquet(folder, name) as parquet:
            found = parquet.schema_arrow.names
            table = parquet.read(columns=[column for column in columns if column in found])
    except RefusedDataError as error:
        raise ValueError(
            f"infer.rows={path} {error.what}: give a parquet file with the columns "
            f"{', '.join(columns)}"
        ) from None
    try:
        return read_asked(table, known).in_order()
    except ValueError as error:
        raise ValueError(f"infer.rows={path}: {error}") from None


def like(table: pa.Table, frame: Any) -> Any:
    """Return a table as a frame of the kind that was given: pandas, polars or Arrow."""
    kind = type(frame).__module__.partition(".")[0]
    if kind == "pandas":
        return table.to_pandas()
    # Its own constructor reads Arrow; polars need not be installed for anybody else.
    return type(frame)(table) if kind == "polars" else table


def _as_table(frame: Any, names: tuple[str, ...]) -> pa.Table:
    if hasattr(frame, "collect") and not hasattr(frame, "__arrow_c_stream__"):
        raise TypeError("a lazy frame has no rows yet: give what its collect() returns")
    if type(frame).__module__.partition(".")[0] == "pandas":
        table = _of_pandas(frame, [name for name in names if name in frame.columns])
    elif hasattr(frame, "__arrow_c_stream__"):
        table = pa.table(frame)
    else:
        raise TypeError(
            f"a {type(frame).__name__} is no data frame: give one of pandas, polars or Arrow with "
            f"the columns {', '.join(names)}"
        )
    if missing := [name for name in names if name not in table.column_names]:
        raise ValueError(
            f"the frame has no column {missing[0]} (it has {', '.join(table.column_names)}): name "
            f"columns as MEDS does: {', '.join(names)}"
        )
    return table.select(list(names))


def _of_pandas(frame: Any, names: list[str]) -> pa.Table:
    columns = {}
    for name in names:
        try:
            columns[name] = pa.Array.from_pandas(frame[name])
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # they show the value
            raise ValueError(
                f"{name} holds values of several types (dtype {frame[name].dtype}): convert the "
                "column to one first"
            ) from None
    return pa.table(columns)


def _subjects(table: pa.Table) -> Ints:
    kind = table.schema.field(SUBJECT).type
    if not pa.types.is_integer(kind):
        raise ValueError(
            f"{SUBJECT} is of type {kind}, expected int64: pandas turns integers into floats where "
            "one is missing; drop such rows, and number subjects that have names"
        )
    column = _column(table, SUBJECT, kind)
    _refuse(column.is_null(), SUBJECT, "is empty")
    if kind == pa.uint64():
        _refuse(np.asarray(column) > MOST, SUBJECT, f"is beyond {MOST}, the last of int64")
    return np.asarray(column).astype(np.int64)


def _times(table: pa.Table, name: str) -> tuple[Ints, Bools]:
    """Return microseconds since 1970, and which rows have a time."""
    kind = table.schema.field(name).type
    if not (pa.types.is_timestamp(kind) and kind.tz is None):
        raise ValueError(
            f"{name} is of type {kind}, expected timestamp without a time zone: parse texts, and "
            "bring all times to one clock"
        )
    column = _column(table, name, pa.timestamp("us"))
    timed_N = np.asarray(column.is_valid(), np.bool_)
    time_N = np.asarray(column.cast(pa.int64()).fill_null(0), np.int64)
    outside_N = timed_N & ((time_N < FIRST_US) | (time_N > LAST_US))
    _refuse(pa.array(outside_N), name, "is in no year from 1 to 9999")
    return time_N, timed_N


def _codes(table: pa.Table, lookup: MemberLookup) -> tuple[Ints, list[str]]:
    """Return the place of each row's code by a lookup, -1 where it has none, and all codes."""
    code = _column(table, CODE, pa.large_string()).dictionary_encode()
    _refuse(code.is_null(), CODE, "is empty")
    names = code.dictionary.to_pylist()
    code_N = lookup(names)[np.asarray(code.indices)] if names else np.empty(0, np.int32)
    return code_N.astype(np.int64), names


def _values(table: pa.Table) -> Float32s:
    """Return values, NaN where a row has none."""
    return np.asarray(_column(table, VALUE, pa.float32()).fill_null(np.nan), np.float32)


def _column(table: pa.Table, name: str, kind: Any) -> Any:
    """Return a column as one array of a type."""
    column = table.column(name)
    try:
        # Casts of numbers only round; a checked one would show a value.
        column = column if column.type == kind else column.cast(kind, safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise ValueError(
            f"{name} is of type {column.type}, expected {kind}: convert it first"
        ) from None
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _refuse(refused_N: Any, name: str, why: str) -> None:
    places = np.flatnonzero(np.asarray(refused_N, np.bool_))
    if len(places):
        raise ValueError(
            f"row {places[0]} of the frame: {name} {why}; so in {counted(len(places), 'row')}"
        )
