"""The one way to open a parquet file of a data set, whatever program wrote it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.meds.refused import RefusedDataError
from cvmae.runtime.tables import counted
from cvmae.storage.places import is_remote, open_file, reaching

__all__ = [
    "check_num_rows",
    "is_number",
    "is_subject",
    "is_text",
    "only_column",
    "open_parquet",
    "read_columns",
    "reading",
]

# The encodings that pyarrow decodes to dictionaries; others it reads as plain strings only.
INDEXED = {"PLAIN", "PLAIN_DICTIONARY", "RLE_DICTIONARY", "RLE", "BIT_PACKED"}


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what pyarrow raises about a file into one line that names the file.

    Raises:
        RefusedDataError: The file has vanished, may not be read, is cut short, is damaged, is not
            parquet, or is written as pyarrow does not read it.
        MemoryError: There was too little memory, as pyarrow said; it passes through.
        OSError: The system could not open or read it, which says nothing of the file; likewise.
    """
    try:
        yield
    except FileNotFoundError:
        raise RefusedDataError(
            "is gone: it was there when the data set was listed",
            "restore it or start anew",
            file=path,
        ) from None
    except PermissionError:
        raise RefusedDataError(
            "may not be read by this user (permission denied)",
            "ask its owner for read access",
            file=path,
        ) from None
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # What pyarrow finds wrong in a file has no number of the system's; a bad sector has one.
        if isinstance(error, OSError) and error.errno not in (None, errno.EIO):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, NotImplementedError) or reason.startswith("Not yet implemented"):
            raise RefusedDataError(
                f"is parquet that pyarrow {pa.__version__} does not read ({reason})",
                "write it again with another encoding or compression",
                file=path,
            ) from error
        raise RefusedDataError(
            f"cannot be read as parquet ({reason})",
            "it is cut short, damaged or of another format: write it again",
            file=path,
        ) from error


@contextmanager
def open_parquet(root: str, path: str, dictionary: str = "") -> Iterator[Any]:
    """Open a file so that whatever wrote it, the same rows come out of it.

    Times of the deprecated type INT96 come in microseconds: the years 1 to 9999 fit, where
    nanoseconds end in 2262 and later times would come out as earlier ones without a word.

    Args:
        root: Folder or URI of the data set.
        path: File below it.
        dictionary: A column of strings to read as dictionaries of strings and small integers,
            where the file's encodings allow it.

    Raises:
        RefusedDataError: As `reading`, for opening and for whatever is read within the block.
    """
    with reading(path), reaching(root), open_file(root, path) as source:
        opened = partial(
            pq.ParquetFile,
            source,
            coerce_int96_timestamp_unit="us",
            pre_buffer=is_remote(root),  # neighbouring columns come in one request
            page_checksum_verification=True,  # of pages that have one
        )
        try:
            parquet = opened(read_dictionary=[dictionary] if dictionary else None)
        except KeyError:  # there is no such column
            parquet = opened()
        if dictionary and not _is_indexed(parquet.metadata, dictionary):
            parquet = opened(metadata=parquet.metadata)
        yield parquet


def read_columns(root: str, path: str, *names: str) -> Any:
    """Read some columns of a small table, such as metadata beside the shards.

    Columns that are not there are left out of what is returned.

    Raises:
        RefusedDataError: As `open_parquet`, or the file has lost rows.
    """
    with open_parquet(root, path) as parquet:
        columns = [name for name in names if name in parquet.schema_arrow.names]
        table = parquet.read(columns=columns)
        # Without a column there would be no rows either.
        check_num_rows(path, parquet.metadata, table.num_rows if columns else None)
    return table


def only_column(path: str, schema: Any, name: str, needed: str) -> Any:
    """Return the field of a column that must be there, once.

    Raises:
        RefusedDataError: There is none of the name, or several.
    """
    found = [field for field in schema if field.name == name]
    if len(found) != 1:
        what = "no column" if not found else f"{len(found)} columns"
        raise RefusedDataError(
            f"has {what} {name!r}",
            f"MEDS needs one of type {needed} "
            f"(columns there: {', '.join(map(repr, schema.names)) or 'none'})",
            file=path,
        )
    return found[0]


def check_num_rows(path: str, metadata: Any, num_rows: int | None) -> None:
    """Refuse a file that has lost rows: a damaged footer may end before its last row group.

    Raises:
        RefusedDataError: The footer gives the whole file another number of rows.
    """
    if num_rows is not None and num_rows != metadata.num_rows:
        raise RefusedDataError(
            f"has {counted(num_rows, 'row')}, its footer says {metadata.num_rows}",
            "the file is damaged: write it again",
            file=path,
        )


def is_text(kind: Any) -> bool:
    """Return whether a type is a string: large ones, views and dictionaries included."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return any(
        fits(kind)
        for fits in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def is_subject(kind: Any) -> bool:
    """Return whether a type is of whole numbers that all fit into int64."""
    return bool(pa.types.is_integer(kind)) and not pa.types.is_uint64(kind)


def is_number(kind: Any) -> bool:
    """Return whether a type is of numbers, which float32 then holds as nearly as it can."""
    numbers = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal)
    return any(fits(kind) for fits in numbers)


def _is_indexed(metadata: Any, name: str) -> bool:
    """Return whether every row group has a column in an encoding that becomes a dictionary."""
    schema = metadata.schema
    leaves = [leaf for leaf in range(metadata.num_columns) if schema.column(leaf).path == name]
    return all(
        INDEXED.issuperset(metadata.row_group(index).column(leaf).encodings)
        for index in range(metadata.num_row_groups)
        for leaf in leaves
    )
