"""How many sequences a subject's measurements give, and what a unit holds of a split."""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from cvmae.arrays import Ints
from cvmae.meds.measurements import Measurements, RowCounts, add_counts

__all__ = ["SplitCounts", "count_sequences", "split_counts"]


def count_sequences(lengths_S: Ints, sequence_length: int, *, crop: bool = False) -> Ints:
    """Return the number of sequences that a subject of each length gives, 0 below length 2.

    Example:
        >>> count_sequences(np.array([1, 2, 512, 513]), 512)
        array([0, 1, 1, 2])
    """
    windows_S = np.ones_like(lengths_S) if crop else -(-lengths_S // sequence_length)
    return np.where(lengths_S < 2, 0, windows_S)


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """What a unit, or several, hold of one split."""

    num_subjects: int  # with a measurement
    num_single: int  # subjects with only one: not trained on
    num_sequences: int
    num_measurements: int  # in sequences
    rows: RowCounts

    def merge(self, other: Self) -> Self:
        """Add the counts of other units."""
        sums = {
            f.name: getattr(self, f.name) + getattr(other, f.name)
            for f in fields(self)
            if f.name != "rows"
        }
        return replace(self, **sums, rows=add_counts(self.rows, other.rows))


def split_counts(
    measurements: Measurements, rows: RowCounts, sequence_length: int, *, crop: bool = False
) -> SplitCounts:
    """Count a unit's subjects, sequences and the measurements in them."""
    lengths_S = np.diff(measurements.offsets_S)
    used_S = np.where(lengths_S < 2, 0, lengths_S)
    if crop:
        used_S = np.minimum(used_S, sequence_length)
    return SplitCounts(
        num_subjects=len(lengths_S),
        num_single=int(np.count_nonzero(lengths_S == 1)),
        num_sequences=int(count_sequences(lengths_S, sequence_length, crop=crop).sum()),
        num_measurements=int(used_S.sum()),
        rows=rows,
    )
