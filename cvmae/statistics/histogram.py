"""Histograms over the bits of float32 values: exactly mergeable, quantiles within 1%.

A bin is a sign, an exponent and the first 6 bits of the mantissa: 1/64 of a power of two wide,
for values of any magnitude. Bins do not depend on the data, so counts simply add.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Float32s, Floats, Ints

__all__ = ["Histogram", "bin_edges", "median_deviation", "quantile_bounds", "quantile_value"]


DROPPED_BITS = 17
NUM_BINS = 1 << (32 - DROPPED_BITS)
ZERO_BIN = NUM_BINS // 2  # bins of negative numbers lie below, in ascending order of value
BLOCK = 1 << 15  # values at a time, so that arrays stay in cache
DENSE_BINS = 16  # per value, up to which a table is faster than a sort

# Shape letters beside those of `cvmae.arrays`: B bins of one code that are not empty, ascending.


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of float32 values in bins 1/64 wide, sparse and exactly mergeable."""

    key: Ints  # code * NUM_BINS + bin, ascending
    count: Ints

    @classmethod
    def of(
        cls,
        code_index_N: npt.NDArray[np.integer],
        value_N: Float32s,
        minimum_C: npt.NDArray[np.floating],
        maximum_C: npt.NDArray[np.floating],
    ) -> Self:
        """Count finite values, given the extremes of each code (inf, -inf where it has none)."""
        # Codes span a few hundred to a few thousand bins: counting into a table of just those
        # takes a seventh of the time of sorting.
        first_C, last_C = _bin_of(minimum_C), _bin_of(maximum_C)
        width_C = np.maximum(last_C - first_C + 1, 0)
        end_C = np.cumsum(width_C)
        shift_C = end_C - width_C - first_C
        size = int(end_C[-1]) if len(end_C) else 0
        place_N = np.empty(len(value_N), np.int64)
        for first in range(0, len(value_N), BLOCK):
            rows = slice(first, first + BLOCK)
            np.add(_bin_of(value_N[rows]), shift_C[code_index_N[rows]], out=place_N[rows])
        if size <= DENSE_BINS * len(place_N):
            count_P = np.bincount(place_N, minlength=size)
            place = np.flatnonzero(count_P)
            count = count_P[place]
        else:
            place, count = np.unique(place_N, return_counts=True)
        code = np.searchsorted(end_C, place, side="right")
        return cls(key=code * NUM_BINS + place - shift_C[code], count=count)

    def merge(self, other: Self) -> Self:
        """Add another histogram."""
        # Keys ascend, and most are in both: a tenth of the time of sorting them together.
        place = np.searchsorted(self.key, other.key)
        new = np.ones(len(place), np.bool_)
        inside = place < len(self.key)
        new[inside] = self.key[place[inside]] != other.key[inside]
        count = self.count.copy()
        count[place[~new]] += other.count[~new]
        return replace(
            self,
            key=np.insert(self.key, place[new], other.key[new]),
            count=np.insert(count, place[new], other.count[new]),
        )

    def placed(self, place: Ints) -> Self:
        """Move each code to a new place."""
        key = place[self.key // NUM_BINS] * NUM_BINS + self.key % NUM_BINS
        if (place[1:] > place[:-1]).all():
            return replace(self, key=key)
        order = np.argsort(key, kind="stable")
        return replace(self, key=key[order], count=self.count[order])

    def of_code(self, code: int) -> tuple[Ints, Ints]:
        """Return the bins and counts of one code."""
        first, last = np.searchsorted(self.key, [code * NUM_BINS, (code + 1) * NUM_BINS])
        return self.key[first:last] % NUM_BINS, self.count[first:last]


def bin_edges(bin_B: Ints) -> tuple[Floats, Floats]:
    """Return the lower and the upper edge of bins; the bin of zero is the point 0.

    Example:
        >>> bin_edges(_bin_of(np.array([7.35, 0.0])))
        (array([7.3125, 0.    ]), array([7.375, 0.   ]))
    """
    magnitude_B = np.where(bin_B >= ZERO_BIN, bin_B - ZERO_BIN, ZERO_BIN - 1 - bin_B)
    inner_B, outer_B = (
        ((magnitude_B + step) << DROPPED_BITS).astype(np.int32).view(np.float32).astype(np.float64)
        for step in (0, 1)
    )
    # It would end at 2e-40: a code whose values are nearly all 0 must come out as constant.
    outer_B = np.where(bin_B == ZERO_BIN, 0.0, outer_B)
    positive_B = bin_B >= ZERO_BIN
    return np.where(positive_B, inner_B, -outer_B), np.where(positive_B, outer_B, -inner_B)


def quantile_bounds(bin_B: Ints, count_B: Ints, quantile: float) -> tuple[float, float]:
    """Return the edges of the bin of a quantile.

    The quantile is the smallest value that at least this share of the values does not exceed.
    """
    rank = max(1, int(np.ceil(quantile * count_B.sum())))
    place = min(int(np.searchsorted(np.cumsum(count_B), rank)), len(bin_B) - 1)
    low, high = bin_edges(bin_B[place : place + 1])
    return float(low[0]), float(high[0])


def quantile_value(bin_B: Ints, count_B: Ints, quantile: float) -> float:
    """Return a quantile as the middle of its bin: at most 1/128 off."""
    low, high = quantile_bounds(bin_B, count_B, quantile)
    return (low + high) / 2


def median_deviation(bin_B: Ints, count_B: Ints, center: float) -> float:
    """Return the median distance from a center, with values spread evenly in their bins."""
    low_B, high_B = bin_edges(bin_B)
    # A tightly regulated lab (pH) has few bins: 16 points a bin resolve its deviations.
    share = (np.arange(16) + 0.5) / 16
    distance = np.abs(low_B[:, None] + (high_B - low_B)[:, None] * share - center).ravel()
    weight = np.repeat(count_B / 16, 16)
    order = np.argsort(distance, kind="stable")
    return float(distance[order][np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)])


def _bin_of(value_N: npt.NDArray[np.floating]) -> npt.NDArray[np.int32]:
    """Return the bin of each value; ascending bins are ascending values."""
    # Adding 0 turns -0.0 into 0.0. The shift keeps the sign, so that negative values come out
    # as negative numbers, of which the low bits count their magnitude.
    bits_N = (value_N.astype(np.float32, copy=False) + np.float32(0)).view(np.int32)
    bin_N = bits_N >> DROPPED_BITS
    if bin_N.min(initial=0) < 0:
        bin_N = np.where(bin_N < 0, -1 - (bin_N & (ZERO_BIN - 1)), bin_N)
    return bin_N + ZERO_BIN
