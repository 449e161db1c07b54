"""Labels and what was known before each: windows of measurements, read once and kept in memory.

A window holds the last measurements at or before the prediction time: rows are cut at the time
first, so nothing later can reach a model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Float32s, Ints
from cvmae.batches.batch import LabelledBatch, make_batch, with_labels
from cvmae.batches.cells import Cell
from cvmae.batches.sequences import gather_index
from cvmae.infer.histories import Moments, last_windows, visible_cell
from cvmae.meds.dataset import Source
from cvmae.meds.labels import Labels
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_splits
from cvmae.meds.splits import SPLITS, is_among
from cvmae.meds.units import Unit
from cvmae.runtime.map_units import map_units
from cvmae.settings import ScalingConfig
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["LabelledWindows", "read_windows"]

# Shape letters: L labels of a split, B of a batch, K those with a window in a unit, N measurements.


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class LabelledWindows:
    """Labels of one split, ascending by subject and time, each with its window.

    Windows lie one after another; one of no measurements is of a subject of whom nothing was known.
    """

    subject_id_L: Ints
    time_us_L: Ints  # of the prediction
    label_L: Float32s  # 0 or 1
    length_L: Ints
    code_index_N: npt.NDArray[np.uint16]
    minutes_N: npt.NDArray[np.int32]  # since the window's first measurement
    value_N: Float32s  # standardised

    @property
    def num_labels(self) -> int:
        """Return L."""
        return len(self.label_L)

    @property
    def num_positive(self) -> int:
        """Return how many labels are 1."""
        return int(np.count_nonzero(self.label_L))

    @cached_property
    def _start_L(self) -> Ints:
        return np.cumsum(self.length_L) - self.length_L

    def take(self, index_B: Ints) -> LabelledBatch:
        """Return some of them as a batch, in the order given."""
        length_B = self.length_L[index_B]
        index_N = gather_index(self._start_L[index_B], length_B)
        batch = make_batch(
            lengths_B=length_B,
            code_index_N=self.code_index_N[index_N],
            minutes_N=self.minutes_N[index_N],
            value_N=self.value_N[index_N],
            hidden_N=np.zeros(len(index_N), np.bool_),
        )
        return with_labels(batch, self.label_L[index_B])

    def in_batches(self, max_measurements: int) -> Iterator[Ints]:
        """Yield the labels in order, in runs of about `max_measurements` measurements."""
        number_L = self._start_L // max_measurements
        yield from np.split(np.arange(self.num_labels), np.flatnonzero(np.diff(number_L)) + 1)


def read_windows(
    source: Source,
    units: Sequence[Unit],
    labels: Labels,
    statistics: CodeStatistics,
    *,
    sequence_length: int,
    scaling: ScalingConfig,
) -> dict[str, LabelledWindows]:
    """Read the windows of all labels in one pass over the units, by split.

    A window is what an embedding of the same moment is made of: the subject's last
    `sequence_length` measurements at or before it. Labels of subjects in no split are left out.
    """
    place = {
        split: np.flatnonzero(is_among(source.members[split], labels.subject_id_L))
        for split in SPLITS
    }
    moments = {
        split: Moments(subject_id_L=labels.subject_id_L[own_L], time_us_L=labels.time_us_L[own_L])
        for split, own_L in place.items()
    }
    task = partial(_read_unit, source, moments, statistics, sequence_length)
    parts = list(map_units(task, units, scaling, "labelled windows"))
    return {
        split: _joined(
            moments[split], labels.value_L[place[split]], [part[split] for part in parts]
        )
        for split in SPLITS
    }


class _Part(NamedTuple):
    """Windows of one unit and split."""

    label_K: Ints  # whose they are, among the labels of the split
    cell: Cell


def _read_unit(
    source: Source,
    moments: dict[str, Moments],
    statistics: CodeStatistics,
    sequence_length: int,
    unit: Unit,
) -> dict[str, _Part]:
    read = read_splits(source, unit, statistics.lookup, SPLITS)
    return {
        split: _windows(measurements, moments[split], statistics, sequence_length)
        for split, (measurements, _) in read.items()
    }


def _windows(
    measurements: Measurements, moments: Moments, statistics: CodeStatistics, sequence_length: int
) -> _Part:
    known_K, windows = last_windows(measurements, moments, sequence_length)
    return _Part(known_K, visible_cell(measurements, windows, statistics))


def _joined(
    moments: Moments, value_L: npt.NDArray[np.floating], parts: list[_Part]
) -> LabelledWindows:
    """Put the windows of all units into the order of the labels."""
    label_K = np.concatenate([part.label_K for part in parts])
    length_K = np.concatenate([part.cell.length_W for part in parts]).astype(np.int64)
    order_K = np.argsort(label_K)
    index_N = gather_index((np.cumsum(length_K) - length_K)[order_K], length_K[order_K])
    length_L = np.zeros(moments.num_moments, np.int64)
    length_L[label_K] = length_K
    return LabelledWindows(
        subject_id_L=moments.subject_id_L,
        time_us_L=moments.time_us_L,
        label_L=value_L.astype(np.float32),
        length_L=length_L,
        code_index_N=np.concatenate([part.cell.code_index_N for part in parts])[index_N],
        minutes_N=np.concatenate([part.cell.minutes_N for part in parts])[index_N],
        value_N=np.concatenate([part.cell.value_N for part in parts])[index_N],
    )
