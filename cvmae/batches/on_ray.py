"""Bricks for this rank through Ray Data; every rank checks their order as it reads."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from cvmae.batches.bricks import Brick, BrickReader, BrickTask, plan_tasks, read_bricks
from cvmae.batches.order import Order
from cvmae.meds.units import Unit
from cvmae.runtime.ray_tasks import CURSOR, Cursor, task_dataset, task_tables

__all__ = ["brick_dataset", "ray_bricks"]


_LISTS = ("num_sequences_K", "length_W", "code_index_N", "minutes_N", "value_N", "hidden_N")
_SCALARS = ("epoch", "number", "first_step", "lane")


def brick_dataset(reader: BrickReader, order: Order, units: Sequence[Unit]) -> ray.data.Dataset:
    """Return the data set of a run's bricks, to be given to Ray Train unsplit."""

    def plan(cursor: Cursor) -> Iterator[Callable[[], pa.Table]]:
        epoch, step, rank, world = cursor
        # Put once: with 10,000 codes a reader is a megabyte, of which each task would hold a copy.
        shared = ray.put(reader)
        for task in plan_tasks(order, units, epoch, step, rank, world):
            yield partial(_brick_table, shared, task)

    return task_dataset(plan)


def ray_bricks(shard: Any, *, epoch: int, step: int, rank: int, world: int) -> Iterator[Brick]:
    """Yield this rank's bricks from (epoch, step) to the end of the epoch.

    Raises:
        ValueError: As `read_bricks`, where the data set has changed; likewise FileNotFoundError.
        RuntimeError: A brick is of another epoch or rank, or came too late or twice.
        ChildProcessError: One read lost its process or node again and again.
    """
    context = shard.get_context()
    context.set_config(CURSOR, (epoch, step, rank, world))
    before = (-1, -1)
    for table in task_tables(shard, context):
        brick = _to_brick(table)
        if brick.epoch != epoch or brick.lane % world != rank:
            raise RuntimeError(
                f"rank {rank} of {world} in epoch {epoch} got a brick of epoch {brick.epoch}, "
                f"lane {brick.lane}: Ray Data did not pass the cursor on"
            )
        if (brick.number, brick.lane) <= before:
            raise RuntimeError(
                f"superstep {brick.number}, lane {brick.lane} came after superstep {before[0]}, "
                f"lane {before[1]}: Ray Data did not keep the order"
            )
        before = (brick.number, brick.lane)
        yield brick


def _brick_table(reader: "ray.ObjectRef[BrickReader]", task: BrickTask) -> pa.Table:
    bricks = read_bricks(ray.get(reader), task)
    columns: dict[str, Any] = {name: [getattr(b, name) for b in bricks] for name in _SCALARS}
    for name in _LISTS:
        arrays = [getattr(brick, name) for brick in bricks]
        values = np.concatenate(arrays)
        if values.dtype == np.bool_:
            values = values.view(np.uint8)
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        columns[name] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    return pa.table(columns)


def _to_brick(table: pa.Table) -> Brick:
    fields: dict[str, Any] = {name: table[name][0].as_py() for name in _SCALARS}
    for name in _LISTS:
        fields[name] = table[name][0].values.to_numpy(zero_copy_only=True)
    fields["hidden_N"] = fields["hidden_N"].view(np.bool_)
    return Brick(**fields)
