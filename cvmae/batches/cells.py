"""Windows of measurements -> a cell: the one way to what training and evaluation batches hold."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cvmae import compiled
from cvmae.arrays import Bools, Float32s
from cvmae.batches.inclusion import error_weights
from cvmae.batches.masking import Mask
from cvmae.batches.sequences import Sequences
from cvmae.meds.measurements import Measurements
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["Cell", "make_cell"]

NO_WEIGHTS = np.empty(0, np.float32)


class Cell(NamedTuple):
    """Whole sequences, one after another."""

    length_W: npt.NDArray[np.int32]
    code_index_N: npt.NDArray[np.uint16]
    minutes_N: npt.NDArray[np.int32]  # since the sequence's first measurement
    value_N: Float32s  # standardised
    hidden_N: Bools
    error_weight_M: Float32s | None = None  # None: the errors of hidden values count alike


def make_cell(
    measurements: Measurements,
    windows: Sequences,
    statistics: CodeStatistics,
    mask: Mask,
    *,
    weigh_errors: bool = False,
) -> Cell:
    """Standardise the measurements of some windows and hide some of them.

    Args:
        measurements: Those of a unit.
        windows: Sequences of it.
        statistics: Of the codes.
        mask: What is hidden.
        weigh_errors: Say how much each hidden value's error counts; see `error_weights`.
    """
    m, total = measurements, int(windows.length_W.sum())
    code_N, minutes_N = np.empty(total, np.uint16), np.empty(total, np.int32)
    value_N = np.empty(total, np.float32)
    weight_C = mask.weight_C
    weight_N = None if weight_C is None else np.empty(total, np.float32)
    compiled.transform(
        windows.start_W,
        windows.length_W,
        m.code_index_N,
        m.time_us_N,
        m.numeric_value_N,
        *statistics.scaling,
        NO_WEIGHTS if weight_C is None else weight_C,
        code_N,
        minutes_N,
        value_N,
        NO_WEIGHTS if weight_N is None else weight_N,
    )
    hidden_N = mask.hidden(windows, weight_N)
    chance_N = mask.chances(windows, weight_N) if weigh_errors else None
    return Cell(
        length_W=windows.length_W.astype(np.int32),
        code_index_N=code_N,
        minutes_N=minutes_N,
        value_N=value_N,
        hidden_N=hidden_N,
        error_weight_M=None if chance_N is None else error_weights(chance_N[hidden_N]),
    )
