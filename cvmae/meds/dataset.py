"""A MEDS data set, opened once: its shards, its splits, and what tells it from another."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from meds.schema import subject_splits_filepath

from cvmae.arrays import Ints
from cvmae.config import resolved_path
from cvmae.meds.files import RowGroup, open_shard, read_row_groups
from cvmae.meds.listing import Listing, list_shards
from cvmae.meds.refused import RefusedDataError
from cvmae.meds.rows import VALUE
from cvmae.meds.splits import SPLITS, load_splits, other_splits
from cvmae.runtime.tables import counted
from cvmae.storage.places import num_connections

__all__ = ["Dataset", "Shard", "Source", "open_dataset", "require_splits"]

# What is wrong, and the file that it is about if the error does not say so; empty: all.
Refuse = Callable[[Exception, str], None]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One parquet file."""

    path: str
    num_rows: int
    size_bytes: int
    has_values: bool  # or at least a column for them
    row_groups: tuple[RowGroup, ...] = ()  # those that have rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Where a data set's files are, and who is in which split: all that reading a unit takes.

    Arrays and a string, so that it travels with tasks whatever the number of shards.
    """

    root: str
    members: Mapping[str, Ints] = field(repr=False)  # split -> its subjects, ascending

    @property
    def num_subjects(self) -> dict[str, int]:
        """Return the subjects of each split, as the table of splits has them."""
        return {split: len(member_S) for split, member_S in self.members.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(Source):
    """A MEDS data set as its footers and its table of splits describe it."""

    shards: tuple[Shard, ...]
    listing: Listing = field(default_factory=Listing)

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


def _raise(error: Exception, file: str) -> None:
    raise error


def open_dataset(root: str, needed: Sequence[str] = (), refuse: Refuse = _raise) -> Dataset:
    """List the shards of a MEDS data set, check their columns, and read its table of splits.

    Args:
        root: Folder (or URI) that holds data/ and metadata/subject_splits.parquet. Shards are
            the parquet files at any depth below data/; folder names mean nothing, except that
            what begins with . or _ is passed over.
        needed: Splits that must have a subject.
        refuse: Called with whatever is not sound; if it returns, the rest is opened.

    Raises:
        FileNotFoundError: There is no such folder, no data/, or no subject_splits.parquet.
        RefusedDataError: There are no shards, no rows or no column of values, something below data/
            seems to be a shard and cannot be read as one, a shard's columns are not those of MEDS
            or its subjects are not ascending, or the splits table is not sound.
    """
    if not root:
        raise ValueError("data.root is empty: say --data.root FOLDER of a MEDS data set")
    root = resolved_path(root)  # tasks on Ray run in another folder
    listing, members = Listing(), dict[str, Ints]()
    with _refusing(refuse):
        listing = list_shards(root)
    for error in listing.refused:
        refuse(error, error.file)
    if listing.shards:
        with _refusing(refuse, subject_splits_filepath):
            members = load_splits(root)
    with ThreadPoolExecutor(num_connections(root)) as pool:
        opened = list(pool.map(partial(_open_shard, root, refuse), listing.shards))
    shards = tuple(shard for shard in opened if shard)
    if opened and not any(shard is None or shard.num_rows for shard in opened):
        what = f"data.root={root!r} has no rows in its {counted(len(shards), 'shard')}"
        refuse(RefusedDataError(what, "check the export"), "")
    elif shards and None not in opened and not any(shard.has_values for shard in shards):
        refuse(_no_values(root, len(shards)), "")
    dataset = Dataset(root=root, members=members, shards=shards, listing=listing)
    for split in needed if members else ():
        with _refusing(refuse, subject_splits_filepath):
            require_splits(dataset, [split])
    return dataset


def _no_values(root: str, num_shards: int) -> RefusedDataError:
    return RefusedDataError(
        f"data.root={root!r} has no column {VALUE!r} in its {counted(num_shards, 'shard')}",
        "MEDS allows that, and no row has a value then, whatever its code: write what was measured "
        "into this column, as float32",
    )


@contextmanager
def _refusing(refuse: Refuse, file: str = "") -> Iterator[None]:
    """Hand what is wrong with a file, or with the data set, to a function."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        refuse(error, file)


def require_splits(dataset: Dataset, needed: Sequence[str]) -> None:
    """Refuse a data set without subjects in one of the splits.

    Raises:
        RefusedDataError: No subject is in the split.
    """
    for split in needed:
        if not dataset.num_subjects.get(split):
            others = other_splits(dataset.root)
            remedy = "splits come from this table only"
            if others:
                remedy += f", and MEDS calls them {', '.join(SPLITS)}: rename {', '.join(others)}"
            raise RefusedDataError(
                f"puts no subject in split {split!r} (it has {dataset.num_subjects | others})",
                remedy,
                file=subject_splits_filepath,
            )


def _hash_splits(members: Mapping[str, Ints]) -> str:
    """Return a hash of the table: subjects ascending, then the place in `SPLITS` of each."""
    subject_S = np.concatenate([members[split] for split in SPLITS])
    split_S = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), [len(members[s]) for s in SPLITS])
    order_S = np.argsort(subject_S)
    return hashlib.sha256(subject_S[order_S].tobytes() + split_S[order_S].tobytes()).hexdigest()


def _open_shard(root: str, refuse: Refuse, file: tuple[str, int]) -> Shard | None:
    path, size_bytes = file
    try:
        with open_shard(root, path) as parquet:
            return Shard(
                path=path,
                num_rows=parquet.metadata.num_rows,
                size_bytes=size_bytes,
                has_values=VALUE in parquet.schema_arrow.names,
                row_groups=read_row_groups(parquet, path),
            )
    except ValueError as error:
        refuse(error, path)  # in here, since what is raised in a thread ends the others' work
        return None
