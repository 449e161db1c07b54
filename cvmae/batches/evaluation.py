"""A unit's subjects as batches for evaluation: fixed mask, consecutive windows, raw values."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Bools, Float32s, Ints
from cvmae.batches.batch import Batch, join_cells
from cvmae.batches.cells import make_cell
from cvmae.batches.masking import FixedMask, evaluation_hidden
from cvmae.batches.sequences import Sequences, cut_windows, gather_index
from cvmae.meds.dataset import Source
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_unit
from cvmae.meds.units import Unit
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["EvaluationBatch", "evaluation_batches", "has_twin"]


@dataclass(frozen=True, kw_only=True)
class EvaluationBatch:
    """A batch and what scoring needs beside it; never leaves the process that scores."""

    batch: Batch
    subject_id_B: Ints
    code_index_N: npt.NDArray[np.int32]
    numeric_value_N: Float32s  # in the code's unit, not clipped
    time_us_N: Ints
    scored_M: Bools  # False where the hidden value has a twin


def evaluation_batches(
    source: Source,
    unit: Unit,
    statistics: CodeStatistics,
    *,
    split: str,
    sequence_length: int,
    ratio: float,
    seed: int,
    max_measurements: int = 16_384,
) -> Iterator[EvaluationBatch]:
    """Yield a unit's sequences in file order, each batch of at most `max_measurements`.

    A longer sequence forms a batch of its own. The hidden values depend on the vocabulary,
    `ratio` and `seed` only: every model that shares the vocabulary is scored on the same.
    """
    measurements, _ = read_unit(source, unit, statistics.lookup, split)
    mask = FixedMask(hidden_M=evaluation_hidden(measurements, ratio=ratio, seed=seed))
    twin_N = has_twin(measurements)
    windows = cut_windows(measurements, sequence_length)
    ends_W = np.cumsum(windows.length_W)
    first = 0
    while first < windows.num_sequences:
        budget = max_measurements + (ends_W[first - 1] if first else 0)
        last = max(first + 1, int(np.searchsorted(ends_W, budget, side="right")))
        own = windows.take(np.arange(first, last))
        yield _batch(measurements, own, mask, twin_N, statistics)
        first = last


def has_twin(measurements: Measurements) -> Bools:
    """Mark measurements whose subject, time and code occur more than once."""
    lengths_S = np.diff(measurements.offsets_S)
    subject_N = np.repeat(np.arange(len(lengths_S)), lengths_S)
    keys = (measurements.code_index_N, measurements.time_us_N, subject_N)
    order_N = np.lexsort(keys)
    same_N = np.ones(max(len(order_N) - 1, 0), bool)
    for key in keys:
        same_N &= key[order_N][1:] == key[order_N][:-1]
    twin_N = np.zeros(len(order_N), bool)
    twin_N[order_N[1:][same_N]] = True
    twin_N[order_N[:-1][same_N]] = True
    return twin_N


def _batch(
    measurements: Measurements,
    windows: Sequences,
    mask: FixedMask,
    twin_N: Bools,
    statistics: CodeStatistics,
) -> EvaluationBatch:
    batch = join_cells([make_cell(measurements, windows, statistics, mask)])
    index_N = gather_index(windows.start_W, windows.length_W)
    return EvaluationBatch(
        batch=batch,
        subject_id_B=windows.subject_id_W,
        code_index_N=batch.code_index_N.numpy(),
        numeric_value_N=measurements.numeric_value_N[index_N],
        time_us_N=measurements.time_us_N[index_N],
        scored_M=~twin_N[index_N][batch.hidden_M.numpy()],
    )
