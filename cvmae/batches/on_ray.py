"""Bricks for this rank through Ray Data; every rank checks their order as it reads."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from cvmae.arrays import Float32s
from cvmae.batches.bricks import Brick, BrickReader, BrickTask, plan_tasks, read_bricks
from cvmae.batches.order import Order
from cvmae.meds.units import Unit
from cvmae.runtime.ray_tasks import CURSOR, task_dataset, task_tables

__all__ = ["Cursor", "brick_dataset", "ray_bricks"]

_LISTS = ("num_sequences_K", "length_W", "code_index_N", "minutes_N", "value_N", "hidden_N")
_OPTIONAL = ("error_weight_M",)  # with every brick of a run, or with none
_SCALARS = ("epoch", "number", "first_step", "lane")


@dataclass(frozen=True, kw_only=True, eq=False)
class Cursor:
    """Which bricks an execution makes: it travels with the context of the rank's shard."""

    epoch: int
    step: int
    rank: int
    world: int
    weight_C: Float32s | None  # mask weights of the epoch


def brick_dataset(reader: BrickReader, order: Order, units: Sequence[Unit]) -> ray.data.Dataset:
    """Return the data set of a run's bricks, to be given to Ray Train unsplit.

    The reader's mask weights give way to those of each epoch, which `ray_bricks` is given.
    """

    def plan(cursor: Cursor) -> Iterator[Callable[[], pa.Table]]:
        # Put once: with 10,000 codes a reader is a megabyte, of which each task would hold a copy.
        shared = ray.put(replace(reader, weight_C=cursor.weight_C))
        for task in plan_tasks(order, units, cursor.epoch, cursor.step, cursor.rank, cursor.world):
            yield partial(_brick_table, shared, task)

    return task_dataset(plan)


def ray_bricks(shard: Any, cursor: Cursor) -> Iterator[Brick]:
    """Yield the cursor's rank's bricks from its step to the end of its epoch.

    Raises:
        ValueError: As `read_bricks`, where the data set has changed; likewise FileNotFoundError.
        RuntimeError: A brick is of another epoch or rank, or came too late or twice.
        ChildProcessError: One read lost its process or node again and again.
    """
    context = shard.get_context()
    context.set_config(CURSOR, cursor)
    epoch, rank, world = cursor.epoch, cursor.rank, cursor.world
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
    for name in (*_LISTS, *(n for n in _OPTIONAL if getattr(bricks[0], n) is not None)):
        arrays = [getattr(brick, name) for brick in bricks]
        values = np.concatenate(arrays)
        if values.dtype == np.bool_:
            values = values.view(np.uint8)
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        columns[name] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    return pa.table(columns)


def _to_brick(table: pa.Table) -> Brick:
    fields: dict[str, Any] = {name: table[name][0].as_py() for name in _SCALARS}
    for name in (n for n in (*_LISTS, *_OPTIONAL) if n in table.column_names):
        fields[name] = table[name][0].values.to_numpy(zero_copy_only=True)
    fields["hidden_N"] = fields["hidden_N"].view(np.bool_)
    return Brick(**fields)
