"""What an epoch has shown of each code: how often it was hidden, and how well it was restored."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from cvmae.arrays import Floats, Ints

__all__ = ["FIXED_POINT", "CodeErrors", "CodeMetrics", "CodeSums", "ratio", "total_squares"]

# A squared error on z is counted in units of 2^-20. Whole numbers add up to the same sum in any
# order, on a GPU, too, so that weights which follow from errors are the same bits again.
FIXED_POINT = 2.0**20


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeSums:
    """Whole sums over the steps of an epoch, over all ranks; they merge in any order."""

    error_C: Ints  # squared errors on z of hidden values, in units of 1 / FIXED_POINT
    hidden_C: Ints
    seen_C: Ints

    @classmethod
    def of(cls, sums: Sequence[Sequence[int]] | Ints, num_codes: int) -> Self:
        """Return sums as a checkpoint holds them; zeros where it holds none."""
        error_C, hidden_C, seen_C = np.array(
            sums if len(sums) else np.zeros((3, num_codes)), np.int64
        )
        return cls(error_C=error_C, hidden_C=hidden_C, seen_C=seen_C)

    def as_tuples(self) -> tuple[tuple[int, ...], ...]:
        """Return what a checkpoint holds."""
        return tuple(tuple(row.tolist()) for row in (self.error_C, self.hidden_C, self.seen_C))

    @property
    def mask_rate_C(self) -> Floats:
        """Share of each code's values that was hidden, NaN where none was seen."""
        return ratio(self.hidden_C, self.seen_C)

    @property
    def mse_C(self) -> Floats:
        """Mean squared error on z of each code's hidden values, NaN where none was hidden."""
        return ratio(self.error_C / FIXED_POINT, self.hidden_C)


@dataclass(frozen=True, eq=False)
class CodeErrors:
    """Sums over the hidden values of an evaluation mask, by code."""

    error_C: Floats  # squared errors on z
    count_C: Floats
    sum_C: Floats  # of z
    square_C: Floats  # of z

    def pooled(self) -> dict[str, float]:
        """Return error and R2 over all values.

        R2 is taken about the mean of each code's hidden values, as in the evaluation.
        """
        error, spread = self.error_C.sum(), self._spread_C.sum()
        return {
            "tuning_mse": float(error / max(self.count_C.sum(), 1.0)),
            "tuning_r2": float(1 - error / spread) if spread > 0 else math.nan,
        }

    def by_code(self) -> dict[str, Floats]:
        """Return the columns of `CodeMetrics` that follow; NaN where a code has no spread."""
        return {
            "tuning_mse_C": ratio(self.error_C, self.count_C),
            "tuning_r2_C": 1 - ratio(self.error_C, self._spread_C),
            "tuning_count_C": self.count_C,
        }

    @property
    def _spread_C(self) -> Floats:
        return total_squares(self.count_C, self.sum_C, self.square_C)


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeMetrics:
    """Figures of each code at the end of an epoch; NaN where there is nothing to tell."""

    mask_rate_C: Floats  # realised share hidden in training
    train_mse_C: Floats  # of hidden values on z, under the policy's mask
    tuning_mse_C: Floats  # on z, under the fixed mask of tuning
    tuning_r2_C: Floats
    tuning_count_C: Floats  # hidden values of tuning

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[float]]) -> Self:
        """Return figures as a checkpoint holds them."""
        arrays: dict[str, Any] = {
            f.name: np.array(columns[f.name.removesuffix("_C")], np.float64) for f in fields(cls)
        }
        return cls(**arrays)

    def as_columns(self) -> dict[str, list[float]]:
        """Return what a checkpoint and ``code_metrics.parquet`` hold, by the columns' names."""
        return {f.name.removesuffix("_C"): getattr(self, f.name).tolist() for f in fields(self)}


def total_squares(count: Floats, total: Floats, square: Floats) -> Floats:
    """Return the sum of squares about the mean, exactly 0 where there is no spread."""
    about_mean = square - np.divide(total**2, count, out=np.zeros_like(total), where=count > 0)
    # Squares about 0 cancel: below this share of them the difference is rounding, not spread.
    return np.where(about_mean > 1e-12 * square, about_mean, 0.0)


def ratio(numerator_C: Floats | Ints, denominator_C: Floats | Ints) -> Floats:
    """Return a ratio by code, NaN where the denominator is not above 0."""
    ratio_C = np.full(len(denominator_C), np.nan)
    np.divide(numerator_C, denominator_C, out=ratio_C, where=denominator_C > 0)
    return ratio_C
