"""A MEDS data set: its shards, its splits, and what tells it from another."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from meds.schema import subject_splits_filepath

from cvmae.meds.files import open_shard, read_row_groups
from cvmae.meds.listing import find_shards
from cvmae.meds.refused import RefusedDataError
from cvmae.meds.splits import SPLITS, load_splits, other_splits
from cvmae.meds.units import Dataset, Shard
from cvmae.storage.places import num_connections

__all__ = ["fingerprint", "open_dataset", "require_split"]


def open_dataset(root: str) -> Dataset:
    """List the shards of a MEDS data set, check their columns, and count its splits.

    Args:
        root: Folder (or URI) that holds data/ and metadata/subject_splits.parquet. Shards are
            the parquet files at any depth below data/; folder names mean nothing, except that
            what begins with . or _ is passed over.

    Raises:
        FileNotFoundError: There is no such folder, no data/, or no subject_splits.parquet.
        RefusedDataError: There are no shards or no rows, something below data/ seems to be a shard
            and cannot be read as one, a shard's columns are not those of MEDS or its subjects
            are not ascending, or the splits table is not sound.
    """
    files = find_shards(root)
    split_index = load_splits(root)[1]
    with ThreadPoolExecutor(num_connections(root)) as pool:
        shards = tuple(pool.map(lambda file: _open_shard(root, *file), files))
    if not any(shard.num_rows for shard in shards):
        raise RefusedDataError(
            f"data.root={root!r}: its {len(shards)} shards have no rows", "check the export"
        )
    counts = np.bincount(split_index, minlength=len(SPLITS)).tolist()
    return Dataset(root=root, shards=shards, num_subjects=dict(zip(SPLITS, counts, strict=True)))


def require_split(dataset: Dataset, split: str) -> None:
    """Refuse a data set without subjects in a split.

    Raises:
        RefusedDataError: No subject is in the split.
    """
    if not dataset.num_subjects.get(split):
        others = other_splits(dataset.root)
        remedy = "splits come from this table only"
        if others:
            remedy += f", and MEDS calls them {', '.join(SPLITS)}: rename {', '.join(others)}"
        raise RefusedDataError(
            f"puts no subject in split {split!r} (it has {dict(dataset.num_subjects) | others})",
            remedy,
            file=subject_splits_filepath,
        )


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Return what identifies a data set, to tell whether another is the same.

    Covers path below the root, size and rows of every shard, and the content of the splits
    table; not the root, so a copy elsewhere is the same data set.
    """
    hasher = hashlib.sha256()
    for shard in dataset.shards:
        hasher.update(f"{shard.path}\t{shard.size_bytes}\t{shard.num_rows}\n".encode())
    subject_S, split_S = load_splits(dataset.root)
    return {
        "num_shards": len(dataset.shards),
        "num_rows": sum(shard.num_rows for shard in dataset.shards),
        "num_subjects": dict(dataset.num_subjects),
        "shards_sha256": hasher.hexdigest(),
        "splits_sha256": hashlib.sha256(subject_S.tobytes() + split_S.tobytes()).hexdigest(),
    }


def _open_shard(root: str, path: str, size_bytes: int) -> Shard:
    with open_shard(root, path) as parquet:
        return Shard(
            path=path,
            num_rows=parquet.metadata.num_rows,
            size_bytes=size_bytes,
            row_groups=read_row_groups(parquet, path),
        )
