"""Which subject is in which split: metadata/subject_splits.parquet and nothing else."""

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs
from meds.schema import (
    SubjectSplitSchema,
    held_out_split,
    subject_splits_filepath,
    train_split,
    tuning_split,
)

from cvmae.meds.parquet import is_subject, is_text, only_column, read_columns, reading
from cvmae.meds.refused import RefusedDataError
from cvmae.storage.places import locate, reaching

__all__ = ["SPLITS", "load_splits", "other_splits", "split_members"]

# Shape letter: S subjects.
Ints = npt.NDArray[np.int64]

SPLITS = (train_split, tuning_split, held_out_split)
SUBJECT, SPLIT = SubjectSplitSchema.subject_id_name, SubjectSplitSchema.split_name
MOST_OTHERS = 5  # names of other splits that a message shows
NO_SPLIT = 255  # a split of another name


def load_splits(root: str) -> tuple[Ints, npt.NDArray[np.uint8]]:
    """Return the subjects that are in a split, ascending, and which of `SPLITS` it is.

    Splits come from metadata/subject_splits.parquet and from nothing else. Subjects of splits
    with other names are left out. Kept per process until the file changes.

    Raises:
        FileNotFoundError: There is no such file.
        RefusedDataError: It is not parquet, lacks a column, or puts a subject in two splits.
    """
    return _read_splits(root, *_size_and_time(root))


def split_members(root: str, split: str) -> Ints:
    """Return the subjects of a split, ascending; kept and refused as by `load_splits`."""
    return _read_members(root, split, *_size_and_time(root))


def other_splits(root: str) -> dict[str, int]:
    """Return how many subjects are in splits that MEDS does not know, such as "val" or "test".

    Nothing where there are many such names: they are no splits, and may say who the subjects are.
    """
    table = read_columns(root, subject_splits_filepath, SPLIT)
    counts = Counter(table.column(SPLIT).to_pylist())
    others = {name: number for name, number in counts.items() if name not in SPLITS}
    return others if len(others) <= MOST_OTHERS else {}


def _size_and_time(root: str) -> tuple[int, int]:
    with reading(subject_splits_filepath), reaching(root):
        filesystem, location = locate(root, subject_splits_filepath)
        info = filesystem.get_file_info(location)
    if info.type == pafs.FileType.Directory:
        raise RefusedDataError(
            "is a folder", "write the table as one parquet file", file=subject_splits_filepath
        )
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(
            f"{root}/{subject_splits_filepath} is missing; MEDS keeps there which subject is in "
            f"which split ({', '.join(SPLITS)}): write it (columns subject_id, split)"
        )
    return info.size, info.mtime_ns


@lru_cache(maxsize=8)
def _read_members(root: str, split: str, size: int, mtime_ns: int) -> Ints:
    # Kept, too: of a million subjects, choosing them takes as long as reading a small unit.
    subject_S, split_S = _read_splits(root, size, mtime_ns)
    members: Ints = subject_S[split_S == SPLITS.index(split)]
    members.setflags(write=False)
    return members


@lru_cache(maxsize=8)
def _read_splits(root: str, size: int, mtime_ns: int) -> tuple[Ints, npt.NDArray[np.uint8]]:
    """Read the table of splits; size and time of change are there to notice a new one."""
    path = subject_splits_filepath
    table = read_columns(root, path, SUBJECT, SPLIT)
    with reading(path):  # bytes that are no UTF-8 come out as they are decoded
        subject_S = _column(table, SUBJECT, "int64", is_subject).cast(pa.int64()).to_numpy()
        encoded = _column(table, SPLIT, "string", is_text).cast(pa.string()).dictionary_encode()
        names, name_S = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    order_S = np.argsort(subject_S, kind="stable")
    subject_S, name_S = subject_S[order_S], name_S[order_S]
    again_S = np.flatnonzero(subject_S[1:] == subject_S[:-1])
    torn = again_S[name_S[again_S] != name_S[again_S + 1]]
    if len(torn):
        first, second = order_S[torn[0]], order_S[torn[0] + 1]
        one, other = (names[name_S[torn[0] + place]] for place in (0, 1))
        raise RefusedDataError(
            f"put one subject in two splits ({one!r} and {other!r})",
            "keep one of them",
            file=path,
            rows=[int(first), int(second)],
        )
    index_of = np.array([SPLITS.index(n) if n in SPLITS else NO_SPLIT for n in names], np.uint8)
    split_S = index_of[name_S] if len(names) else np.empty(0, np.uint8)
    keep_S = split_S != NO_SPLIT
    keep_S[again_S] = False
    subject_S, split_S = subject_S[keep_S], split_S[keep_S]
    for shared in (subject_S, split_S):
        shared.setflags(write=False)  # the cache hands the same arrays to everybody
    return subject_S, split_S


def _column(table: Any, name: str, needed: str, fits: Callable[[Any], bool]) -> Any:
    """Return a column as one array; refuse it where it is missing, of another type or has nulls."""
    path = subject_splits_filepath
    found = only_column(path, table.schema, name, needed).type
    if not fits(found):
        raise RefusedDataError(
            f"has type {found} in column {name!r}", f"MEDS needs {needed}: convert it", file=path
        )
    array = table.column(name).combine_chunks()
    if array.null_count:
        row = array.is_null().index(True).as_py()
        raise RefusedDataError(f"has no {name}", "complete or remove it", file=path, rows=[row])
    return array
