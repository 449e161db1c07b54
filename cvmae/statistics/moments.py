"""Count, mean and deviations of each code, mergeable in any order.

Partial results merge exactly in counts, and to the last unit in moments (Chan's formula in extended
precision); in unit order they give the same bits every time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Float32s, Floats, Ints

__all__ = ["Moments", "placed", "subject_blocks", "summarise"]

Extended = npt.NDArray[np.longdouble]  # 80 bits on x86: sums of thousands of parts stay exact

# Sizes of what is summed at a time: arrays that leave the cache take three times as long.
BLOCK_PAIRS = 1 << 17  # of subject and code
BLOCK_MEASUREMENTS = 1 << 15

# Shape letters beside those of `cvmae.arrays`: P subject-code pairs.


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, mean and sum of squared deviations of each code, overall and within subjects."""

    num_values: Ints
    num_subjects: Ints
    mean: Extended  # 0 where there is no value
    squares: Extended
    within_squares: Extended  # deviations from each subject's own mean

    @property
    def std(self) -> Floats:
        """Standard deviation with ddof 0; 0 where there is no value."""
        variance = self.squares / np.maximum(self.num_values, 1)
        return np.sqrt(variance.astype(np.float64))

    @property
    def within_subject_std(self) -> Floats:
        """Root of the pooled variance within subjects; NaN where none has two values."""
        freedom = self.num_values - self.num_subjects
        variance = (self.within_squares / np.maximum(freedom, 1)).astype(np.float64)
        return np.sqrt(np.where(freedom > 0, variance, np.nan))

    def merge(self, other: Self) -> Self:
        """Add another part by Chan's formula; subjects of the parts are different ones."""
        total = self.num_values + other.num_values
        share = other.num_values / np.maximum(total, 1).astype(np.longdouble)
        difference = other.mean - self.mean
        return replace(
            self,
            num_values=total,
            num_subjects=self.num_subjects + other.num_subjects,
            mean=self.mean + difference * share,
            squares=self.squares + other.squares + difference**2 * self.num_values * share,
            within_squares=self.within_squares + other.within_squares,
        )

    def placed(self, place: Ints, num_codes: int) -> Self:
        """Move each code to a new place among `num_codes`, the rest being empty."""
        moved: dict[str, Any] = {
            f.name: placed(getattr(self, f.name), place, num_codes) for f in fields(self)
        }
        return replace(self, **moved)


def summarise(
    offsets_S: Ints,
    code_index_N: npt.NDArray[np.integer],
    numeric_value_N: Float32s,
    num_codes: int,
    clip: tuple[Floats, Floats] | None = None,
) -> Moments:
    """Take the moments of each code, clipped to bounds per code where they are given."""
    total = Moments(
        num_values=np.zeros(num_codes, np.int64),
        num_subjects=np.zeros(num_codes, np.int64),
        mean=np.zeros(num_codes, np.longdouble),
        squares=np.zeros(num_codes, np.longdouble),
        within_squares=np.zeros(num_codes, np.longdouble),
    )
    for bounds in subject_blocks(offsets_S, num_codes):
        rows = slice(int(bounds[0]), int(bounds[-1]))
        code_index, value = code_index_N[rows], numeric_value_N[rows]
        if clip is not None:
            value = np.maximum(value, clip[0].astype(np.float32)[code_index])
            np.minimum(value, clip[1].astype(np.float32)[code_index], out=value)
        total = total.merge(
            _block_moments(np.diff(bounds), code_index, value.astype(np.float64), num_codes)
        )
    return total


def subject_blocks(offsets_S: Ints, num_codes: int) -> Iterator[Ints]:
    """Yield the offsets of some subjects at a time, so that their arrays stay in cache."""
    num_subjects = len(offsets_S) - 1
    by_pairs = BLOCK_PAIRS // max(num_codes, 1)
    by_rows = BLOCK_MEASUREMENTS * num_subjects // max(int(offsets_S[-1]), 1)
    step = max(1, min(by_pairs, by_rows))
    for first in range(0, num_subjects, step):
        yield offsets_S[first : first + step + 1]


def _block_moments(
    lengths_S: Ints, code_index_N: npt.NDArray[np.integer], value_N: Floats, num_codes: int
) -> Moments:
    shape = (len(lengths_S), num_codes)
    size = len(lengths_S) * num_codes
    pair_N = np.repeat(np.arange(len(lengths_S)) * num_codes, lengths_S) + code_index_N
    num_P = np.bincount(pair_N, minlength=size)
    mean_P = np.bincount(pair_N, value_N, minlength=size) / np.maximum(num_P, 1)
    deviation_N = value_N - mean_P[pair_N]
    squares_P = np.bincount(pair_N, deviation_N * deviation_N, minlength=size)
    # The codes' own moments follow from those of their subjects (Chan, all pairs at once).
    num_values = num_P.reshape(shape).sum(axis=0)
    mean = (num_P * mean_P).reshape(shape).sum(axis=0) / np.maximum(num_values, 1)
    between_P = num_P.reshape(shape) * (mean_P.reshape(shape) - mean) ** 2
    within_squares = squares_P.reshape(shape).sum(axis=0)
    return Moments(
        num_values=num_values,
        num_subjects=np.count_nonzero(num_P.reshape(shape), axis=0),
        mean=mean.astype(np.longdouble),
        squares=(within_squares + between_P.sum(axis=0)).astype(np.longdouble),
        within_squares=within_squares.astype(np.longdouble),
    )


def placed(array: npt.NDArray[Any], place: Ints, size: int, empty: float = 0) -> npt.NDArray[Any]:
    """Move each entry to a new place among `size`, the rest being empty."""
    moved = np.full(size, empty, array.dtype)
    moved[place] = array
    return moved
