"""Streaming in one process: files to masked, packed, standardised tensors; masks; balance."""

import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.clock import interleave, median_ratio, progress
from benchmarks.epochs import TRAIN, Prepared, prepare
from benchmarks.hospitals import regroup
from benchmarks.rows import Row
from cvmae.arrays import Bools, Float32s, Ints
from cvmae.batches.bricks import Brick, stream_bricks
from cvmae.batches.masking import hidden_counts, sample_hidden
from cvmae.batches.order import UNITS_PER_LANE
from cvmae.batches.sequences import Sequences, cut_windows, gather_index
from cvmae.meds.reading import read_unit

__all__ = ["balance", "balance_rows", "count_unmatched", "streaming_rows"]


# Shape letters beside those of `cvmae.arrays`: K steps.


@dataclass(frozen=True, kw_only=True)
class MaskTask:
    """What `sample_hidden` is asked of one unit."""

    windows: Sequences
    weight_N: Float32s

    def sample(self, prepared: Prepared, epoch: int) -> Bools:
        """Hide values as the reader does."""
        reader, windows = prepared.plan.train_reader, self.windows
        return sample_hidden(
            subject_id_W=windows.subject_id_W,
            first_position_W=windows.first_position_W,
            length_W=windows.length_W,
            weight_N=self.weight_N,
            ratio=reader.ratio,
            seed=reader.seed,
            epoch=epoch,
        )

    def counts(self, prepared: Prepared, epoch: int) -> Ints:
        """Return how many values of each sequence must be hidden."""
        reader, windows = prepared.plan.train_reader, self.windows
        return hidden_counts(
            windows.subject_id_W,
            windows.first_position_W,
            windows.length_W,
            ratio=reader.ratio,
            seed=reader.seed,
            epoch=epoch,
        )


def streaming_rows(folder: Path, hospital: str, num_rows: int, rounds: int) -> Iterator[Row]:
    """Measure an epoch in process over its floor, and masking on the same sequences."""
    prepared = prepare(hospital)
    a_measurement = prepared.num_train_rows / prepared.num_measurements
    yield Row(suite="data", name="hospital: rows a measurement", value=a_measurement, unit="rows")
    stored = sum(shard.size_bytes for shard in prepared.dataset.shards) / prepared.num_rows
    yield Row(suite="data", name="hospital: bytes a row", value=stored, unit="bytes")
    tasks = _mask_tasks(prepared)
    epoch = 1
    seconds = interleave(
        {
            "raw": prepared.read_raw,
            "floor": prepared.read_floor,
            "streaming": lambda: prepared.stream(epoch),
            "masking": lambda: [task.sample(prepared, epoch) for task in tasks],
        },
        rounds,
        "streaming",
    )
    yield from _ratio_rows(prepared, seconds)
    yield Row(
        suite="data",
        name="masking: sequences with another count than asked for",
        value=_wrong_counts(prepared, tasks, epoch),
        unit=f"of {sum(task.windows.num_sequences for task in tasks):,}",
        goal=0,
    )


def _ratio_rows(prepared: Prepared, seconds: dict[str, list[float]]) -> Iterator[Row]:
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows, measurements = prepared.num_train_rows, prepared.num_measurements
    yield Row(
        suite="data",
        name="streaming: over the read with codes as dictionaries, CPU",
        value=median_ratio(seconds["streaming"], seconds["floor"]),
        unit="x",
        goal=1.4,
        note=f"{rows:,} rows, {measurements:,} measurements of {len(prepared.train_shards)} shards",
    )
    yield Row(
        suite="data",
        name="streaming: over the raw read, CPU",
        value=median_ratio(seconds["streaming"], seconds["raw"]),
        unit="x",
    )
    for name, read in (("raw read", "raw"), ("read with codes as dictionaries", "floor")):
        value = median[read] / rows * 1e9
        yield Row(suite="data", name=f"{name}, CPU", value=value, unit="ns a row")
    took = median["streaming"]
    yield Row(suite="data", name="streaming: CPU a row", value=took / rows * 1e9, unit="ns")
    yield Row(
        suite="data",
        name="streaming: CPU a measurement",
        value=took / measurements * 1e9,
        unit="ns",
    )
    yield Row(
        suite="data",
        name="streaming: speed of a core",
        value=measurements / took,
        unit="measurements/s",
    )
    yield Row(
        suite="data",
        name="masking: share of streaming, CPU",
        value=median_ratio(seconds["masking"], seconds["streaming"]),
        unit="",
        goal=0.20,
    )
    yield Row(
        suite="data",
        name="masking: CPU a measurement",
        value=median["masking"] / measurements * 1e9,
        unit="ns",
    )


def balance_rows(folder: Path, hospital: str, num_rows: int, rounds: int) -> Iterator[Row]:
    """Measure how evenly the steps of real orders load 8 ranks of 32 sequences each."""
    prepared = prepare(hospital)
    yield _balance_row("synthetic hospital, default units", prepared)
    # Small enough that every lane has units of its own, in two supersteps or more.
    unit_rows = max(1, prepared.num_train_rows // (3 * prepared.config.data.lanes * UNITS_PER_LANE))
    group_rows = max(1, unit_rows // 2)
    regrouped = regroup(hospital, folder / f"{Path(hospital).name}_by_{group_rows}", group_rows)
    own = prepare(regrouped, unit_rows=unit_rows)
    yield _balance_row("synthetic hospital, small units", own)
    real = Path(os.environ.get("CVMAE_REAL_DATA", "")) / "physionet2012"
    if not os.environ.get("CVMAE_REAL_DATA") or not real.is_dir():
        name = "balance: physionet2012"
        note = "CVMAE_REAL_DATA names no folder that holds physionet2012"
        yield Row(suite="data", name=name, value=None, goal=0.97, sense=">=", note=note)
    else:
        kept = folder / "physionet2012"
        yield _balance_row("physionet2012", prepare(str(real), beside=str(kept)))


def _balance_row(label: str, prepared: Prepared) -> Row:
    plan, epoch = prepared.plan, 0
    shared = [superstep.shared for superstep in plan.train_order.supersteps(epoch)]
    progress("balance: %s", label)
    bricks = stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=epoch)
    loads = np.concatenate([*_loads(bricks, plan.train_order.lanes)])
    return Row(
        suite="data",
        name=f"balance: {label}",
        value=balance(loads),
        unit="mean/slowest",
        goal=0.97,
        sense=">=",
        note=(
            f"{len(loads)} steps of {prepared.config.train.batch_sequences} sequences in "
            f"{len(shared)} supersteps, {sum(shared)} of them shared; worst step "
            f"{(loads.mean(axis=1) / loads.max(axis=1)).min():.3f}"
        ),
    )


def balance(load_KL: Ints) -> float:
    """Return mean over slowest rank: the share of time that ranks work, were work measurements.

    Sums over steps stand on both sides, so that a long step counts for more.

    Example:
        >>> balance(np.array([[2, 2], [1, 3]]))
        0.8
    """
    return float(load_KL.mean(axis=1).sum() / load_KL.max(axis=1).sum())


def _loads(bricks: Iterator[Brick], lanes: int) -> Iterator[Ints]:
    """Yield the measurements of each step (row) and lane of a superstep."""
    group: list[Ints] = []
    for brick in bricks:
        cells = [brick.cell(step) for step in range(brick.num_steps)]
        group.append(np.array([len(cell.value_N) for cell in cells], np.int64))
        if len(group) == lanes:
            yield np.stack(group, axis=1)
            group = []


def _mask_tasks(prepared: Prepared) -> list[MaskTask]:
    """Return the sequences of every unit of train, with the weights of their measurements."""
    reader, tasks = prepared.plan.train_reader, []
    assert reader.weight_C is not None, "policy cv has weights"
    num_sequences_U = prepared.fitted.unit_index.num_sequences[TRAIN]
    for unit, num_sequences in zip(prepared.plan.units, num_sequences_U, strict=True):
        if num_sequences:
            measurements, _ = read_unit(reader.source, unit, reader.statistics.lookup, TRAIN)
            windows = cut_windows(measurements, reader.sequence_length)
            index_N = gather_index(windows.start_W, windows.length_W)
            weight_N = reader.weight_C[measurements.code_index_N[index_N]]
            tasks.append(MaskTask(windows=windows, weight_N=weight_N))
    return tasks


def _wrong_counts(prepared: Prepared, tasks: list[MaskTask], epoch: int) -> int:
    """Count the sequences of an epoch's steps whose hidden values are not as many as asked for.

    Steps do not say whose sequence is whose: lengths and counts are compared as pairs.
    """
    streamed = [
        np.stack([np.diff(batch.offsets_B.numpy()), batch.num_hidden_B])
        for batch in prepared.steps(epoch)
    ]
    wanted = [np.stack([t.windows.length_W, t.counts(prepared, epoch)]) for t in tasks]
    return count_unmatched(np.concatenate(streamed, axis=1), np.concatenate(wanted, axis=1))


def count_unmatched(found_2W: Ints, wanted_2W: Ints) -> int:
    """Count the columns of either array that have no partner in the other, the larger number.

    Example:
        >>> count_unmatched(np.array([[4, 8], [1, 2]]), np.array([[8, 4], [2, 2]]))
        1
    """
    _, place, count = np.unique(
        np.concatenate([found_2W, wanted_2W], axis=1).T,
        axis=0,
        return_inverse=True,
        return_counts=True,
    )
    found = np.bincount(place[: found_2W.shape[1]], minlength=len(count))
    surplus = found - (count - found)
    return int(max(surplus[surplus > 0].sum(), -surplus[surplus < 0].sum()))
