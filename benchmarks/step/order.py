"""How evenly the order loads many ranks, simulated from lengths: no file is read."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.clock import progress
from benchmarks.data.streaming import balance
from benchmarks.rows import Row
from benchmarks.step.batches import cut, quantiles
from cvmae.arrays import Ints
from cvmae.batches.masking import hidden_counts
from cvmae.batches.order import Order, deal
from cvmae.batches.sequences import Sequences
from cvmae.config import PRESETS
from cvmae.model.flops import flops

__all__ = ["make_order", "order_rows", "simulate", "simulated_units"]


NUM_MEASUREMENTS = 100_000_000
UNIT_MEASUREMENTS = 125_000  # of data.unit_rows rows, half of which are measurements
PUBLISHED = PRESETS["paper"].train.batch_sequences
RANKS = (8, 64)
LEAST_A_RANK = 32  # sequences; with a handful of them no deal is even: batches grow with ranks

# Shape letters beside those of `cvmae.arrays`: K steps.


def order_rows(folder: Path, num_rows: int, rounds: int) -> Iterator[Row]:
    """Yield mean over slowest rank of an epoch's steps, by FLOPs and by measurements."""
    progress("order: %d measurements in units of %d", NUM_MEASUREMENTS, UNIT_MEASUREMENTS)
    units = simulated_units(NUM_MEASUREMENTS, UNIT_MEASUREMENTS)
    for ranks in RANKS:
        for batch_sequences in (PUBLISHED, PUBLISHED * ranks):
            order = make_order(units, lanes=ranks, batch_sequences=batch_sequences)
            measurements_KL, flops_KL = simulate(order, units)
            name = f"order: {ranks} ranks, {batch_sequences:,} sequences a step"
            note = (
                f"{len(flops_KL)} steps; mean over slowest rank by measurements "
                f"{balance(measurements_KL):.3f}; {batch_sequences // ranks} sequences a rank"
            )
            yield Row(
                suite="step",
                name=name,
                value=balance(flops_KL),
                unit="mean/slowest",
                goal=0.95 if batch_sequences >= LEAST_A_RANK * ranks else None,
                sense=">=",
                note=note,
            )


def simulated_units(num_measurements: int, unit_measurements: int) -> list[Sequences]:
    """Return the sequences of each unit of a hospital of about so many measurements."""
    lengths_S = quantiles(int(num_measurements / quantiles(2000).mean()))
    windows = cut(np.random.default_rng(0).permutation(lengths_S))
    unit_W = np.cumsum(windows.length_W) // unit_measurements
    first_of_subject = windows.first_position_W == 0
    # A subject is whole: it belongs to the unit in which it begins.
    unit_W = unit_W[np.maximum.accumulate(np.where(first_of_subject, np.arange(len(unit_W)), 0))]
    ends = np.flatnonzero(np.diff(unit_W)) + 1
    return [windows.take(index) for index in np.split(np.arange(len(unit_W)), ends)]


def make_order(units: Sequence[Sequences], *, lanes: int, batch_sequences: int) -> Order:
    """Return the order of these units."""
    return Order(
        num_sequences_U=np.array([unit.num_sequences for unit in units]),
        num_measurements_U=np.array([unit.length_W.sum() for unit in units]),
        seed=0,
        lanes=lanes,
        batch_sequences=batch_sequences,
    )


def simulate(order: Order, units: Sequence[Sequences], epoch: int = 0) -> tuple[Ints, Ints]:
    """Return measurements and FLOPs of each step and lane of an epoch, shape [K, L].

    What `cvmae.batches.bricks.read_bricks` does with the sequences of the units that it reads.
    """
    loads = []
    for superstep in order.supersteps(epoch):
        num_lanes = order.lanes if superstep.shared else 1
        blocks = []
        for lane in [0] if superstep.shared else range(order.lanes):
            read = Sequences.join([units[unit] for unit in superstep.lanes[lane]])
            cell_W = deal(
                read.length_W,
                read.subject_id_W,
                read.first_position_W,
                num_cells=superstep.num_steps * num_lanes,
                seed=order.seed,
                epoch=epoch,
                first_cell=0 if superstep.shared else lane * superstep.num_steps,
            )
            shape = (superstep.num_steps, num_lanes)
            weights = (read.length_W, _flops(read, order.seed, epoch))
            blocks.append([_sums(cell_W, weight_W, shape) for weight_W in weights])
        loads.append([np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True)])
    measurements_KL, flops_KL = (np.concatenate(parts) for parts in zip(*loads, strict=True))
    return measurements_KL, flops_KL


def _flops(read: Sequences, seed: int, epoch: int) -> Ints:
    """Return the useful operations of each sequence in preset paper, with their real masks."""
    config = PRESETS["paper"]
    hidden_W = hidden_counts(
        read.subject_id_W,
        read.first_position_W,
        read.length_W,
        ratio=config.mask.ratio,
        seed=seed,
        epoch=epoch,
    )
    both, place_W = np.unique(
        np.stack([read.length_W - hidden_W, hidden_W]), axis=1, return_inverse=True
    )
    kinds = [flops(config.model, both[:1, kind], both[1:, kind]) for kind in range(both.shape[1])]
    return np.array(kinds, np.int64)[place_W]


def _sums(cell_W: Ints, weight_W: Ints, shape: tuple[int, int]) -> Ints:
    sums = np.bincount(cell_W, weight_W, minlength=shape[0] * shape[1])
    return sums.astype(np.int64).reshape(shape)
