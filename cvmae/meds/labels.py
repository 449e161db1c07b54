"""Labels of a MEDS label set: what is to be predicted of a subject, and at what time.

A label set is a parquet file, or a folder with parquet files at any depth, of MEDS's label schema;
ACES writes such. Who is in which split is said by the data set's table of splits, never here: the
names of folders within a label set mean nothing.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from meds.schema import LabelSchema

from cvmae.arrays import Bools, Floats, Ints
from cvmae.config import resolved_path
from cvmae.meds.parquet import is_number, is_subject, only_column, open_parquet
from cvmae.meds.refused import RefusedDataError
from cvmae.meds.splits import SPLITS
from cvmae.runtime.tables import counted
from cvmae.storage.folders import file_sizes, is_file, join, names
from cvmae.storage.places import is_remote, reaching

__all__ = ["Kind", "Labels", "read_labels", "read_tasks"]

# Shape letters: L labels.

Kind = Literal["boolean", "number"]

SUBJECT, TIME = LabelSchema.subject_id_name, LabelSchema.prediction_time_name
BOOLEAN, CATEGORY = LabelSchema.boolean_value_name, LabelSchema.categorical_value_name
VALUES = (BOOLEAN, LabelSchema.integer_value_name, LabelSchema.float_value_name, CATEGORY)
SUFFIX = ".parquet"
US_PER_TICK = {"s": 1_000_000, "ms": 1_000, "us": 1}
LAST_US = np.iinfo(np.int64).max
SETTING = "labels"


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """One task's labels, ascending by subject and then by time, each such pair once."""

    name: str
    kind: Kind
    subject_id_L: Ints = field(repr=False)
    # prediction_time, in microseconds since 1970: later rows may not be looked at.
    time_us_L: Ints = field(repr=False)
    value_L: Floats = field(repr=False)  # 0 and 1 where the kind is boolean

    @property
    def num_labels(self) -> int:
        """Return L."""
        return len(self.subject_id_L)

    @property
    def digest(self) -> str:
        """Return a hash that tells these labels from others, and nothing of the subjects."""
        hasher = hashlib.sha256()
        for column in (self.subject_id_L, self.time_us_L, self.value_L):
            hasher.update(column.tobytes())
        return hasher.hexdigest()


def read_tasks(folder: str) -> list[Labels]:
    """Read the label sets of a folder that has a folder for each, by name; or the one that it is.

    A file is one label set, and so is a folder that holds parquet files itself, or folders that
    are named like splits.

    Raises:
        FileNotFoundError: There is nothing, or no parquet file in it.
        RefusedDataError: As `read_labels`.
    """
    folder = resolved_path(folder).rstrip("/")
    with reaching(folder, SETTING):
        if is_file(folder):
            return [read_labels(folder)]
        paths = _parquet_below(folder)
    tops = sorted({path.partition("/")[0] for path in paths})
    if any(top in paths or top in SPLITS for top in tops):
        return [read_labels(folder)]
    return [read_labels(join(folder, top)) for top in tops]


def read_labels(root: str) -> Labels:
    """Read one label set: a parquet file, or a folder with parquet files at any depth.

    Columns of values that hold nothing are passed over: ACES writes all four. What begins with
    . or _ is no label set's.

    Raises:
        FileNotFoundError: There is nothing, or no parquet file in it.
        RefusedDataError: A column is missing or of another type, a label has no value or values
            are of several kinds or categories, or a subject has two labels at one time.
    """
    root = resolved_path(root).rstrip("/")
    with reaching(root, SETTING):
        if is_file(root):
            folder, _, only = root.rpartition("/")
            paths = [only]
        else:
            folder, paths = root, _parquet_below(root)
    with _files_of(folder):
        tables = [_read_table(folder, path) for path in paths]
        column = _value_column(root, paths, tables)
        files = list(zip(paths, tables, strict=True))
        subject_L = _joined([_subjects(path, table) for path, table in files])
        time_L = _joined([_times(path, table) for path, table in files])
        value_L = np.concatenate([_values(path, table, column) for path, table in files])
    order_L = np.lexsort((time_L, subject_L))
    labels = Labels(
        name=Path(root).name.removesuffix(SUFFIX),
        kind="boolean" if column == BOOLEAN else "number",
        subject_id_L=subject_L[order_L],
        time_us_L=time_L[order_L],
        value_L=value_L[order_L],
    )
    _refuse_twice(root, labels)
    return labels


@contextmanager
def _files_of(folder: str) -> Iterator[None]:
    """Let what is refused within name its file from the root: tasks have files of one name."""
    try:
        yield
    except RefusedDataError as error:
        if not error.file:
            raise
        file = join(folder, error.file)
        raise RefusedDataError(error.what, error.remedy, file, error.rows) from error.__cause__


def _said(folder: str, there: str) -> str:
    if there:
        return f"there is {there}"
    missing = not is_remote(folder) and not Path(folder).exists()
    return "there is no such file or folder" if missing else "it is empty"


def _parquet_below(folder: str) -> list[str]:
    """Return the parquet files below a folder, in order, but for hidden ones."""
    found = [
        path
        for path in sorted(file_sizes(folder))
        if path.endswith(SUFFIX) and not any(n.startswith((".", "_")) for n in path.split("/"))
    ]
    if not found:
        there = ", ".join(names(folder)[:3])
        raise FileNotFoundError(
            f"{folder} holds no label set: give a parquet file of MEDS's label schema, or a folder "
            f"with such files at any depth ({_said(folder, there)})"
        )
    return found


def _read_table(folder: str, path: str) -> Any:
    with open_parquet(folder, path) as parquet:
        found = parquet.schema_arrow
        only_column(path, found, SUBJECT, "int64")
        only_column(path, found, TIME, "timestamp[us] without a time zone")
        for name in VALUES:
            if found.names.count(name) > 1:
                raise RefusedDataError(f"has several columns {name!r}", "keep one", file=path)
        return parquet.read(columns=[n for n in (SUBJECT, TIME, *VALUES) if n in found.names])


def _value_column(root: str, paths: Sequence[str], tables: Sequence[Any]) -> str:
    """Return the one column in which the label set has its values."""
    used: dict[str, str] = {
        column: path
        for column in VALUES
        for path, table in zip(paths, tables, strict=True)
        if column in table.column_names and table[column].null_count < table.num_rows
    }
    if CATEGORY in used:
        raise RefusedDataError(
            f"has labels in column {CATEGORY!r}, which no probe here predicts",
            f"give labels as {', '.join(VALUES[:3])}: one boolean label set a category, say",
            file=used[CATEGORY],
        )
    if len(used) > 1:
        raise RefusedDataError(
            f"label set {root} has values in several columns ({', '.join(used)})",
            "give each kind of label a folder of its own",
        )
    if not used and not any(set(VALUES) & set(table.column_names) for table in tables):
        raise RefusedDataError(
            f"label set {root} has no column of labels: it has {', '.join(tables[0].column_names)}",
            f"name it {VALUES[0]} (true or false), or {' or '.join(VALUES[1:3])}",
        )
    if not used:
        raise RefusedDataError(
            f"label set {root} has no label: {counted(sum(t.num_rows for t in tables), 'row')} "
            f"in {counted(len(paths), 'file')}, none with a value in {', '.join(VALUES[:3])}",
            "check what wrote it",
        )
    return next(iter(used))


def _subjects(path: str, table: Any) -> Ints:
    column = _complete(path, table, SUBJECT)
    if not is_subject(column.type):
        raise _mistyped(path, SUBJECT, column.type, "int64")
    subject_L: Ints = column.cast(pa.int64()).to_numpy()
    return subject_L


def _times(path: str, table: Any) -> Ints:
    column = _complete(path, table, TIME)
    kind = column.type
    if not pa.types.is_timestamp(kind) or kind.tz is not None:
        raise _mistyped(path, TIME, kind, "timestamp[us] without a time zone")
    ticks_L: Ints = column.cast(pa.int64()).to_numpy()
    if kind.unit == "ns":
        return ticks_L // 1_000  # down: nothing after the prediction may be looked at
    factor = US_PER_TICK[kind.unit]
    outside_L: Bools = (ticks_L < -(LAST_US // factor)) | (ticks_L > LAST_US // factor)
    if outside_L.any():
        raise RefusedDataError(
            f"has a {TIME} outside of what microseconds since 1970 hold",
            "correct or remove it",
            file=path,
            rows=[int(np.argmax(outside_L))],
        )
    return ticks_L * factor


def _values(path: str, table: Any, name: str) -> Floats:
    if not table.num_rows:
        return np.empty(0, np.float64)
    if name not in table.column_names:
        raise RefusedDataError(
            f"has no column {name!r}, as other files of the label set", "complete it", file=path
        )
    column = _complete(path, table, name)
    kind = column.type
    if not (pa.types.is_boolean(kind) if name == BOOLEAN else is_number(kind)):
        raise _mistyped(path, name, kind, "bool" if name == BOOLEAN else "a number's")
    value_L: Floats = column.cast(pa.float64(), safe=False).to_numpy()
    finite_L = np.isfinite(value_L)
    if not finite_L.all():
        row = int(np.argmin(finite_L))
        raise RefusedDataError(
            f"has a {name} that is no finite number", "correct or remove it", file=path, rows=[row]
        )
    return value_L


def _complete(path: str, table: Any, name: str) -> Any:
    """Return a column as one array; refuse nulls in it."""
    column = table[name].combine_chunks()
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise RefusedDataError(f"has no {name}", "complete or remove it", file=path, rows=[row])
    return column


def _mistyped(path: str, name: str, kind: Any, needed: str) -> RefusedDataError:
    what = f"has a column {name!r} of type {kind}, MEDS needs {needed}"
    return RefusedDataError(what, "convert the column and write the file again", file=path)


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([np.empty(0, np.int64), *parts])


def _refuse_twice(root: str, labels: Labels) -> None:
    """Refuse two labels of a subject at one time, alike or not: a set read twice has them all."""
    same_L = np.diff(labels.subject_id_L) == 0
    same_L &= np.diff(labels.time_us_L) == 0
    if same_L.any():
        differ = int(np.count_nonzero(same_L & (np.diff(labels.value_L) != 0)))
        raise RefusedDataError(
            f"label set {root} has {counted(int(np.count_nonzero(same_L)), 'label')} whose subject "
            f"has another at the same {TIME} ({differ:,} with another value)",
            "keep one label a subject and time; where a folder holds several tasks or a set twice, "
            "give each task a folder of its own",
        )
