"""The subjects of each file, and that none has rows in two."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from cvmae.arrays import Ints
from cvmae.meds.pieces import open_piece, own_subjects
from cvmae.meds.rows import find_shared, read_subjects
from cvmae.meds.units import Piece, Unit
from cvmae.storage.places import map_reads

__all__ = ["refuse_shared", "refuse_shared_subjects", "scan_subjects"]


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


def refuse_shared(unit: Unit, subjects: Sequence[Ints]) -> None:
    """Refuse a subject in two files of one unit."""
    shared = find_shared(subjects) if len(unit.pieces) > 1 else None
    if shared is not None:
        _, one, other = shared
        raise _two_files(unit.pieces[one].path, unit.pieces[other].path)


def _two_files(one: str, other: str) -> ValueError:
    return ValueError(
        f"a subject has rows in two files, {one} and {other}; MEDS needs all rows of a subject "
        "in one file: write the data set again"
    )


def _scan_piece(root: str, piece: Piece) -> Ints:
    with open_piece(root, piece) as (parquet, row_groups, order):
        read = [read_subjects(parquet, index, order, last) for index, last in row_groups]
    return own_subjects(piece, [subject_N[starts_S] for subject_N, starts_S in read])
