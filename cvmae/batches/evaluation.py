"""A unit's subjects as batches for evaluation: a column's mask, consecutive windows, raw values."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Bools, Float32s, Ints
from cvmae.batches.batch import Batch, join_cells
from cvmae.batches.cells import make_cell
from cvmae.batches.columns import (
    LEAVE_ONE_OUT,
    Column,
    choose_targets,
    column_hidden,
    has_twin,
    uniform_column,
)
from cvmae.batches.masking import FixedMask, SingleMask
from cvmae.batches.sequences import Sequences, cut_windows, gather_index
from cvmae.meds.dataset import Source
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_unit
from cvmae.meds.units import Unit
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["EvaluationBatch", "column_batches", "evaluation_batch", "evaluation_batches"]

MOST_MEASUREMENTS = 16_384  # in a batch


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
    max_measurements: int = MOST_MEASUREMENTS,
) -> Iterator[EvaluationBatch]:
    """Yield a unit's sequences in file order, each batch of at most `max_measurements`.

    A longer sequence forms a batch of its own. The hidden values depend on the vocabulary,
    `ratio` and `seed` only: every model that shares the vocabulary is scored on the same.
    """
    measurements, _ = read_unit(source, unit, statistics.lookup, split)
    yield from column_batches(
        measurements,
        statistics,
        uniform_column(ratio),
        sequence_length=sequence_length,
        seed=seed,
        max_measurements=max_measurements,
    )


def column_batches(
    measurements: Measurements,
    statistics: CodeStatistics,
    column: Column,
    *,
    sequence_length: int,
    seed: int,
    max_measurements: int = MOST_MEASUREMENTS,
) -> Iterator[EvaluationBatch]:
    """Yield the sequences of a unit's measurements as a column hides their values.

    In file order, each batch of at most `max_measurements`; a longer sequence forms one of its
    own. Under leave-one-out a window comes once for each of its targets.
    """
    twin_N = has_twin(measurements)
    windows = cut_windows(measurements, sequence_length)
    mask: FixedMask | SingleMask
    if column.kind == LEAVE_ONE_OUT:
        target_W = choose_targets(measurements, seed=seed).below(column.limit)
        # Windows are in file order and leave out only subjects that have no target.
        windows = windows.take(np.searchsorted(windows.start_W, target_W, side="right") - 1)
        mask = SingleMask(target_W=target_W)
    else:
        mask = FixedMask(hidden_M=column_hidden(column, measurements, seed=seed))
    for index in windows.in_batches(max_measurements):
        own = mask if isinstance(mask, FixedMask) else SingleMask(target_W=mask.target_W[index])
        yield evaluation_batch(measurements, windows.take(index), own, twin_N, statistics)


def evaluation_batch(
    measurements: Measurements,
    windows: Sequences,
    mask: FixedMask | SingleMask,
    twin_N: Bools,
    statistics: CodeStatistics,
) -> EvaluationBatch:
    """Put some windows of a unit into one batch; see `has_twin` for `twin_N`."""
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
