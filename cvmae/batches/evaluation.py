"""A unit's subjects as batches for evaluation: fixed mask, consecutive windows, raw values."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cvmae.batches.batch import Batch, make_batch
from cvmae.batches.masking import evaluation_hidden
from cvmae.batches.sequences import Sequences, cut_windows, gather_index, relative_minutes
from cvmae.meds.dataset import Source
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_unit
from cvmae.meds.units import Unit
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["EvaluationBatch", "evaluation_batches", "has_twin"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Shape letters: B sequences, N measurements, M hidden measurements.


@dataclass(frozen=True, kw_only=True)
class EvaluationBatch:
    """A batch and what scoring needs beside it; never leaves the process that scores."""

    batch: Batch
    subject_id_B: Ints
    code_index_N: npt.NDArray[np.int32]
    numeric_value_N: npt.NDArray[np.float32]  # in the code's unit, not clipped
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
    hidden_N = evaluation_hidden(measurements, ratio=ratio, seed=seed)
    twin_N = has_twin(measurements)
    windows = cut_windows(measurements, sequence_length)
    ends_W = np.cumsum(windows.length_W)
    first = 0
    while first < windows.num_sequences:
        budget = max_measurements + (ends_W[first - 1] if first else 0)
        last = max(first + 1, int(np.searchsorted(ends_W, budget, side="right")))
        own = slice(first, last)
        yield _batch(measurements, windows, own, hidden_N, twin_N, statistics)
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
    own: slice,
    hidden_N: Bools,
    twin_N: Bools,
    statistics: CodeStatistics,
) -> EvaluationBatch:
    start_W, length_W = windows.start_W[own], windows.length_W[own]
    index_N = gather_index(start_W, length_W)
    code_N = measurements.code_index_N[index_N].astype(np.int32)
    value_N = measurements.numeric_value_N[index_N]
    time_N, hidden_N = measurements.time_us_N[index_N], hidden_N[index_N]
    return EvaluationBatch(
        batch=make_batch(
            lengths_B=length_W,
            code_index_N=code_N,
            minutes_N=relative_minutes(time_N, measurements.time_us_N[start_W], length_W),
            value_N=statistics.standardise(code_N, value_N),
            hidden_N=hidden_N,
        ),
        subject_id_B=windows.subject_id_W[own],
        code_index_N=code_N,
        numeric_value_N=value_N,
        time_us_N=time_N,
        scored_M=~twin_N[index_N][hidden_N],
    )
