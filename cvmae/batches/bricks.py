"""Units -> bricks: masked, standardised, packed sequences of one lane for the steps of a superstep.

The plain generator here is the reference that Ray Data must equal bit for bit
(`cvmae.batches.on_ray`), and what a single process uses.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Bools, Float32s, Ints
from cvmae.batches.batch import Batch, join_cells
from cvmae.batches.cells import Cell, make_cell
from cvmae.batches.masking import (
    DrawnMask,
    FixedMask,
    IndependentMask,
    Mask,
    evaluation_hidden,
)
from cvmae.batches.order import Order, deal
from cvmae.batches.sequences import Sequences, crop_windows, cut_windows
from cvmae.meds.dataset import Source
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_units
from cvmae.meds.units import Unit
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = [
    "Brick",
    "BrickReader",
    "BrickTask",
    "iterate_steps",
    "own_lanes",
    "plan_tasks",
    "read_bricks",
    "stream_bricks",
    "windows_of",
]


# Shape letters beside those of `cvmae.arrays`: K steps (cells of a lane).


@dataclass(frozen=True, kw_only=True)
class BrickReader:
    """How units become bricks: everything but which units; travels with every task."""

    source: Source
    split: str
    statistics: CodeStatistics
    weight_C: Float32s | None  # mask weights; None: uniform
    ratio: float
    seed: int
    sequence_length: int
    crop: bool = False
    evaluation: bool = False  # hide by the fixed mask of comparisons
    weigh_errors: bool = False  # by the inverse of each value's chance to be hidden
    independent: bool = False  # draw each value on its own, weights being chances; no ratio then


@dataclass(frozen=True, kw_only=True)
class BrickTask:
    """One read: the units of a superstep's lane (or of all a rank's lanes, where shared)."""

    epoch: int
    number: int  # of the superstep in the epoch
    first_step: int
    num_steps: int
    lanes: tuple[int, ...]  # whose bricks are wanted
    num_lanes: int  # lanes among which the sequences are dealt: 1, or all where shared
    units: tuple[Unit, ...]


@dataclass(frozen=True, kw_only=True)
class Brick:
    """One lane's share of the steps of a superstep; cells one after another."""

    epoch: int
    number: int
    first_step: int
    lane: int
    num_sequences_K: npt.NDArray[np.int32]
    length_W: npt.NDArray[np.int32]
    code_index_N: npt.NDArray[np.uint16]
    minutes_N: npt.NDArray[np.int32]
    value_N: Float32s
    hidden_N: Bools
    error_weight_M: Float32s | None = None  # as in `Cell`

    @property
    def num_steps(self) -> int:
        """Return K."""
        return len(self.num_sequences_K)

    def cell(self, step: int) -> Cell:
        """Return what the superstep's step has of this lane."""
        first, last = self._first_sequence[step : step + 2]
        begin, end = self._first_measurement[[first, last]]
        own = slice(begin, end)
        weight_M = self.error_weight_M
        if weight_M is not None:
            weight_M = weight_M[slice(*self._first_hidden[step : step + 2])]
        return Cell(
            length_W=self.length_W[first:last],
            code_index_N=self.code_index_N[own],
            minutes_N=self.minutes_N[own],
            value_N=self.value_N[own],
            hidden_N=self.hidden_N[own],
            error_weight_M=weight_M,
        )

    @cached_property
    def _first_sequence(self) -> Ints:
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.num_sequences_K)])

    @cached_property
    def _first_measurement(self) -> Ints:
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.length_W)])

    @cached_property
    def _first_hidden(self) -> Ints:
        before_N = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.hidden_N)])
        first_K: Ints = before_N[self._first_measurement[self._first_sequence]]
        return first_K


def own_lanes(lanes: int, rank: int, world: int) -> tuple[int, ...]:
    """Return the lanes of a rank: one of four of six lanes has one or two.

    Example:
        >>> own_lanes(6, rank=1, world=4), own_lanes(6, rank=2, world=4)
        ((1, 5), (2,))
    """
    return tuple(range(rank, lanes, world))


def plan_tasks(
    order: Order, units: Sequence[Unit], epoch: int, step: int, rank: int, world: int
) -> Iterator[BrickTask]:
    """Yield the reads of one rank from (epoch, step) to the end of the epoch."""
    mine = own_lanes(order.lanes, rank, world)
    for superstep in order.seek(epoch, step):
        for lanes in [mine] if superstep.shared else [(lane,) for lane in mine]:
            yield BrickTask(
                epoch=epoch,
                number=superstep.number,
                first_step=superstep.first_step,
                num_steps=superstep.num_steps,
                lanes=lanes,
                num_lanes=order.lanes if superstep.shared else 1,
                units=tuple(units[unit] for unit in superstep.lanes[lanes[0]]),
            )


def stream_bricks(
    reader: BrickReader,
    order: Order,
    units: Sequence[Unit],
    *,
    epoch: int,
    step: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Brick]:
    """Yield a rank's bricks in this process: superstep by superstep, lane by lane."""
    for task in plan_tasks(order, units, epoch, step, rank, world):
        yield from read_bricks(reader, task)


def read_bricks(reader: BrickReader, task: BrickTask) -> list[Brick]:
    """Read the units of one task, deal their sequences, and transform those of its lanes."""
    measurements = read_units(reader.source, task.units, reader.statistics.lookup, reader.split)
    windows = windows_of(reader, measurements, task.epoch)
    mask = _mask(reader, measurements, task.epoch)
    cell_W = deal(
        windows.length_W,
        windows.subject_id_W,
        windows.first_position_W,
        num_cells=task.num_steps * task.num_lanes,
        seed=reader.seed,
        epoch=task.epoch,
        first_cell=0 if task.num_lanes > 1 else task.lanes[0] * task.num_steps,
    )
    step_W, lane_W = np.divmod(cell_W, task.num_lanes)
    bricks = []
    for lane in task.lanes:
        own_W = np.flatnonzero(lane_W == (lane if task.num_lanes > 1 else 0))
        own_W = own_W[np.argsort(step_W[own_W], kind="stable")]
        cell = make_cell(
            measurements,
            windows.take(own_W),
            reader.statistics,
            mask,
            weigh_errors=reader.weigh_errors,
        )
        bricks.append(
            Brick(
                epoch=task.epoch,
                number=task.number,
                first_step=task.first_step,
                lane=lane,
                num_sequences_K=np.bincount(step_W[own_W], minlength=task.num_steps).astype(
                    np.int32
                ),
                **cell._asdict(),
            )
        )
    return bricks


def iterate_steps(
    bricks: Iterable[Brick], *, lanes: int, step: int = 0, accumulation_steps: int = 1
) -> Iterator[list[Batch]]:
    """Yield each step's micro-batches of one rank, from step `step` of the epoch on.

    Args:
        bricks: The rank's bricks, `lanes` of them a superstep.
        lanes: Lanes of this rank.
        step: First step wanted; it lies in the first superstep.
        accumulation_steps: Micro-batches a step; the rank's cells are dealt to them in turn,
            and some may be empty.

    Raises:
        RuntimeError: A brick is not the one that comes next.
    """
    group: list[Brick] = []
    for brick in bricks:
        group.append(brick)
        if len(group) < lanes:
            continue
        first = group[0]
        if any((b.epoch, b.number) != (first.epoch, first.number) for b in group):
            found = [(b.epoch, b.number, b.lane) for b in group]
            raise RuntimeError(f"bricks of different supersteps came together: {found}")
        if not first.first_step <= step < first.first_step + first.num_steps:
            raise RuntimeError(
                f"superstep {first.number} of epoch {first.epoch} covers steps from "
                f"{first.first_step} on, but step {step} is next: a brick is missing or repeated"
            )
        while step < first.first_step + first.num_steps:
            cells = [brick.cell(step - first.first_step) for brick in group]
            yield [
                join_cells(cells[micro::accumulation_steps])  # none: an empty batch
                for micro in range(accumulation_steps)
            ]
            step += 1
        group = []
    if group:
        raise RuntimeError(f"the data ended inside superstep {group[0].number}")


def windows_of(reader: BrickReader, measurements: Measurements, epoch: int) -> Sequences:
    """Return the sequences into which a reader cuts measurements in an epoch."""
    if reader.crop and not reader.evaluation:
        return crop_windows(measurements, reader.sequence_length, seed=reader.seed, epoch=epoch)
    return cut_windows(measurements, reader.sequence_length)


def _mask(reader: BrickReader, measurements: Measurements, epoch: int) -> Mask:
    if reader.evaluation:  # over whole subjects, before windows are cut
        return FixedMask(
            hidden_M=evaluation_hidden(measurements, ratio=reader.ratio, seed=reader.seed)
        )
    if reader.independent and reader.weight_C is not None:
        return IndependentMask(weight_C=reader.weight_C, seed=reader.seed, epoch=epoch)
    return DrawnMask(weight_C=reader.weight_C, ratio=reader.ratio, seed=reader.seed, epoch=epoch)
