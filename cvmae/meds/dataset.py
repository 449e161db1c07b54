"""A MEDS data set, opened once: its shards, its splits, and what tells it from another."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from meds.schema import data_subdirectory, subject_splits_filepath

from cvmae.arrays import Ints
from cvmae.config import resolved_path
from cvmae.meds.files import RowGroup, is_shard, open_shard, read_row_groups
from cvmae.meds.splits import SPLITS, load_splits
from cvmae.storage.places import list_files, num_connections

__all__ = ["Dataset", "Shard", "Source", "open_dataset", "require_splits"]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One parquet file."""

    path: str
    num_rows: int
    size_bytes: int
    row_groups: tuple[RowGroup, ...] = ()  # those that have rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Where a data set's files are, and who is in which split: all that reading a unit takes.

    Arrays and a string, so that it travels with tasks whatever the number of shards.
    """

    root: str
    members: Mapping[str, Ints]  # split -> its subjects, ascending

    @property
    def num_subjects(self) -> dict[str, int]:
        """Return the subjects of each split, as the table of splits has them."""
        return {split: len(member_S) for split, member_S in self.members.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(Source):
    """A MEDS data set as its footers and its table of splits describe it."""

    shards: tuple[Shard, ...]

    @property
    def source(self) -> Source:
        """Return what tasks need of it."""
        return Source(root=self.root, members=self.members)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies a data set, to tell whether another is the same.

        Covers path below the root, size and rows of every shard, and the content of the splits
        table; not the root, so a copy elsewhere is the same data set.
        """
        hasher = hashlib.sha256()
        for shard in self.shards:
            hasher.update(f"{shard.path}\t{shard.size_bytes}\t{shard.num_rows}\n".encode())
        return {
            "num_shards": len(self.shards),
            "num_rows": sum(shard.num_rows for shard in self.shards),
            "num_subjects": self.num_subjects,
            "shards_sha256": hasher.hexdigest(),
            "splits_sha256": _hash_splits(self.members),
        }


def open_dataset(root: str, needed: Sequence[str] = ()) -> Dataset:
    """List the shards of a MEDS data set, check their columns, and read its table of splits.

    Args:
        root: Folder (or URI) that holds data/ and metadata/subject_splits.parquet. Shards are
            the parquet files at any depth below data/; folder names mean nothing.
        needed: Splits that must have a subject.

    Raises:
        FileNotFoundError: There is no such folder, no data/, or no subject_splits.parquet.
        ValueError: There are no shards or no rows, a shard is not parquet, its columns are not
            those of MEDS or its subjects are not ascending, or the splits table is not sound.
    """
    if not root:
        raise ValueError("data.root is empty: say --data.root FOLDER of a MEDS data set")
    root = resolved_path(root)  # tasks on Ray run in another folder
    found = list_files(root, data_subdirectory)
    members = load_splits(root)
    files = [(path, size) for path, size in found if is_shard(path)]
    if not files:
        raise ValueError(f"data.root={root!r} has no .parquet file below {data_subdirectory}/")
    with ThreadPoolExecutor(num_connections(root)) as pool:
        shards = tuple(pool.map(lambda file: _open_shard(root, *file), files))
    if not any(shard.num_rows for shard in shards):
        raise ValueError(f"data.root={root!r}: its {len(shards)} shards have no rows")
    dataset = Dataset(root=root, members=members, shards=shards)
    require_splits(dataset, needed)
    return dataset


def require_splits(dataset: Dataset, needed: Sequence[str]) -> None:
    """Refuse a data set without subjects in one of the splits.

    Raises:
        ValueError: No subject is in the split.
    """
    for split in needed:
        if not dataset.num_subjects.get(split):
            raise ValueError(
                f"data.root={dataset.root!r}: {subject_splits_filepath} puts no subject in split "
                f"{split!r} (it has {dataset.num_subjects}); splits come from this table only"
            )


def _hash_splits(members: Mapping[str, Ints]) -> str:
    """Return a hash of the table: subjects ascending, then the place in `SPLITS` of each."""
    subject_S = np.concatenate([members[split] for split in SPLITS])
    split_S = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), [len(members[s]) for s in SPLITS])
    order_S = np.argsort(subject_S)
    return hashlib.sha256(subject_S[order_S].tobytes() + split_S[order_S].tobytes()).hexdigest()


def _open_shard(root: str, path: str, size_bytes: int) -> Shard:
    with open_shard(root, path) as parquet:
        return Shard(
            path=path,
            num_rows=parquet.metadata.num_rows,
            size_bytes=size_bytes,
            row_groups=read_row_groups(parquet, path),
        )
