"""Shards of a MEDS data set: opening them, their columns, their row groups.

Beneath `cvmae.meds.reading`, which everybody else imports. Row numbers in messages count from 0
within the file; neither subject ids nor values are ever shown.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from meds.schema import dataset_metadata_filepath

from cvmae.meds.parquet import (
    check_num_rows,
    is_number,
    is_subject,
    is_text,
    only_column,
    open_parquet,
)
from cvmae.meds.refused import RefusedDataError
from cvmae.meds.row_order import RowOrder
from cvmae.meds.rows import CODE, SUBJECT, TIME, VALUE, read_subjects, subject_bounds
from cvmae.storage.places import locate

__all__ = [
    "RowGroup",
    "dataset_facts",
    "dataset_name",
    "ends_with",
    "open_shard",
    "read_row_groups",
]

UNNAMED = "unnamed data set"
NAME, VERSION, LICENSE = "dataset_name", "dataset_version", "license"


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """A row group that has rows, and the subjects that they belong to."""

    index: int
    num_rows: int
    first_subject: int = field(repr=False)
    last_subject: int = field(repr=False)  # inclusive


def dataset_name(root: str) -> str:
    """Return the name that a data set gives itself, or 'unnamed data set'."""
    return dataset_facts(root).get(NAME, UNNAMED)


def dataset_facts(root: str) -> dict[str, str]:
    """Return name, version and licence that a data set gives itself, so far as it does."""
    filesystem, path = locate(root, dataset_metadata_filepath)
    try:
        with filesystem.open_input_stream(path) as stream:
            metadata = json.loads(stream.read())
    except (OSError, ValueError):
        return {}
    told = metadata if isinstance(metadata, dict) else {}
    return {name: str(told[name]) for name in (NAME, VERSION, LICENSE) if told.get(name)}


@contextmanager
def open_shard(root: str, path: str) -> Iterator[Any]:
    """Open a shard so that codes stay dictionaries of strings and small integers.

    Raises:
        RefusedDataError: Its columns are not those of MEDS (see `check_schema`), or as
            `open_parquet`, for opening and for whatever is read within the block.
    """
    with open_parquet(root, path, dictionary=CODE) as parquet:
        check_schema(path, parquet.metadata.schema.to_arrow_schema())
        _check_names(path, parquet.metadata)
        yield parquet


def check_schema(path: str, schema: Any) -> None:
    """Refuse a shard whose columns are not those of MEDS, or cannot be aligned to them.

    Aligned without loss of meaning are: subjects in integers of other widths; strings that are
    large, views or dictionaries, as codes; times in seconds, milli- or nanoseconds; values in
    other floats, integers or decimals; and times or values that are all null. numeric_value may
    be missing: none of the rows has a value then.

    Raises:
        RefusedDataError: A column is missing, twice there, or of another type.
    """
    columns = {
        SUBJECT: ("int64", is_subject),
        TIME: ("timestamp[us] without a time zone", _is_time),
        CODE: ("string", is_text),
        VALUE: ("float32", _is_value),
    }
    for name, (wanted, fits) in columns.items():
        if name == VALUE and name not in schema.names:
            continue  # MEDS lets a shard leave it out
        found = only_column(path, schema, name, wanted)
        if not fits(found.type):
            raise RefusedDataError(
                f"has a column {name!r} of type {found.type}, MEDS needs {wanted}",
                "convert the column and write the file again",
                file=path,
            )


def _check_names(path: str, metadata: Any) -> None:
    """Refuse a footer whose schema has lost the name of the one column that may be missing."""
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    if VALUE in names or not metadata.num_row_groups:
        return
    row_group = metadata.row_group(0)  # repeats the names
    if names != [row_group.column(i).path_in_schema for i in range(metadata.num_columns)]:
        raise RefusedDataError(
            "names the columns differently in its schema and its row groups",
            "the file is damaged: write it again",
            file=path,
        )


def read_row_groups(parquet: Any, path: str) -> tuple[RowGroup, ...]:
    """Return the row groups that have rows, with their first and last subject.

    Uses the statistics in the footer; where they are missing or overlap, reads the subject_id
    column up to there.

    Raises:
        RefusedDataError: Subjects are not ascending in the file.
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


def _is_time(kind: Any) -> bool:
    # With a time zone, a wall-clock time would be read as another instant without a word.
    return pa.types.is_null(kind) or (bool(pa.types.is_timestamp(kind)) and kind.tz is None)


def _is_value(kind: Any) -> bool:
    return pa.types.is_null(kind) or is_number(kind)
