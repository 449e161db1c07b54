"""How far measured values lie from what a model expects: quantiles of each code, and no more."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.arrays import Bools, Floats, Ints
from cvmae.statistics.residual_sample import ResidualSample

__all__ = ["FEWEST_SUBJECTS", "FEWEST_VALUES", "Residuals", "interval_ranks"]

# Shape letters: C codes, Q values that were hidden and restored.

# Of fewer values, or of fewer subjects, a quantile tells of single patients.
FEWEST_VALUES, FEWEST_SUBJECTS = 100, 20
FEWEST_BEYOND = 5  # values beyond each end of an interval, so that no extreme is its end
METADATA = b"cvmae"


@dataclass(frozen=True, kw_only=True, eq=False)
class Residuals:
    """Quantiles of value - expected of each code, in standard deviations of train.

    An interval from expected + low to expected + high holds a value with a chance of `level` or
    slightly more (split conformal prediction), if it comes as those did that the quantiles were
    taken of: hidden in the same way, and what is expected of it found in the same way. Of codes
    with very many values the quantiles are those of a sample, for which the same holds.
    """

    level: float
    past_only: bool  # what is expected was found from rows at or before the value's time
    codes: tuple[str, ...]
    low_C: Floats  # NaN: there are too few values even of all codes together
    high_C: Floats
    count_C: Ints  # values of the code itself
    is_own_C: Bools  # False: the code has too few, and the quantiles are those of all codes

    @classmethod
    def of(
        cls, sample: ResidualSample, codes: Sequence[str], level: float, *, past_only: bool
    ) -> Self:
        """Take the quantiles of each code that has enough values, and of all codes together.

        Args:
            sample: Of values that no training has seen.
            codes: Names of the vocabulary.
            level: Share of the values that lie between the two quantiles.
            past_only: How what is expected of them was found.
        """
        order_Q = np.lexsort((sample.residual_Q, sample.code_Q))
        ends_C = np.append(0, np.cumsum(np.bincount(sample.code_Q, minlength=len(codes))))
        ends = np.full((len(codes), 2), np.nan)
        for code, num_subjects in enumerate(sample.subjects_C):
            own_Q = sample.residual_Q[order_Q[ends_C[code] : ends_C[code + 1]]]
            ends[code] = _quantiles(own_Q, num_subjects, level)
        is_own_C = ~np.isnan(ends[:, 0])
        ends[~is_own_C] = _quantiles(np.sort(sample.of_all()), sample.num_subjects, level)
        return cls(
            level=level,
            past_only=past_only,
            codes=tuple(codes),
            low_C=ends[:, 0],
            high_C=ends[:, 1],
            count_C=sample.count_C,
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
        metadata = {
            METADATA: json.dumps({"level": self.level, "past_only": self.past_only}).encode("ascii")
        }
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read what `write` wrote.

        Raises:
            ValueError: The file is not that.
        """
        try:
            table = pq.read_table(path, partitioning=None)
            made = json.loads(table.schema.metadata[METADATA])
            level, past_only = float(made["level"]), bool(made.get("past_only", False))
            columns = {n: table[n].to_numpy() for n in ("low", "high", "num_values", "is_own")}
            codes = tuple(table["code"].to_pylist())
        except (pa.ArrowInvalid, ValueError, KeyError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{path} holds no quantiles of residuals ({reason})") from None
        return cls(
            level=level,
            past_only=past_only,
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
