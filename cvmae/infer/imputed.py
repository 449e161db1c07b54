"""Imputed values as MEDS rows: what is expected in the code's own unit, with an interval."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from meds.schema import DataSchema

from cvmae.arrays import Float32s
from cvmae.infer.asked import Asked, KnownCodes
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.statistics.residuals import Residuals

__all__ = ["HIGH", "LOW", "imputed_table", "interval"]

# Shape letters: L rows.

LOW, HIGH = "interval_low", "interval_high"
SCHEMA = pa.schema(
    [
        pa.field(DataSchema.subject_id_name, pa.int64(), nullable=False),
        pa.field(DataSchema.time_name, pa.timestamp("us")),
        pa.field(DataSchema.code_name, pa.string()),
        pa.field(DataSchema.numeric_value_name, pa.float32()),
        pa.field(LOW, pa.float32()),
        pa.field(HIGH, pa.float32()),
    ]
)


def interval(
    entry_L: npt.NDArray[np.integer],
    z_L: npt.NDArray[np.floating],
    statistics: CodeStatistics,
    residuals: Residuals | None,
) -> tuple[Float32s, Float32s, Float32s]:
    """Return what is expected, and the lower and the upper end of its interval, in own units.

    None lies beyond the bounds to which the code's values were clipped before training.

    Args:
        entry_L: Entry of the vocabulary.
        z_L: Standardised; NaN: nothing is known.
        statistics: Of the model.
        residuals: Of the model; None: ends are NaN.
    """
    unknown_C = np.full(statistics.num_codes, np.nan)
    low_C, high_C = (residuals.low_C, residuals.high_C) if residuals else (unknown_C, unknown_C)
    ends = []
    for shift_L in (0.0, low_C[entry_L], high_C[entry_L]):
        value_L = (z_L + shift_L) * statistics.std[entry_L] + statistics.mean[entry_L]
        clipped_L = np.clip(value_L, statistics.clip_low[entry_L], statistics.clip_high[entry_L])
        ends.append(clipped_L.astype(np.float32))
    return ends[0], ends[1], ends[2]


def imputed_table(
    asked: Asked,
    z_L: npt.NDArray[np.floating],
    statistics: CodeStatistics,
    residuals: Residuals | None,
) -> pa.Table:
    """Return a MEDS row for each that was asked for, in their order; null where z is NaN."""
    known = KnownCodes.of(statistics)
    values = interval(known.entry_K[asked.code_L], z_L, statistics, residuals)
    names = pa.array(known.names, pa.string())
    columns: list[Any] = [
        pa.array(asked.subject_id_L),
        pa.array(asked.time_us_L).cast(pa.timestamp("us")),
        names.take(pa.array(asked.code_L)),
        *(pa.array(value_L, pa.float32(), from_pandas=True) for value_L in values),  # NaN: null
    ]
    return pa.table(columns, SCHEMA)
