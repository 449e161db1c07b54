"""A data set made ready to be streamed, and its ceiling: the same files read by pyarrow."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq

from cvmae.batches.batch import Batch
from cvmae.batches.bricks import iterate_steps, stream_bricks
from cvmae.config import PRESETS, Config
from cvmae.meds.dataset import Dataset, open_dataset
from cvmae.meds.rows import CODE, SUBJECT, TIME, VALUE
from cvmae.meds.splits import is_among
from cvmae.statistics.fit import load_or_fit
from cvmae.statistics.fitted import FittedData, TrainingData
from cvmae.train.streams import Plan, make_plan

__all__ = ["Prepared", "prepare"]

COLUMNS = [SUBJECT, TIME, CODE, VALUE]
TRAIN = "train"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A data set with its statistics, and the order of its epochs."""

    config: Config
    fitted: FittedData
    plan: Plan
    dataset: Dataset

    @property
    def data(self) -> TrainingData:
        """Return what a run on it takes."""
        return TrainingData(source=self.dataset.source, fitted=self.fitted)

    @property
    def root(self) -> str:
        """Return the folder of the data set."""
        return self.config.data.root

    @property
    def num_measurements(self) -> int:
        """Return the measurements of an epoch."""
        return int(self.fitted.unit_index.num_measurements[TRAIN].sum())

    @cached_property
    def train_shards(self) -> tuple[str, ...]:
        """Return the shards that hold a subject of train: what an epoch reads whole."""
        member_S = self.dataset.members[TRAIN]

        def has_member(path: str) -> bool:
            subject_N = self._read(path, [SUBJECT])[SUBJECT].to_numpy()
            return bool(is_among(member_S, subject_N).any())

        return tuple(shard.path for shard in self.dataset.shards if has_member(shard.path))

    @cached_property
    def num_train_rows(self) -> int:
        """Return the rows of those shards."""
        paths = set(self.train_shards)
        return sum(shard.num_rows for shard in self.dataset.shards if shard.path in paths)

    @property
    def num_rows(self) -> int:
        """Return the rows of all shards."""
        return sum(shard.num_rows for shard in self.dataset.shards)

    def read_raw(self) -> None:
        """Read the four columns of train's shards, strings and all: the ceiling."""
        for path in self.train_shards:
            self._read(path, COLUMNS)

    def read_raw_everything(self) -> None:
        """Read the four columns of all shards: what a pass over every split is compared with."""
        for shard in self.dataset.shards:
            self._read(shard.path, COLUMNS)

    def steps(self, epoch: int) -> Iterator[Batch]:
        """Yield the steps of an epoch of train in this process, as one rank takes them."""
        plan = self.plan
        bricks = stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=epoch)
        for batches in iterate_steps(bricks, lanes=plan.train_order.lanes):
            yield from batches

    def stream(self, epoch: int) -> int:
        """Take all steps of an epoch; return its measurements.

        Raises:
            RuntimeError: They are not those that the unit index says.
        """
        return self.check_epoch(sum(batch.num_measurements for batch in self.steps(epoch)))

    def check_epoch(self, num_measurements: int) -> int:
        """Return the measurements of an epoch if they are those that the unit index says.

        Raises:
            RuntimeError: They are not: the time that was taken is of other work.
        """
        if num_measurements != self.num_measurements:
            raise RuntimeError(
                f"an epoch gave {num_measurements} measurements, the unit index says "
                f"{self.num_measurements}"
            )
        return num_measurements

    def _read(self, path: str, columns: list[str]) -> "pq.Table":
        return pq.read_table(f"{self.root}/{path}", columns=columns, use_threads=False)


def prepare(root: str, *, unit_rows: int = 0, beside: str = "") -> Prepared:
    """Fit what an epoch of policy cv needs, or read it where it was fitted before.

    Args:
        root: Folder of the data set.
        unit_rows: Rows a unit; 0: the default.
        beside: Where statistics are kept, a number is added; empty: beside the data set.
    """
    base = PRESETS["paper"]
    unit_rows = unit_rows or base.data.unit_rows
    config = replace(
        base,
        output_dir=f"{beside or root}.fitted_{unit_rows}",
        data=replace(base.data, root=root, unit_rows=unit_rows),
        scaling=replace(base.scaling, num_workers=0),
    )
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(root)
    fitted = load_or_fit(config, dataset)
    return Prepared(
        config=config,
        fitted=fitted,
        plan=make_plan(config, TrainingData(source=dataset.source, fitted=fitted)),
        dataset=dataset,
    )
