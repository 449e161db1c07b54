"""Units -> measurements: rows of the vocabulary's codes, subject after subject."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cvmae.meds.files import ends_with, open_shard
from cvmae.meds.refused import RefusedDataError
from cvmae.meds.row_order import RowOrder, run_starts
from cvmae.meds.rows import (
    NO_BLOCK,
    Block,
    Lookup,
    distinct_subjects,
    find_shared,
    pick_measurements,
    read_rows,
    read_subjects,
)
from cvmae.meds.splits import split_members
from cvmae.meds.units import Piece, Unit
from cvmae.runtime.memory import keep_memory
from cvmae.storage.places import map_reads

__all__ = [
    "Measurements",
    "RowCounts",
    "read_splits",
    "read_unit",
    "read_unit_and_subjects",
    "read_units",
    "refuse_shared_subjects",
    "scan_subjects",
]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Measurements of one unit and split, subject after subject, in file order.

    A measurement is a row with a time, a code of the vocabulary and a finite value.
    Letters: S subjects (with one measurement or more), N measurements.
    """

    subject_id_S: Ints
    offsets_S: Ints  # S + 1 entries: subject s owns [offsets[s], offsets[s + 1])
    code_index_N: npt.NDArray[np.signedinteger]  # 2 bytes where they are enough, else 4
    time_us_N: Ints  # microseconds since 1970
    numeric_value_N: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """What became of the rows that were read; a row is counted for its first reason only."""

    num_rows: int  # rows of the split's subjects
    num_matching: int  # rows whose code the lookup wants; of these:
    num_null_value: int
    num_null_time: int
    num_non_finite: int
    num_measurements: int  # the rest


def scan_subjects(root: str, unit: Unit) -> Ints:
    """Return the distinct subjects of each file of a unit, in file order.

    A subject comes twice where two files hold rows of it: `refuse_shared_subjects` looks for
    that, over all units.

    Raises:
        ValueError: A file cannot be read or is not in order.
    """
    return np.concatenate(map_reads(root, partial(_scan_piece, root), unit.pieces))


def refuse_shared_subjects(root: str, units: Sequence[Unit], subjects: Sequence[Ints]) -> None:
    """Refuse a subject that has rows in two files.

    Args:
        root: Folder of the data set.
        units: All units.
        subjects: What `scan_subjects` returned for each of them.

    Raises:
        ValueError: There is one; the message names the two files.
    """
    shared = find_shared(subjects)
    if shared is None:
        return
    subject, *places = shared
    paths = [
        piece.path
        for place in places
        for piece in units[place].pieces
        if piece.first_subject <= subject <= piece.last_subject
        and subject in scan_subjects(root, Unit(pieces=(piece,), num_rows=0))
    ]
    raise _two_files(paths[0], paths[1])


def read_units(root: str, units: Sequence[Unit], lookup: Lookup, split: str) -> Measurements:
    """Read the measurements of several units, one after another; see `read_splits`."""
    read = map_reads(root, partial(_read_blocks, root, lookup, (split,)), units)
    return _join([block for _, (blocks,) in read for block in blocks])[0]


def read_unit(root: str, unit: Unit, lookup: Lookup, split: str) -> tuple[Measurements, RowCounts]:
    """Read the measurements of a unit that belong to a split; see `read_splits`."""
    return read_splits(root, unit, lookup, (split,))[split]


def read_splits(
    root: str, unit: Unit, lookup: Lookup, splits: Sequence[str]
) -> dict[str, tuple[Measurements, RowCounts]]:
    """Read the measurements of a unit, for each of the given splits apart.

    Code strings are never built: `lookup` sees each row group's dictionary once. Where none of
    a row group's subjects is in the splits, only its subject_id column is read.

    Args:
        root: Folder of the data set.
        unit: What to read.
        lookup: Maps MEDS codes to a code_index, or -1 for codes that are not wanted.
        splits: Some of `SPLITS`; subjects without a split belong to none.

    Raises:
        ValueError: A file cannot be read, or its rows are not in MEDS order.
    """
    blocks = _read_blocks(root, lookup, splits, unit)[1] if splits else []
    return {split: _join(own) for split, own in zip(splits, blocks, strict=True)}


def read_unit_and_subjects(
    root: str, unit: Unit, lookup: Lookup, split: str
) -> tuple[Measurements, RowCounts, Ints]:
    """Read what `read_unit` does, and what `scan_subjects` does of all splits, in one go."""
    subject_S, (blocks,) = _read_blocks(root, lookup, (split,), unit)
    return *_join(blocks), subject_S


def _read_blocks(
    root: str, lookup: Lookup, splits: Sequence[str], unit: Unit
) -> tuple[Ints, list[list[Block]]]:
    """Return the subjects of each file, and the row groups' measurements of each split."""
    keep_memory()
    members = [split_members(root, split) for split in splits]
    read = map_reads(root, partial(_read_piece, root, members, lookup), unit.pieces)
    _refuse_shared(unit, [member_S for _, member_S, _ in read])
    row_groups = [blocks for *_, piece in read for blocks in piece]
    blocks = [[blocks[place] for blocks in row_groups] for place in range(len(splits))]
    return np.concatenate([subject_S for subject_S, *_ in read]), blocks


def _scan_piece(root: str, piece: Piece) -> Ints:
    with _open_piece(root, piece) as (parquet, row_groups, order):
        read = [read_subjects(parquet, index, order, last) for index, last in row_groups]
    return _own_subjects(piece, [subject_N[starts_S] for subject_N, starts_S in read])


def _read_piece(
    root: str, members: Sequence[Ints], lookup: Lookup, piece: Piece
) -> tuple[Ints, Ints, list[list[Block]]]:
    """Return the distinct subjects, those among the members, and each row group's blocks."""
    subjects: list[Ints] = []
    distinct: list[Ints] = []
    blocks: list[list[Block]] = []
    with _open_piece(root, piece) as (parquet, row_groups, order):
        for index, last in row_groups:
            subject_N, starts_S = read_subjects(parquet, index, order, last)
            subjects.append(subject_N[starts_S])
            chosen = [_among(piece, member_S, subjects[-1]) for member_S in members]
            distinct.append(subjects[-1][np.any(chosen, axis=0)])
            if not len(distinct[-1]):
                order.skip_times()
                continue
            rows = read_rows(parquet, index, order, lookup, subject_N, starts_S)
            blocks.append([pick_measurements(rows, chosen_S) for chosen_S in chosen])
    return _own_subjects(piece, subjects), distinct_subjects(distinct), blocks


@contextmanager
def _open_piece(
    root: str, piece: Piece
) -> Iterator[tuple[Any, list[tuple[int, int | None]], RowOrder]]:
    """Open a piece's file; yield it, its row groups that have rows, and the check of its order.

    With the last row group stands the piece's last subject if other subjects may follow there:
    they belong to the next unit, and need not be decoded here.
    """
    with open_shard(root, piece.path) as parquet:
        metadata = parquet.metadata
        if piece.last_row_group >= metadata.num_row_groups:
            raise RefusedDataError(
                f"has changed since the data set was listed: it has {metadata.num_row_groups} row "
                f"groups, {piece.last_row_group + 1} or more are expected",
                "start anew",
                file=piece.path,
            )
        num_rows = [metadata.row_group(i).num_rows for i in range(piece.last_row_group + 1)]
        wanted: list[tuple[int, int | None]] = [
            (i, None) for i in range(piece.first_row_group, len(num_rows)) if num_rows[i]
        ]
        if wanted and not ends_with(metadata, wanted[-1][0], piece.last_subject):
            wanted[-1] = (wanted[-1][0], piece.last_subject)
        yield parquet, wanted, RowOrder(piece.path, sum(num_rows[: piece.first_row_group]))


def _own_subjects(piece: Piece, subjects: Sequence[Ints]) -> Ints:
    """Join the subjects of a piece's row groups, less those that belong to other units."""
    subject_S = distinct_subjects(subjects)
    return subject_S[_within(piece, subject_S)]


def _within(piece: Piece, subject_S: Ints) -> Bools:
    return (subject_S >= piece.first_subject) & (subject_S <= piece.last_subject)


def _among(piece: Piece, members: Ints, subject_S: Ints) -> Bools:
    """Return which subjects are the piece's own and members of the split."""
    if not len(members):
        return np.zeros(len(subject_S), np.bool_)
    place_S = np.searchsorted(members, subject_S).clip(max=len(members) - 1)
    member_S: Bools = members[place_S] == subject_S
    return member_S & _within(piece, subject_S)


def _refuse_shared(unit: Unit, subjects: Sequence[Ints]) -> None:
    """Refuse a subject in two files of one unit."""
    shared = find_shared(subjects) if len(unit.pieces) > 1 else None
    if shared is not None:
        _, one, other = shared
        raise _two_files(unit.pieces[one].path, unit.pieces[other].path)


def _two_files(one: str, other: str) -> RefusedDataError:
    return RefusedDataError(
        f"a subject has rows in two files, {one} and {other}",
        "MEDS needs all rows of a subject in one file: write the data set again",
    )


def _join(blocks: Sequence[Block]) -> tuple[Measurements, RowCounts]:
    blocks = [block for block in blocks if block.num_rows] or [NO_BLOCK]
    subject_S = np.concatenate([block.subject_id_S for block in blocks])
    count_S = np.concatenate([block.count_S for block in blocks])
    begins_S = run_starts(subject_S)  # a subject may run over several row groups
    total_S = np.add.reduceat(count_S, begins_S) if len(begins_S) else count_S
    has_some_S = total_S > 0
    offsets_S = np.concatenate([np.zeros(1, np.int64), np.cumsum(total_S[has_some_S])])
    measurements = Measurements(
        subject_id_S=subject_S[begins_S][has_some_S],
        offsets_S=offsets_S,
        code_index_N=_concatenate([block.code_index_M for block in blocks]),
        time_us_N=_concatenate([block.time_us_M for block in blocks]),
        numeric_value_N=_concatenate([block.numeric_value_M for block in blocks]),
    )
    return measurements, RowCounts(
        num_rows=sum(block.num_rows for block in blocks),
        num_matching=sum(block.num_matching for block in blocks),
        num_null_value=sum(block.num_null_value for block in blocks),
        num_null_time=sum(block.num_null_time for block in blocks),
        num_non_finite=sum(block.num_non_finite for block in blocks),
        num_measurements=len(measurements.code_index_N),
    )


def _concatenate(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    full = [array for array in arrays if len(array)]
    return full[0] if len(full) == 1 else np.concatenate(full or arrays)
