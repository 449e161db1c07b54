"""Units -> measurements: rows of the vocabulary's codes, subject after subject."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from cvmae.arrays import Bools, Ints
from cvmae.meds.dataset import Source
from cvmae.meds.measurements import Measurements, RowCounts, join_blocks
from cvmae.meds.pieces import is_own, open_piece, own_subjects
from cvmae.meds.rows import (
    Block,
    Lookup,
    Rows,
    distinct_subjects,
    pick_measurements,
    pick_missing,
    read_rows,
    read_subjects,
)
from cvmae.meds.splits import is_among
from cvmae.meds.subjects import refuse_shared
from cvmae.meds.units import Piece, Unit
from cvmae.runtime.memory import keep_memory
from cvmae.storage.places import map_reads

__all__ = [
    "read_splits",
    "read_unit",
    "read_unit_and_missing",
    "read_unit_and_subjects",
    "read_units",
]

Pick = Callable[[Rows, Bools], Block]


def read_units(source: Source, units: Sequence[Unit], lookup: Lookup, split: str) -> Measurements:
    """Read the measurements of several units, one after another; see `read_splits`."""
    read = map_reads(source.root, partial(_read_blocks, source, lookup, (split,)), units)
    return join_blocks([block for _, (blocks,) in read for block in blocks])[0]


def read_unit(
    source: Source, unit: Unit, lookup: Lookup, split: str
) -> tuple[Measurements, RowCounts]:
    """Read the measurements of a unit that belong to a split; see `read_splits`."""
    return read_splits(source, unit, lookup, (split,))[split]


def read_splits(
    source: Source, unit: Unit, lookup: Lookup, splits: Sequence[str]
) -> dict[str, tuple[Measurements, RowCounts]]:
    """Read the measurements of a unit, for each of the given splits apart.

    Code strings are never built: `lookup` sees each row group's dictionary once. Where none of
    a row group's subjects is in the splits, only its subject_id column is read.

    Args:
        source: Where the files are, and who is in which split.
        unit: What to read.
        lookup: Maps MEDS codes to a code_index, or -1 for codes that are not wanted.
        splits: Some of `SPLITS`; subjects without a split belong to none.

    Raises:
        ValueError: A file cannot be read, or its rows are not in MEDS order.
    """
    blocks = _read_blocks(source, lookup, splits, unit)[1] if splits else []
    return {split: join_blocks(own) for split, own in zip(splits, blocks, strict=True)}


def read_unit_and_subjects(
    source: Source, unit: Unit, lookup: Lookup, split: str
) -> tuple[Measurements, RowCounts, Ints]:
    """Read what `read_unit` does, and what `scan_subjects` does of all splits, in one go."""
    subject_S, (blocks,) = _read_blocks(source, lookup, (split,), unit)
    return *join_blocks(blocks), subject_S


def read_unit_and_missing(
    source: Source, unit: Unit, lookup: Lookup, split: str
) -> tuple[Measurements, tuple[Measurements, RowCounts], Ints]:
    """Read what `read_unit_and_subjects` does, and in the same go the rows without a value.

    These are rows of wanted codes with a time; they come as measurements whose value is 0.
    """
    picks = (pick_measurements, pick_missing)
    subject_S, (blocks, missing) = _read_blocks(source, lookup, (split, split), unit, picks)
    return join_blocks(blocks)[0], join_blocks(missing), subject_S


def _read_blocks(
    source: Source,
    lookup: Lookup,
    splits: Sequence[str],
    unit: Unit,
    picks: Sequence[Pick] = (),
) -> tuple[Ints, list[list[Block]]]:
    """Return the subjects of each file, and what is picked of each split from the row groups.

    Without `picks` these are measurements.
    """
    keep_memory()
    members = [source.members[split] for split in splits]
    picks = picks or [pick_measurements] * len(splits)
    read_piece = partial(_read_piece, source.root, members, picks, lookup)
    read = map_reads(source.root, read_piece, unit.pieces)
    refuse_shared(unit, [member_S for _, member_S, _ in read])
    row_groups = [blocks for *_, piece in read for blocks in piece]
    blocks = [[blocks[place] for blocks in row_groups] for place in range(len(splits))]
    return np.concatenate([subject_S for subject_S, *_ in read]), blocks


def _read_piece(
    root: str, members: Sequence[Ints], picks: Sequence[Pick], lookup: Lookup, piece: Piece
) -> tuple[Ints, Ints, list[list[Block]]]:
    """Return the distinct subjects, those among the members, and each row group's blocks."""
    subjects: list[Ints] = []
    distinct: list[Ints] = []
    blocks: list[list[Block]] = []
    with open_piece(root, piece) as (parquet, row_groups, order):
        for index, last in row_groups:
            subject_N, starts_S = read_subjects(parquet, index, order, last)
            subjects.append(subject_N[starts_S])
            chosen = [
                is_among(member_S, subjects[-1]) & is_own(piece, subjects[-1])
                for member_S in members
            ]
            distinct.append(subjects[-1][np.any(chosen, axis=0)])
            if not len(distinct[-1]):
                order.skip_times()
                continue
            rows = read_rows(parquet, index, order, lookup, subject_N, starts_S)
            blocks.append([pick(rows, own_S) for pick, own_S in zip(picks, chosen, strict=True)])
    return own_subjects(piece, subjects), distinct_subjects(distinct), blocks
