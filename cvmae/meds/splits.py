"""Which subject is in which split: metadata/subject_splits.parquet and nothing else."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from meds.schema import (
    SubjectSplitSchema,
    held_out_split,
    subject_splits_filepath,
    train_split,
    tuning_split,
)

from cvmae.arrays import Bools, Ints
from cvmae.meds.files import check_num_rows, is_text, reading
from cvmae.storage.places import locate, open_file, reaching

__all__ = ["SPLITS", "is_among", "load_splits"]

# Shape letters beside those of `cvmae.arrays`: N subjects looked up.

SPLITS = (train_split, tuning_split, held_out_split)
SUBJECT, SPLIT = SubjectSplitSchema.subject_id_name, SubjectSplitSchema.split_name
NO_SPLIT = 255  # a split of another name


def load_splits(root: str) -> dict[str, Ints]:
    """Return the subjects of each split, ascending.

    Splits come from metadata/subject_splits.parquet and from nothing else. Subjects of splits
    with other names are left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not parquet, lacks a column, or puts a subject in two splits.
    """
    _require_table(root)
    path = subject_splits_filepath
    with reading(path), reaching(root), open_file(root, path) as source:
        parquet = pq.ParquetFile(source, page_checksum_verification=True)
        table = parquet.read()
        check_num_rows(path, parquet.metadata, table.num_rows)
        subject_S = _column(table, SUBJECT, "int64", pa.types.is_int64).to_numpy()
        encoded = _column(table, SPLIT, "string", is_text).cast(pa.string()).dictionary_encode()
        names, name_S = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    order_S = np.argsort(subject_S, kind="stable")
    subject_S, name_S = subject_S[order_S], name_S[order_S]
    again_S = np.flatnonzero(subject_S[1:] == subject_S[:-1])
    torn = again_S[name_S[again_S] != name_S[again_S + 1]]
    if len(torn):
        first, second = order_S[torn[0]], order_S[torn[0] + 1]
        raise ValueError(
            f"{path}: rows {first} and {second} (from 0) put one subject in two splits "
            f"({names[name_S[torn[0]]]!r} and {names[name_S[torn[0] + 1]]!r}); keep one of them"
        )
    index_of = np.array([SPLITS.index(n) if n in SPLITS else NO_SPLIT for n in names], np.uint8)
    split_S = index_of[name_S] if len(names) else np.empty(0, np.uint8)
    keep_S = split_S != NO_SPLIT
    keep_S[again_S] = False
    subject_S, split_S = subject_S[keep_S], split_S[keep_S]
    return {split: subject_S[split_S == number] for number, split in enumerate(SPLITS)}


def is_among(member_S: Ints, subject_N: Ints) -> Bools:
    """Return which subjects are among members, who ascend."""
    if not len(member_S):
        return np.zeros(len(subject_N), np.bool_)
    place_N = np.searchsorted(member_S, subject_N).clip(max=len(member_S) - 1)
    among_N: Bools = member_S[place_N] == subject_N
    return among_N


def _require_table(root: str) -> None:
    with reaching(root):
        filesystem, location = locate(root, subject_splits_filepath)
        info = filesystem.get_file_info(location)
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(
            f"{root}/{subject_splits_filepath} is missing; MEDS keeps there which subject is in "
            f"which split ({', '.join(SPLITS)}): write it (columns subject_id, split)"
        )


def _column(table: Any, name: str, needed: str, fits: Callable[[Any], bool]) -> Any:
    """Return a column as one array; refuse it where it is missing, of another type or has nulls."""
    path = subject_splits_filepath
    found = table.schema.field(name).type if name in table.column_names else None
    if found is None or not fits(found):
        what = "has no column" if found is None else f"has type {found} in column"
        raise ValueError(f"{path} {what} {name!r}; MEDS needs one of type {needed}")
    array = table.column(name).combine_chunks()
    if array.null_count:
        row = array.is_null().index(True).as_py()
        raise ValueError(f"{path}: row {row} (from 0) has no {name}; complete or remove it")
    return array
