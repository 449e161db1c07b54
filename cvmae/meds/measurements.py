"""Measurements as units give them: rows of the vocabulary's codes, subject after subject."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Float32s, Ints
from cvmae.meds.row_order import run_starts
from cvmae.meds.rows import NO_BLOCK, Block

__all__ = ["Measurements", "RowCounts", "add_counts", "join_blocks"]


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
    numeric_value_N: Float32s


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """What became of the rows that were read; a row is counted for its first reason only."""

    num_rows: int  # rows of the split's subjects
    num_matching: int  # rows whose code the lookup wants; of these:
    num_null_value: int
    num_null_time: int
    num_non_finite: int
    num_measurements: int  # the rest


def add_counts(a: RowCounts, b: RowCounts) -> RowCounts:
    """Add the row counts of two parts."""
    return RowCounts(**{f.name: getattr(a, f.name) + getattr(b, f.name) for f in fields(a)})


def join_blocks(blocks: Sequence[Block]) -> tuple[Measurements, RowCounts]:
    """Put what row groups gave one after another, and count what became of their rows."""
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
