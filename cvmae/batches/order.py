"""Which sequence is in which step and lane: a pure function of (unit index, seed, epoch).

Units are permuted by (seed, epoch) and cut into supersteps. A superstep's units go to L lanes,
and each lane deals its sequences to k cells, one a step. Rank r of R reads lanes r, r + R, ...,
so that every number of ranks up to L sees the same steps; their shares are equal if it divides L.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Ints
from cvmae.batches.keys import counter_hash, stream_keys

__all__ = ["Order", "Superstep", "deal"]


# With 8 units or more a lane, lanes carry the same number of measurements within 2-3%.
UNITS_PER_LANE = 8
# Of a superstep that is shared: enough to mix subjects, few enough to stay small in memory.
UNITS_SHARED = 16


@dataclass(frozen=True, kw_only=True)
class Superstep:
    """A run of whole steps that share their units."""

    epoch: int
    number: int  # in the epoch
    first_step: int  # in the epoch
    num_steps: int
    lanes: tuple[tuple[int, ...], ...]  # unit numbers of each lane
    shared: bool  # True: every lane reads all units and keeps its own cells


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of every epoch of one split.

    Args:
        num_sequences_U: Sequences of each unit.
        num_measurements_U: Measurements of each unit: what lanes are balanced by.
        seed: Of the run.
        lanes: Lanes of the run.
        batch_sequences: Sequences a step, met within a few percent.
    """

    num_sequences_U: Ints
    num_measurements_U: Ints
    seed: int
    lanes: int
    batch_sequences: int

    def supersteps(self, epoch: int) -> Iterator[Superstep]:
        """Yield the supersteps of an epoch in order."""
        units = np.flatnonzero(self.num_sequences_U > 0)
        keys = stream_keys(self.seed, epoch, units, stream="order")
        units = units[np.argsort(keys, kind="stable")]
        num_supersteps = len(units) // (self.lanes * UNITS_PER_LANE)
        # Units are few where a lane would have less than 8: then supersteps are shared by all
        # lanes, which deals single sequences and balances perfectly.
        shared = num_supersteps == 0 and self.lanes > 1
        if shared:
            num_supersteps = len(units) // UNITS_SHARED
        first_step = 0
        for number, group in enumerate(self._cut(units, max(num_supersteps, 1), shared)):
            if len(group) == 0:
                return
            num_steps = max(1, round(int(self.num_sequences_U[group].sum()) / self.batch_sequences))
            lanes = (tuple(sorted(map(int, group))),) * self.lanes if shared else self._lanes(group)
            yield Superstep(
                epoch=epoch,
                number=number,
                first_step=first_step,
                num_steps=num_steps,
                lanes=lanes,
                shared=shared,
            )
            first_step += num_steps

    def num_steps(self, epoch: int) -> int:
        """Return the steps of an epoch."""
        return sum(superstep.num_steps for superstep in self.supersteps(epoch))

    def seek(self, epoch: int, step: int) -> Iterator[Superstep]:
        """Yield the supersteps of an epoch from the one that holds `step` on."""
        for superstep in self.supersteps(epoch):
            if superstep.first_step + superstep.num_steps > step:
                yield superstep

    def _cut(self, units: Ints, num_supersteps: int, shared: bool) -> list[Ints]:
        """Cut units into supersteps; in all but the last, lanes have the same number of them.

        Units hold about as much as each other: a lane with one more would be a ninth ahead.
        """
        if shared:
            return np.array_split(units, num_supersteps)
        rows = len(units) // self.lanes
        ends = np.arange(1, num_supersteps) * rows // num_supersteps * self.lanes
        return np.split(units, ends)

    def _lanes(self, group: Ints) -> tuple[tuple[int, ...], ...]:
        """Give the largest unit to the emptiest lane, again and again."""
        lanes: list[list[int]] = [[] for _ in range(self.lanes)]
        loads = [0] * self.lanes
        sizes = self.num_measurements_U[group]
        for place in np.argsort(-sizes, kind="stable"):
            emptiest = loads.index(min(loads))
            lanes[emptiest].append(int(group[place]))
            loads[emptiest] += int(sizes[place])
        return tuple(tuple(sorted(lane)) for lane in lanes)


def deal(
    length_W: Ints,
    subject_id_W: Ints,
    first_position_W: Ints,
    *,
    num_cells: int,
    seed: int,
    epoch: int,
    first_cell: int = 0,
) -> Ints:
    """Deal sequences to cells of nearly equal content, by length strata.

    Sequences are sorted by length, ties at random, and cut into blocks of `num_cells`; each
    block is dealt to the cells in random order. A random deal balances ranks to 0.83-0.93
    (mean over slowest), strata to 0.98 and more.

    Returns:
        Cell of each sequence; cells differ by at most one sequence.
    """
    ties_W = counter_hash(stream_keys(seed, epoch, subject_id_W, stream="tie"), first_position_W)
    # Descending, so that the block that is not full holds the shortest sequences.
    by_length_W = _argsort(-length_W, ties_W, (first_position_W, subject_id_W))
    block_W = np.arange(len(length_W)) // num_cells
    draws_W = counter_hash(stream_keys(seed, epoch, subject_id_W, stream="deal"), first_position_W)[
        by_length_W
    ]
    dealt_W = _argsort(block_W, draws_W)
    cell_W = np.empty(len(length_W), np.int64)
    cells = np.arange(len(length_W)) % num_cells
    rest = len(length_W) % num_cells
    if rest:  # the last block reaches only some cells: which ones is random, too
        # And not the same ones in every lane, or a step would be short in all of them.
        numbers = np.arange(first_cell, first_cell + num_cells)
        keys = stream_keys(seed, epoch, numbers, stream="deal")
        cells[-rest:] = np.argsort(keys, kind="stable")[:rest]
    cell_W[by_length_W[dealt_W]] = cells
    return cell_W


def _argsort(
    first_W: Ints, then_W: npt.NDArray[np.uint32], ties: Sequence[npt.NDArray[np.integer]] = ()
) -> Ints:
    """Sort by two keys, then by ties (the last of them first), stably."""
    # One sort of both keys as a single number takes a fraction of the time of two; first_W is
    # of 31 bits. Equal pairs, which are hardly ever there, it would leave in any order.
    pair_W = (first_W << 32) | then_W
    order_W = np.argsort(pair_W)
    sorted_W = pair_W[order_W]
    if (sorted_W[1:] == sorted_W[:-1]).any():
        return np.lexsort([*ties, then_W, first_W])
    return order_W
