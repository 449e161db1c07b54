"""Data sets in which a measurement's value is the number of its row, and how they are read.

The statistics leave values as they are: whatever a step delivers names the rows it came from.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.arrays import Ints
from cvmae.batches.batch import Batch
from cvmae.batches.bricks import BrickReader, iterate_steps, stream_bricks
from cvmae.batches.order import Order
from cvmae.meds.dataset import open_dataset
from cvmae.meds.reading import read_unit
from cvmae.meds.units import Unit, plan_units
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.statistics.sequence_counts import split_counts

CODES = ("LAB//A", "LAB//B", "LAB//C")  # of a measurement: by the number of its row
OTHER_CODE = "DIAGNOSIS//X"
WEIGHT_C = np.array([1.0, 4.0, 0.5], np.float32)
RATIO = 0.4
SECONDS = 90  # from row to row
SCHEMA = pa.schema(
    {
        "subject_id": pa.int64(),
        "time": pa.timestamp("us"),
        "code": pa.string(),
        "numeric_value": pa.float32(),
    }
)


class Subject(NamedTuple):
    num_measurements: int
    num_others: int = 0  # rows that are no measurements
    split: str = "train"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A data set and how it is read."""

    shards: Sequence[Sequence[Subject]] = ()
    num_rows: int = 0  # for `write_many`
    num_shards: int = 1
    row_group_size: int = 4
    unit_rows: int = 10
    lanes: int = 4
    batch_sequences: int = 3
    sequence_length: int = 8
    crop: bool = False
    epoch: int = 1

    @property
    def worlds(self) -> list[int]:
        return [world for world in range(1, self.lanes + 1) if self.lanes % world == 0]


class Window(NamedTuple):
    """A sequence as a step delivers it."""

    rows: tuple[int, ...]
    codes: tuple[int, ...]
    hours: tuple[float, ...]
    hidden: tuple[bool, ...]


Step = list[Window]  # sorted: what a step holds does not depend on the ranks that hold it


@dataclass(frozen=True, kw_only=True)
class Written:
    """A data set on disk, and all that it takes to read it."""

    case: Case
    reader: BrickReader
    order: Order
    units: tuple[Unit, ...]
    rows_of: dict[int, list[int]]  # subject of train -> rows of its measurements

    def steps(self, *, step: int = 0, world: int = 1, epoch: int | None = None) -> list[Step]:
        """Return what the ranks together hold in each step from `step` on."""
        ranks = []
        for rank in range(world):
            bricks = stream_bricks(
                self.reader,
                self.order,
                self.units,
                epoch=self.case.epoch if epoch is None else epoch,
                step=step,
                rank=rank,
                world=world,
            )
            steps = iterate_steps(bricks, lanes=self.order.lanes // world, step=step)
            ranks.append([windows_of(batch) for (batch,) in steps])
        return [sorted(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]


def windows_of(batch: Batch) -> list[Window]:
    hidden_N = np.zeros(batch.num_measurements, bool)
    hidden_N[batch.hidden_M.numpy()] = True
    columns = [
        batch.value_N.numpy().astype(np.int64).tolist(),
        batch.code_index_N.tolist(),
        batch.hours_N.tolist(),
        hidden_N.tolist(),
    ]
    return [
        Window(*(tuple(column[first:last]) for column in columns))
        for first, last in pairwise(batch.offsets_B.tolist())
    ]


def plain_statistics() -> CodeStatistics:
    """Return statistics that leave every value as it is."""
    zero, one, count = np.zeros(3), np.ones(3), np.ones(3, np.int64)
    names = ("minimum", "maximum", "raw_mean", "raw_std", "q25", "median", "q75", "mad")
    return CodeStatistics(
        codes=CODES,
        members=tuple((code,) for code in CODES),
        num_values=count,
        num_subjects=count,
        clip_low=np.full(3, -np.inf),
        clip_high=np.full(3, np.inf),
        mean=zero,
        std=one,
        within_subject_std=one,
        entropy=one,
        **dict.fromkeys(names, one),
    )


def kinds_of(subject: Subject) -> list[str]:
    """Return what each row of a subject is; a row without a time comes first."""
    kinds = ["measurement"] * subject.num_measurements
    for number in range(subject.num_others):
        kinds.insert(number * 5 % (len(kinds) + 1), ("no value", "other code")[number % 2])
    return ["no time", *kinds] if subject.num_others else kinds


def shards_of(sizes: Sequence[int], per_shard: int) -> list[list[Subject]]:
    """Return subjects of these sizes in shards; every seventh is of another split."""
    subjects = [
        Subject(size, number % 3, "tuning" if number % 7 == 6 else "train")
        for number, size in enumerate(sizes)
    ]
    return [subjects[first : first + per_shard] for first in range(0, len(subjects), per_shard)]


def row_of(subject_id: int, kind: str, row: int) -> tuple[Any, ...]:
    return (
        subject_id,
        None if kind == "no time" else row * SECONDS * 1_000_000,
        OTHER_CODE if kind == "other code" else CODES[row % 3],
        None if kind == "no value" else float(row),
    )


def write(case: Case, folder: str | Path) -> Written:
    """Write a case's data set."""
    root = Path(folder)
    for name in ("data", "metadata"):
        (root / name).mkdir(parents=True)
    rows_of: dict[int, list[int]] = {}
    splits: dict[str, list[Any]] = {"subject_id": [], "split": []}
    first_row = 0
    for number, subjects in enumerate(case.shards):
        rows: list[tuple[Any, ...]] = []
        for subject in subjects:
            subject_id = 10 + 3 * len(splits["split"])
            splits["subject_id"].append(subject_id)
            splits["split"].append(subject.split)
            kinds = list(enumerate(kinds_of(subject), start=first_row + len(rows)))
            rows += [row_of(subject_id, kind, row) for row, kind in kinds]
            if subject.split == "train":
                rows_of[subject_id] = [row for row, kind in kinds if kind == "measurement"]
        first_row += len(rows)
        columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
        path = root / "data" / f"{number:03}.parquet"
        pq.write_table(pa.table(arrays, SCHEMA), path, row_group_size=case.row_group_size)
    pq.write_table(pa.table(splits), root / "metadata" / "subject_splits.parquet")
    return opened(case, str(root), rows_of)


def write_many(case: Case, root: Path) -> tuple[Written, Ints, Ints]:
    """Write many rows, half of them no measurements, every tenth subject of another split.

    Returns:
        The data set, and row and subject of every measurement of train.
    """
    rng = np.random.default_rng(0)
    length_S = np.clip(rng.lognormal(np.log(120), 1.0, case.num_rows // 50), 1, 60_000).astype(int)
    subject_N = np.repeat(np.arange(len(length_S)), length_S)[: case.num_rows]
    row_N = np.arange(case.num_rows)
    is_measurement_N = rng.random(case.num_rows) < 0.5
    code_N = np.where(is_measurement_N, row_N % 3, 3).astype(np.int32)
    for name in ("data", "metadata"):
        (root / name).mkdir()
    edges = np.linspace(0, subject_N[-1] + 1, case.num_shards + 1).astype(int)
    for number, bounds in enumerate(pairwise(np.searchsorted(subject_N, edges))):
        own = slice(*bounds)
        codes = pa.DictionaryArray.from_arrays(code_N[own], [*CODES, OTHER_CODE])
        columns = [
            subject_N[own],
            pa.array(row_N[own] * SECONDS * 1_000_000).cast(pa.timestamp("us")),
            codes.cast(pa.string()),
            row_N[own].astype(np.float32),
        ]
        path = root / "data" / f"{number:03}.parquet"
        pq.write_table(pa.table(columns, SCHEMA), path, row_group_size=case.row_group_size)
    subject_S = np.arange(subject_N[-1] + 1)
    splits = {"subject_id": subject_S, "split": np.where(subject_S % 10 == 9, "tuning", "train")}
    pq.write_table(pa.table(splits), root / "metadata" / "subject_splits.parquet")
    row_M = np.flatnonzero(is_measurement_N & (subject_N % 10 != 9))
    return opened(case, str(root), {}), row_M, subject_N[row_M]


def opened(case: Case, root: str, rows_of: dict[int, list[int]]) -> Written:
    """Cut a data set into units and count them, as `fit` does."""
    dataset = open_dataset(root)
    units = plan_units(dataset, case.unit_rows)
    reader = BrickReader(
        source=dataset.source,
        split="train",
        statistics=plain_statistics(),
        weight_C=WEIGHT_C,
        ratio=RATIO,
        seed=0,
        sequence_length=case.sequence_length,
        crop=case.crop,
    )
    counts = [
        split_counts(
            *read_unit(dataset, unit, reader.statistics.lookup, "train"),
            case.sequence_length,
            crop=case.crop,
        )
        for unit in units
    ]
    order = Order(
        num_sequences_U=np.array([count.num_sequences for count in counts]),
        num_measurements_U=np.array([count.num_measurements for count in counts]),
        seed=0,
        lanes=case.lanes,
        batch_sequences=case.batch_sequences,
    )
    return Written(case=case, reader=reader, order=order, units=units, rows_of=rows_of)
