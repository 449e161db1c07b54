"""The two mergeable passes over a unit's measurements that code statistics are made of.

Pass 1 knows only which codes are candidates, pass 2 the vocabulary and where its values are
clipped. Partial results merge in any order: counts and histograms exactly, moments to the last
unit (Chan's formula in extended precision); in unit order they give the same bits every time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cvmae.meds.measurements import Measurements, RowCounts
from cvmae.statistics.histogram import Histogram
from cvmae.statistics.sequence_counts import count_sequences

__all__ = [
    "FirstPass",
    "Moments",
    "SecondPass",
    "SplitCounts",
    "first_pass",
    "second_pass",
    "split_counts",
    "summarise",
]

Floats = npt.NDArray[np.float64]
Extended = npt.NDArray[np.longdouble]  # 80 bits on x86: sums of thousands of parts stay exact
Ints = npt.NDArray[np.int64]

# Sizes of what is summed at a time: arrays that leave the cache take three times as long.
BLOCK_PAIRS = 1 << 17  # of subject and code
BLOCK_MEASUREMENTS = 1 << 15
DENSE_KEYS = 128  # per measurement, up to which a table is faster than a sort

# Shape letters: C codes, K candidate codes, S subjects, N measurements, P subject-code pairs.


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
            f.name: _placed(getattr(self, f.name), place, num_codes) for f in fields(self)
        }
        return replace(self, **moved)


def summarise(
    offsets_S: Ints,
    code_index_N: npt.NDArray[np.integer],
    numeric_value_N: npt.NDArray[np.float32],
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
    for bounds in _blocks(offsets_S, num_codes):
        rows = slice(int(bounds[0]), int(bounds[-1]))
        code_index, value = code_index_N[rows], numeric_value_N[rows]
        if clip is not None:
            value = np.maximum(value, clip[0].astype(np.float32)[code_index])
            np.minimum(value, clip[1].astype(np.float32)[code_index], out=value)
        total = total.merge(
            _block_moments(np.diff(bounds), code_index, value.astype(np.float64), num_codes)
        )
    return total


def _blocks(offsets_S: Ints, num_codes: int) -> Iterator[Ints]:
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
                    minimum=_placed(side.minimum, place, len(names), np.inf),
                    maximum=_placed(side.maximum, place, len(names), -np.inf),
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


@dataclass(frozen=True, kw_only=True)
class SecondPass:
    """What pass 2 finds on train in some units, per code of the vocabulary."""

    moments: Moments  # of clipped values
    num_duplicates: int  # measurements that repeat a subject, time and code

    def merge(self, other: Self) -> Self:
        """Add the result of other units."""
        return replace(
            self,
            moments=self.moments.merge(other.moments),
            num_duplicates=self.num_duplicates + other.num_duplicates,
        )


def second_pass(measurements: Measurements, clip_low_C: Floats, clip_high_C: Floats) -> SecondPass:
    """Summarise a unit's clipped measurements of train."""
    m, num_codes = measurements, len(clip_low_C)
    return SecondPass(
        moments=summarise(
            m.offsets_S, m.code_index_N, m.numeric_value_N, num_codes, (clip_low_C, clip_high_C)
        ),
        num_duplicates=count_duplicates(m, num_codes),
    )


def count_duplicates(measurements: Measurements, num_codes: int) -> int:
    """Count measurements that repeat the subject, time and code of an earlier one."""
    m = measurements
    return sum(
        _block_duplicates(bounds, m.time_us_N, m.code_index_N, num_codes)
        for bounds in _blocks(m.offsets_S, num_codes)
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


def add_counts(a: RowCounts, b: RowCounts) -> RowCounts:
    """Add the row counts of two parts."""
    return RowCounts(**{f.name: getattr(a, f.name) + getattr(b, f.name) for f in fields(a)})


def _union(a: Sequence[str], b: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({*a, *b}))


def _placed(array: npt.NDArray[Any], place: Ints, size: int, empty: float = 0) -> npt.NDArray[Any]:
    moved = np.full(size, empty, array.dtype)
    moved[place] = array
    return moved
