"""How evenly a code's standardised values spread, from counts that merge exactly.

What a value's z-score is, is known only when the last unit is read. So a pass counts clipped
values in fine cells, equally wide between a code's bounds, and bins of z are made of cells then.
"""

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Float32s, Floats
from cvmae.statistics.histogram import NUM_BINS, Histogram

__all__ = ["count_cells", "entropy_bits"]

CELLS = 4096  # of a code: twenty or more a bin, where bounds lie within 30 standard deviations
BINS, FURTHEST = 64, 5.0  # of z, equally wide from -5 to 5; values beyond count in the outer ones
BLOCK = 1 << 14  # values at a time, so that arrays stay in cache
DENSE_CELLS = 16  # per value, up to which a table is faster than a sort


def count_cells(
    code_index_N: npt.NDArray[np.integer], value_N: Float32s, low_C: Floats, high_C: Floats
) -> Histogram:
    """Count values in the cells between each code's bounds, those beyond in the outer cells.

    Bounds that are not finite, or equal, leave a code one cell.
    """
    width_C = _cell_width(low_C, high_C)
    per_unit_C = np.divide(1, width_C, out=np.zeros(len(width_C)), where=width_C > 0)
    before_C = np.where(width_C > 0, low_C, 0.0) * per_unit_C
    place_N = np.empty(len(value_N), np.int64)
    for first in range(0, len(value_N), BLOCK):
        rows = slice(first, first + BLOCK)
        code = code_index_N[rows].astype(np.int64)
        cell = per_unit_C.take(code)
        cell *= value_N[rows]
        cell -= before_C.take(code)
        np.maximum(cell, 0, out=cell)
        np.minimum(cell, CELLS - 1, out=cell)
        code *= CELLS
        np.add(code, cell.astype(np.int64), out=place_N[rows])
    if len(low_C) * CELLS <= DENSE_CELLS * len(place_N):
        count_P = np.bincount(place_N, minlength=len(low_C) * CELLS)
        place = np.flatnonzero(count_P)
        count = count_P[place]
    else:
        place, count = np.unique(place_N, return_counts=True)
    return Histogram(key=place // CELLS * NUM_BINS + place % CELLS, count=count)


def entropy_bits(
    cells: Histogram, low_C: Floats, high_C: Floats, mean_C: Floats, std_C: Floats
) -> Floats:
    """Return the Shannon entropy of z in 64 equal bins on [-5, 5], in bits: from 0 to 6.

    Args:
        cells: Counts of `count_cells`.
        low_C: The bounds that they were counted between.
        high_C: Likewise.
        mean_C: Of clipped values.
        std_C: Likewise, above 0.
    """
    width_C = _cell_width(low_C, high_C)
    bits_C = np.zeros(len(mean_C))
    for code in np.flatnonzero(width_C).tolist():
        cell_B, count_B = cells.of_code(code)
        z_B = (low_C[code] + (cell_B + 0.5) * width_C[code] - mean_C[code]) / std_C[code]
        bin_B = np.clip((z_B / FURTHEST + 1) * (BINS / 2), 0, BINS - 1).astype(np.int64)
        count = np.bincount(bin_B, count_B, minlength=BINS)
        share = count[count > 0] / count.sum()
        bits_C[code] = max(0.0, -float((share * np.log2(share)).sum()))
    return bits_C


def _cell_width(low_C: Floats, high_C: Floats) -> Floats:
    """Return how wide a code's cells are, 0 where it has but one."""
    is_bounded_C = np.isfinite(low_C) & np.isfinite(high_C)
    return np.where(is_bounded_C, np.maximum(high_C - low_C, 0), 0.0) / CELLS
