"""How far measured values lie from what a model expects: quantiles of each code, and no more."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.arrays import Bools, Floats, Ints

__all__ = ["FEWEST_SUBJECTS", "FEWEST_VALUES", "Residuals", "interval_ranks"]

# Shape letters: C codes, Q values that were hidden and restored.

# Of fewer values, or of fewer subjects, a quantile tells of single patients.
FEWEST_VALUES, FEWEST_SUBJECTS = 100, 20
FEWEST_BEYOND = 5  # values beyond each end of an interval, so that no extreme is its end
METADATA = b"cvmae"


@dataclass(frozen=True, kw_only=True, eq=False)
class Residuals:
    """Quantiles of value - expected of each code, in standard deviations of train.

    An interval from expected + low to expected + high holds a value with a chance of `level`, if
    it comes as those did that the quantiles were taken of.
    """

    level: float
    codes: tuple[str, ...]
    low_C: Floats  # NaN: there are too few values even of all codes together
    high_C: Floats
    count_C: Ints  # values of the code itself
    is_own_C: Bools  # False: the code has too few, and the quantiles are those of all codes

    @classmethod
    def of(
        cls,
        residual_Q: Floats,
        code_Q: npt.NDArray[np.integer],
        subjects_C: Ints,
        num_subjects: int,
        codes: Sequence[str],
        level: float,
    ) -> Self:
        """Take the quantiles of each code that has enough values, and of all codes together.

        Args:
            residual_Q: Value less what was expected, in standard deviations.
            code_Q: Code of each.
            subjects_C: Subjects that each code's values are of.
            num_subjects: That all are of.
            codes: Names of the vocabulary.
            level: Share of the values that lie between the two quantiles.
        """
        num_codes = len(codes)
        order_Q = np.lexsort((residual_Q, code_Q))
        count_C = np.bincount(code_Q, minlength=num_codes)
        ends_C = np.cumsum(count_C)
        pooled = _quantiles(np.sort(residual_Q), num_subjects, level)
        ends = np.full((num_codes, 2), np.nan)
        for code in range(num_codes):
            own_Q = residual_Q[order_Q[ends_C[code] - count_C[code] : ends_C[code]]]
            ends[code] = _quantiles(own_Q, int(subjects_C[code]), level)
        is_own_C = ~np.isnan(ends[:, 0])
        ends[~is_own_C] = pooled
        return cls(
            level=level,
            codes=tuple(codes),
            low_C=ends[:, 0],
            high_C=ends[:, 1],
            count_C=count_C,
            is_own_C=is_own_C,
        )

    def write(self, path: str | Path) -> None:
        """Write a row for each code; reading gives the same bits back."""
        columns: dict[str, Any] = {
            "code": pa.array(self.codes, pa.string()),
            "low": self.low_C,
            "high": self.high_C,
            "num_values": self.count_C,
            "is_own": self.is_own_C,
        }
        metadata = {METADATA: json.dumps({"level": self.level}).encode("ascii")}
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read what `write` wrote.

        Raises:
            ValueError: The file is not that.
        """
        try:
            table = pq.read_table(path, partitioning=None)
            level = float(json.loads(table.schema.metadata[METADATA])["level"])
            columns = {n: table[n].to_numpy() for n in ("low", "high", "num_values", "is_own")}
            codes = tuple(table["code"].to_pylist())
        except (pa.ArrowInvalid, ValueError, KeyError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{path} holds no quantiles of residuals ({reason})") from None
        return cls(
            level=level,
            codes=codes,
            low_C=columns["low"],
            high_C=columns["high"],
            count_C=columns["num_values"],
            is_own_C=columns["is_own"],
        )


def interval_ranks(num_values: int, level: float) -> tuple[int, int] | None:
    """Return which of so many ascending values, from 0, an interval of a level begins and ends at.

    The interval between them holds a further value of the same law with a chance of `level` or
    slightly more (split conformal prediction). None: there are too few values.

    Example:
        >>> interval_ranks(999, 0.95)
        (24, 974)
    """
    beyond = int(np.floor((num_values + 1) * (1 - level) / 2 + 1e-9))
    if num_values < FEWEST_VALUES or beyond <= FEWEST_BEYOND:
        return None
    return beyond - 1, num_values - beyond


def _quantiles(ascending_Q: Floats, num_subjects: int, level: float) -> tuple[float, float]:
    ranks = interval_ranks(len(ascending_Q), level)
    if ranks is None or num_subjects < FEWEST_SUBJECTS:
        return np.nan, np.nan
    return float(ascending_Q[ranks[0]]), float(ascending_Q[ranks[1]])
