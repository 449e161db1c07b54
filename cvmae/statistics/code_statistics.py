"""What is known of every code from train: counts, moments, quantiles; and the z-score.

The numbers come from the two mergeable passes of `passes`. The table extends MEDS
``codes.parquet``, so that other tools of the MEDS family can read it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae import compiled
from cvmae.arrays import Bools, Float32s, Floats, Ints

__all__ = ["CodeStatistics", "MemberLookup", "flagged_codes"]


SMALL_MEAN = 0.2  # in standard deviations


# Field -> column of code_statistics.parquet. `values/` are values as they stand in the data,
# `clipped/` the same after clipping to [clip_low, clip_high].
COLUMNS = {
    "num_values": "values/n_occurrences",
    "num_subjects": "values/n_subjects",
    "minimum": "values/min",
    "maximum": "values/max",
    "raw_mean": "values/mean",
    "raw_std": "values/std",
    "clip_low": "clipped/low",
    "clip_high": "clipped/high",
    "mean": "clipped/mean",
    "std": "clipped/std",
    "q25": "values/q25",
    "median": "values/median",
    "q75": "values/q75",
    "mad": "values/mad",
    "within_subject_std": "clipped/within_subject_std",
    "entropy": "clipped/entropy",
}
LATER = {"entropy"}  # fields that tables of earlier versions lack
TO_STD = 1.4826  # a median deviation times this is the standard deviation of a normal distribution


class MemberLookup:
    """Map MEDS codes to entries of a vocabulary; an entry may have several member codes."""

    def __init__(self, members: Sequence[Sequence[str]]) -> None:
        self._index = {code: entry for entry, codes in enumerate(members) for code in codes}

    def __call__(self, dictionary: Sequence[str]) -> npt.NDArray[np.int32]:
        """Return the entry of each MEDS code, -1 where it has none.

        Example:
            >>> MemberLookup([("Na//mmol", "Na//mEq"), ("K",)])(["K", "HR", "Na//mEq"])
            array([ 1, -1,  0], dtype=int32)
        """
        found = map(self._index.get, dictionary, repeat(-1))
        return np.fromiter(found, np.int32, count=len(dictionary))


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeStatistics:
    """Statistics of the vocabulary on train, in the order of ``code_index``.

    Standard deviations divide by the count (ddof 0), the within-subject one by the count
    minus the number of subjects; it is NaN where no subject has two values. Quantiles are of
    the values as they stand, from a histogram whose bins are 1/64 wide (error below 1%).
    """

    codes: tuple[str, ...]  # the first member stands for an entry
    members: tuple[tuple[str, ...], ...]
    num_values: Ints
    num_subjects: Ints
    minimum: Floats
    maximum: Floats
    raw_mean: Floats
    raw_std: Floats
    clip_low: Floats  # -inf where values are not clipped
    clip_high: Floats
    mean: Floats  # of clipped values, as all that follow except quantiles
    std: Floats
    q25: Floats
    median: Floats
    q75: Floats
    mad: Floats
    within_subject_std: Floats
    entropy: Floats  # of z, in bits: see `entropy.entropy_bits`; NaN: fitted before there was one

    @property
    def num_codes(self) -> int:
        """Size of the vocabulary."""
        return len(self.codes)

    @property
    def cv(self) -> Floats:
        """Coefficient of variation of clipped values; infinite where the mean is 0."""
        return _ratio(self.std, np.abs(self.mean))

    @property
    def raw_cv(self) -> Floats:
        """Coefficient of variation without clipping."""
        return _ratio(self.raw_std, np.abs(self.raw_mean))

    @property
    def within_subject_cv(self) -> Floats:
        """Standard deviation within subjects over |mean|; NaN where no subject has two values."""
        return _ratio(self.within_subject_std, np.abs(self.mean))

    @property
    def robust_cv(self) -> Floats:
        """1.4826 x median absolute deviation / |median|; infinite where the median is 0.

        Of a normal distribution it is the CV. Outliers do not move it, clipped or not.
        """
        return _ratio(TO_STD * self.mad, np.abs(self.median))

    @cached_property
    def lookup(self) -> MemberLookup:
        """Map MEDS codes to ``code_index``, -1 where a code is not in the vocabulary."""
        return MemberLookup(self.members)

    def standardise(
        self, code_index_N: npt.NDArray[np.integer], numeric_value_N: Float32s
    ) -> Float32s:
        """Return z = (clip(x) - mean) / std of each value, float32.

        Codes whose values are all equal never enter a vocabulary, so std is above 0.
        """
        z_N = np.empty(len(numeric_value_N), np.float32)
        code_N = code_index_N.astype(np.int64, copy=False)
        compiled.standardise(code_N, numeric_value_N, *self.scaling, z_N)
        return z_N

    def write(self, path: str | Path) -> None:
        """Write one row per code; reading gives the same bits back."""
        count_C = self.num_values.astype(np.float64)
        columns: dict[str, Any] = {
            "code": pa.array(self.codes, pa.string()),
            "description": pa.nulls(self.num_codes, pa.string()),
            "parent_codes": pa.nulls(self.num_codes, pa.list_(pa.string())),
            "members": pa.array([list(codes) for codes in self.members], pa.list_(pa.string())),
            "values/sum": count_C * self.raw_mean,
            "values/sum_sqd": count_C * (self.raw_std**2 + self.raw_mean**2),
        }
        columns |= {column: getattr(self, name) for name, column in COLUMNS.items()}
        pq.write_table(pa.table(columns), path)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a table of code statistics.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"{path} does not exist: run jobs/fit_statistics.py and give its output_dir"
            )
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"{path} is not a parquet file: write it with jobs/fit_statistics.py ({error})"
            ) from None
        for name in LATER:
            if COLUMNS[name] not in table.column_names:
                unknown = pa.array(np.full(len(table), np.nan))
                table = table.append_column(COLUMNS[name], unknown)
        missing = {"code", "members", *COLUMNS.values()} - set(table.column_names)
        if missing:
            raise ValueError(
                f"{path} lacks the columns {sorted(missing)}: write it with jobs/fit_statistics.py"
            )
        return cls(
            codes=tuple(table["code"].to_pylist()),
            members=tuple(map(tuple, table["members"].to_pylist())),
            **{name: table[column].to_numpy() for name, column in COLUMNS.items()},
        )

    def differences(self, other: "CodeStatistics") -> list[str]:
        """Name the fields whose values are not the same, for messages and tests.

        What one of both was fitted too early to know is not compared.
        """
        return [item.name for item in fields(self) if not _same(self, other, item.name)]

    @cached_property
    def scaling(self) -> tuple[Float32s, Float32s, Floats, Floats]:
        """Return what a z-score is made with: lower and upper bound, mean, standard deviation."""
        # Exact: bin edges of the histogram are float32 numbers.
        low_C, high_C = self.clip_low.astype(np.float32), self.clip_high.astype(np.float32)
        return low_C, high_C, np.ascontiguousarray(self.mean), np.ascontiguousarray(self.std)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.inf)


def _same(a: CodeStatistics, b: CodeStatistics, name: str) -> bool:
    one, other = getattr(a, name), getattr(b, name)
    if isinstance(one, tuple):
        return bool(one == other)
    if name in LATER and (np.isnan(one).all() or np.isnan(other).all()):
        return True
    return np.array_equal(one, other, equal_nan=True)


def flagged_codes(statistics: CodeStatistics) -> Bools:
    """Return True for codes whose mean says nothing about their scale.

    Their clipped values lie on both sides of zero (base excess), or their mean is below 0.2
    standard deviations: dividing by it gives any number.
    """
    lowest_C = np.maximum(statistics.minimum, statistics.clip_low)
    highest_C = np.minimum(statistics.maximum, statistics.clip_high)
    straddles_C = (lowest_C < 0) & (highest_C > 0)
    return straddles_C | (np.abs(statistics.mean) < SMALL_MEAN * statistics.std)
