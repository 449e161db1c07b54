"""A piece of a shard, opened: its row groups, the check of its order, and its own subjects."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cvmae.arrays import Bools, Ints
from cvmae.meds.files import ends_with, open_shard
from cvmae.meds.row_order import RowOrder
from cvmae.meds.rows import distinct_subjects
from cvmae.meds.units import Piece

__all__ = ["is_own", "open_piece", "own_subjects"]


@contextmanager
def open_piece(
    root: str, piece: Piece
) -> Iterator[tuple[Any, list[tuple[int, int | None]], RowOrder]]:
    """Open a piece's file; yield it, its row groups that have rows, and the check of its order.

    With the last row group stands the piece's last subject if other subjects may follow there:
    they belong to the next unit, and need not be decoded here.
    """
    with open_shard(root, piece.path) as parquet:
        metadata = parquet.metadata
        if piece.last_row_group >= metadata.num_row_groups:
            raise ValueError(
                f"{piece.path} has changed since the data set was listed: it has "
                f"{metadata.num_row_groups} row groups, {piece.last_row_group + 1} or more are "
                "expected; start anew"
            )
        num_rows = [metadata.row_group(i).num_rows for i in range(piece.last_row_group + 1)]
        wanted: list[tuple[int, int | None]] = [
            (i, None) for i in range(piece.first_row_group, len(num_rows)) if num_rows[i]
        ]
        if wanted and not ends_with(metadata, wanted[-1][0], piece.last_subject):
            wanted[-1] = (wanted[-1][0], piece.last_subject)
        yield parquet, wanted, RowOrder(piece.path, sum(num_rows[: piece.first_row_group]))


def own_subjects(piece: Piece, subjects: Sequence[Ints]) -> Ints:
    """Join the subjects of a piece's row groups, less those that belong to other units."""
    subject_S = distinct_subjects(subjects)
    return subject_S[is_own(piece, subject_S)]


def is_own(piece: Piece, subject_S: Ints) -> Bools:
    """Return which subjects belong to the piece; others of its row groups are other units'."""
    return (subject_S >= piece.first_subject) & (subject_S <= piece.last_subject)
