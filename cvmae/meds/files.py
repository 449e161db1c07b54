"""Parquet files of a MEDS data set: opening, schema, order; each failure one clear line.

Beneath `cvmae.meds.reading`, which everybody else imports. Row numbers in messages count from 0
within the file; neither subject ids nor values are ever shown.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from meds.schema import dataset_metadata_filepath

from cvmae.meds.row_order import RowOrder
from cvmae.meds.rows import CODE, SUBJECT, TIME, VALUE, read_subjects, subject_bounds
from cvmae.storage.places import is_remote, locate, open_file, reaching

__all__ = [
    "RowGroup",
    "check_num_rows",
    "dataset_name",
    "ends_with",
    "is_shard",
    "is_text",
    "locate",
    "open_shard",
    "read_row_groups",
    "reading",
]

UNNAMED = "unnamed data set"


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """A row group that has rows, and the subjects that they belong to."""

    index: int
    num_rows: int
    first_subject: int
    last_subject: int  # inclusive


def dataset_name(root: str) -> str:
    """Return the name that a data set gives itself, or 'unnamed data set'."""
    filesystem, path = locate(root, dataset_metadata_filepath)
    try:
        with filesystem.open_input_stream(path) as stream:
            metadata = json.loads(stream.read())
    except (OSError, ValueError):
        return UNNAMED
    return str(metadata.get("dataset_name") or UNNAMED) if isinstance(metadata, dict) else UNNAMED


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what pyarrow raises about a file into one line that names the file.

    Raises:
        ValueError: The file has vanished, is cut short, is damaged or is not parquet.
    """
    try:
        yield
    except FileNotFoundError:
        raise ValueError(
            f"{path} is gone: it was there when the data set was listed; restore it or start anew"
        ) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} cannot be read as parquet (cut short, damaged, or another format?); "
            f"write it again: {reason}"
        ) from error


@contextmanager
def open_shard(root: str, path: str) -> Iterator[Any]:
    """Open a shard so that codes stay dictionaries of strings and small integers.

    Raises:
        ValueError: Its columns are not those of MEDS (see `check_schema`), or as `reading`, for
            opening and for whatever is read within the block.
    """
    with reading(path), reaching(root), open_file(root, path) as source:
        try:
            parquet = pq.ParquetFile(
                source,
                read_dictionary=[CODE],
                pre_buffer=is_remote(root),  # neighbouring columns come in one request
                page_checksum_verification=True,  # of pages that have one
            )
        except KeyError:  # there is no column of codes
            check_schema(path, pq.read_metadata(source).schema.to_arrow_schema())
            raise
        check_schema(path, parquet.metadata.schema.to_arrow_schema())
        _check_names(path, parquet.metadata)
        yield parquet


def is_shard(path: str) -> bool:
    """Return whether a file below data/ is a shard: parquet, and not hidden."""
    return path.endswith(".parquet") and path.rpartition("/")[2][0] not in "._"


def check_schema(path: str, schema: Any) -> None:
    """Refuse a shard whose columns are not those of MEDS, or cannot be aligned to them.

    Aligned without loss of meaning are: large or dictionary-encoded strings as codes, times in
    seconds, milli- or nanoseconds, values in float64, and times or values that are all null.
    numeric_value may be missing: none of the rows has a value then.

    Raises:
        ValueError: A column is missing, twice there, or of another type.
    """
    columns = {
        SUBJECT: ("int64", _is_subject),
        TIME: ("timestamp[us] without a time zone", _is_time),
        CODE: ("string", is_text),
        VALUE: ("float32", _is_value),
    }
    for name, (wanted, fits) in columns.items():
        found = [field for field in schema if field.name == name]
        if name == VALUE and not found:
            continue  # MEDS lets a shard leave it out
        if len(found) != 1:
            what = "no column" if not found else f"{len(found)} columns"
            raise ValueError(
                f"{path} has {what} {name!r}; MEDS needs one of type {wanted} "
                f"(columns there: {', '.join(map(repr, schema.names)) or 'none'})"
            )
        if not fits(found[0].type):
            raise ValueError(
                f"{path}: column {name!r} is of type {found[0].type}, MEDS needs {wanted}; "
                "convert the column and write the file again"
            )


def _check_names(path: str, metadata: Any) -> None:
    """Refuse a footer whose schema has lost the name of the one column that may be missing."""
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    if VALUE in names or not metadata.num_row_groups:
        return
    row_group = metadata.row_group(0)  # repeats the names
    if names != [row_group.column(i).path_in_schema for i in range(metadata.num_columns)]:
        raise ValueError(
            f"{path}: schema and row groups name the columns differently; the file is damaged: "
            "write it again"
        )


def read_row_groups(parquet: Any, path: str) -> tuple[RowGroup, ...]:
    """Return the row groups that have rows, with their first and last subject.

    Uses the statistics in the footer; where they are missing or overlap, reads the subject_id
    column up to there.

    Raises:
        ValueError: Subjects are not ascending in the file.
    """
    metadata = parquet.metadata
    row_groups: list[RowGroup] = []
    for index in range(metadata.num_row_groups):
        row_group = metadata.row_group(index)
        if row_group.num_rows == 0:
            continue
        bounds = subject_bounds(metadata, index)
        if bounds is None or (row_groups and bounds[0] < row_groups[-1].last_subject):
            bounds = _read_bounds(parquet, path, index)
        row_groups.append(
            RowGroup(
                index=index,
                num_rows=row_group.num_rows,
                first_subject=bounds[0],
                last_subject=bounds[1],
            )
        )
    check_num_rows(path, metadata, sum(row_group.num_rows for row_group in row_groups))
    return tuple(row_groups)


def check_num_rows(path: str, metadata: Any, num_rows: int) -> None:
    """Refuse a file that has lost rows: a damaged footer may end before its last row group.

    Raises:
        ValueError: The footer gives the whole file another number of rows.
    """
    if num_rows != metadata.num_rows:
        raise ValueError(
            f"{path} has {num_rows} rows, its footer says {metadata.num_rows}; the file is "
            "damaged: write it again"
        )


def ends_with(metadata: Any, index: int, subject: int) -> bool:
    """Return whether the footer says that a row group's last rows are the subject's."""
    bounds = subject_bounds(metadata, index)
    return bounds is not None and bounds[1] <= subject


def _read_bounds(parquet: Any, path: str, index: int) -> tuple[int, int]:
    """Return first and last subject of a row group from its rows; names a row out of order."""
    order = RowOrder(path)
    for before in range(index + 1):
        if parquet.metadata.row_group(before).num_rows:
            subject_N, _ = read_subjects(parquet, before, order)
    return int(subject_N[0]), int(subject_N[-1])


def _is_subject(kind: Any) -> bool:
    return bool(pa.types.is_int64(kind))


def _is_time(kind: Any) -> bool:
    # With a time zone, a wall-clock time would be read as another instant without a word.
    return pa.types.is_null(kind) or (bool(pa.types.is_timestamp(kind)) and kind.tz is None)


def is_text(kind: Any) -> bool:
    """Return whether a type is a string, large or dictionary-encoded ones included."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_value(kind: Any) -> bool:
    return any(fits(kind) for fits in (pa.types.is_float32, pa.types.is_float64, pa.types.is_null))
