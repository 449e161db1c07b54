"""The two mergeable passes over a unit's measurements that code statistics are made of.

Pass 1 knows only which codes are candidates, pass 2 the vocabulary and where its values are
clipped. Partial results merge in any order: counts and histograms exactly, moments to the last
unit (Chan's formula in extended precision); in unit order they give the same bits every time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Floats, Ints
from cvmae.meds.measurements import Measurements, RowCounts, add_counts
from cvmae.statistics.entropy import count_cells
from cvmae.statistics.histogram import Histogram
from cvmae.statistics.moments import Moments, placed, subject_blocks, summarise

__all__ = ["FirstPass", "SecondPass", "count_duplicates", "first_pass", "second_pass"]


DENSE_KEYS = 128  # per measurement, up to which a table is faster than a sort

# Shape letters beside those of `cvmae.arrays`: K candidate codes.


@dataclass(frozen=True, kw_only=True)
class FirstPass:
    """What pass 1 finds on train in some units, per candidate code."""

    names: tuple[str, ...]  # K candidate codes
    moments: Moments
    minimum: Floats  # inf where there is no value
    maximum: Floats
    histogram: Histogram
    rows: RowCounts
    examples: tuple[str, ...] = ()  # a few codes of the data, candidates or not

    def merge(self, other: Self) -> Self:
        """Add the result of other units."""
        names = self.names if self.names == other.names else _union(self.names, other.names)
        number = {name: place for place, name in enumerate(names)}
        sides = []
        for side in (self, other):
            place = np.array([number[name] for name in side.names], np.int64)
            sides.append(
                replace(
                    side,
                    moments=side.moments.placed(place, len(names)),
                    minimum=placed(side.minimum, place, len(names), np.inf),
                    maximum=placed(side.maximum, place, len(names), -np.inf),
                    histogram=side.histogram.placed(place),
                )
            )
        a, b = sides
        return replace(
            self,
            names=names,
            moments=a.moments.merge(b.moments),
            minimum=np.minimum(a.minimum, b.minimum),
            maximum=np.maximum(a.maximum, b.maximum),
            histogram=a.histogram.merge(b.histogram),
            rows=add_counts(a.rows, b.rows),
            examples=a.examples or b.examples,
        )


def first_pass(
    measurements: Measurements, rows: RowCounts, names: Sequence[str], examples: Sequence[str] = ()
) -> FirstPass:
    """Summarise a unit's measurements of train whose code_index counts in `names`."""
    m, num_names = measurements, len(names)
    minimum = np.full(num_names, np.inf, np.float32)
    maximum = np.full(num_names, -np.inf, np.float32)
    np.minimum.at(minimum, m.code_index_N, m.numeric_value_N)
    np.maximum.at(maximum, m.code_index_N, m.numeric_value_N)
    return FirstPass(
        names=tuple(names),
        moments=summarise(m.offsets_S, m.code_index_N, m.numeric_value_N, num_names),
        minimum=minimum.astype(np.float64),
        maximum=maximum.astype(np.float64),
        histogram=Histogram.of(m.code_index_N, m.numeric_value_N, minimum, maximum),
        rows=rows,
        examples=tuple(examples),
    )


@dataclass(frozen=True, kw_only=True)
class SecondPass:
    """What pass 2 finds on train in some units, per code of the vocabulary."""

    moments: Moments  # of clipped values
    cells: Histogram  # these, between the bounds to which they are clipped: see `entropy`
    num_duplicates: int  # measurements that repeat a subject, time and code

    def merge(self, other: Self) -> Self:
        """Add the result of other units."""
        return replace(
            self,
            moments=self.moments.merge(other.moments),
            cells=self.cells.merge(other.cells),
            num_duplicates=self.num_duplicates + other.num_duplicates,
        )


def second_pass(measurements: Measurements, clip_low_C: Floats, clip_high_C: Floats) -> SecondPass:
    """Summarise a unit's clipped measurements of train."""
    m, num_codes = measurements, len(clip_low_C)
    return SecondPass(
        moments=summarise(
            m.offsets_S, m.code_index_N, m.numeric_value_N, num_codes, (clip_low_C, clip_high_C)
        ),
        cells=count_cells(m.code_index_N, m.numeric_value_N, clip_low_C, clip_high_C),
        num_duplicates=count_duplicates(m, num_codes),
    )


def count_duplicates(measurements: Measurements, num_codes: int) -> int:
    """Count measurements that repeat the subject, time and code of an earlier one."""
    m = measurements
    return sum(
        _block_duplicates(bounds, m.time_us_N, m.code_index_N, num_codes)
        for bounds in subject_blocks(m.offsets_S, num_codes)
    )


def _block_duplicates(
    bounds: Ints, time_us_N: Ints, code_index_N: npt.NDArray[np.integer], num_codes: int
) -> int:
    rows = slice(int(bounds[0]), int(bounds[-1]))
    time_us = time_us_N[rows]
    changes = np.zeros(len(time_us), np.bool_)
    changes[1:] = time_us[1:] != time_us[:-1]
    changes[bounds[:-1] - bounds[0]] = True
    # Times ascend within a subject: a run of equal times holds all measurements of that time.
    key = np.cumsum(changes) * num_codes + code_index_N[rows]
    size = int(key.max()) + 1
    if size > DENSE_KEYS * len(key):
        return len(key) - len(np.unique(key))
    seen = np.zeros(size, np.bool_)  # takes a tenth of the time of sorting
    seen[key] = True
    return len(key) - int(np.count_nonzero(seen))


def _union(a: Sequence[str], b: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({*a, *b}))
