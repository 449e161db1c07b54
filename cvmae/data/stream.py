"""The only Ray Data file: bricks for this rank, and a function over units.

Ray Data schedules reads, reads ahead with back-pressure and retries lost tasks; it never sees
a row. One read task yields one block; a row of it is one brick. `preserve_order` and one block
a task make the order of bricks that of the plan, which every rank checks as it reads.
"""

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray.data
import ray.train
from ray.data import Datasource, ExecutionOptions, ReadTask
from ray.data.block import BlockMetadata

from cvmae.data.bricks import Brick, BrickReader, BrickTask, plan_tasks, read_bricks
from cvmae.data.meds import Unit
from cvmae.data.order import Order

__all__ = ["brick_dataset", "map_on_ray", "ray_bricks"]

# Importing ray.data has set it to report the plan and the end of every execution.
logging.getLogger("ray.data").setLevel(logging.WARNING)

Item = TypeVar("Item")
Result = TypeVar("Result")
Cursor = tuple[int, int, int, int]  # epoch, step, rank, world

CURSOR = "cvmae_cursor"
_LISTS = ("num_sequences_K", "length_W", "code_index_N", "minutes_N", "value_N", "hidden_N")
_SCALARS = ("epoch", "number", "first_step", "lane")


class _OneBlockPerTask(Datasource):
    """A data source whose read tasks are functions that return one table each."""

    def __init__(self, plan: Callable[[Cursor], Iterable[Callable[[], pa.Table]]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._plan = plan

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,
    ) -> list[ReadTask]:
        # Called once to plan, without a context, and again at every execution with the context
        # of the shard that executes: that is how each rank and epoch gets its own tasks.
        if data_context is None:
            return []
        cursor = data_context.get_config(CURSOR, None)
        tasks = self._plan(cursor if cursor is not None else (0, 0, 0, 1))
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [
            ReadTask(partial(_one_block, task), unknown, per_task_row_limit=per_task_row_limit)
            for task in tasks
        ]


def brick_dataset(reader: BrickReader, order: Order, units: Sequence[Unit]) -> ray.data.Dataset:
    """Return the data set of a run's bricks, to be given to Ray Train unsplit."""

    def plan(cursor: Cursor) -> Iterator[Callable[[], pa.Table]]:
        epoch, step, rank, world = cursor
        for task in plan_tasks(order, units, epoch, step, rank, world):
            yield partial(_brick_table, reader, task)

    dataset: ray.data.Dataset = ray.data.read_datasource(
        _OneBlockPerTask(plan), override_num_blocks=1
    )
    return dataset


def ray_bricks(shard: Any, *, epoch: int, step: int, rank: int, world: int) -> Iterator[Brick]:
    """Yield this rank's bricks from (epoch, step) to the end of the epoch.

    Raises:
        RuntimeError: A brick is of another epoch or lane than the plan's next one.
    """
    context = shard.get_context()
    context.set_config(CURSOR, (epoch, step, rank, world))
    context.target_max_block_size = 1  # never merge bricks into one block
    for table in shard.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=2):
        brick = _to_brick(table)
        if brick.epoch != epoch or brick.lane % world != rank:
            raise RuntimeError(
                f"rank {rank} of {world} in epoch {epoch} got a brick of epoch {brick.epoch}, "
                f"lane {brick.lane}: Ray Data did not pass the cursor on"
            )
        yield brick


def map_on_ray(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield ``function(item)`` in order, each computed by one Ray Data task.

    Raises:
        ValueError: As the function did; likewise FileNotFoundError.
    """

    def plan(_: Cursor) -> Iterator[Callable[[], pa.Table]]:
        for number, item in enumerate(items):
            yield partial(_result_table, function, item, number)

    dataset = ray.data.read_datasource(_OneBlockPerTask(plan), override_num_blocks=1)
    dataset.context.execution_options = ExecutionOptions(preserve_order=True)
    dataset.context.target_max_block_size = 1
    expected = 0
    for table in dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=1):
        if table["number"][0].as_py() != expected:
            raise RuntimeError(f"result {table['number'][0]} came where {expected} was next")
        expected += 1
        result = pickle.loads(table["result"][0].as_py())  # made by our own task a moment ago
        if isinstance(result, _UserError):
            raise result.error
        yield result
    if expected != len(items):
        raise RuntimeError(f"{expected} of {len(items)} results came back from Ray Data")


def _one_block(task: Callable[[], pa.Table]) -> list[pa.Table]:
    return [task()]


@dataclass(frozen=True)
class _UserError:
    """An error of the user's making: it travels as a result, since Ray would retry and trace it."""

    error: ValueError | FileNotFoundError


def _result_table(function: Callable[[Item], object], item: Item, number: int) -> pa.Table:
    result: object
    try:
        result = function(item)
    except (ValueError, FileNotFoundError) as error:
        result = _UserError(error.with_traceback(None))
    column = pa.array([pickle.dumps(result)], pa.large_binary())
    return pa.table({"number": [number], "result": column})


def _brick_table(reader: BrickReader, task: BrickTask) -> pa.Table:
    bricks = read_bricks(reader, task)
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
