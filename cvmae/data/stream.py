"""The only Ray Data file: bricks for this rank, and a function over units.

Ray Data schedules reads, reads ahead with back-pressure and retries lost tasks; it never sees
a row. One read task yields one block; a row of it is one brick. `preserve_order` and one block
a task make the order of bricks that of the plan, which every rank checks as it reads.
"""

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import Datasource, ReadTask
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
ERROR = "error"  # the column of a block that is one
MAX_ATTEMPTS = 5  # at one task
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
        # Put once: with 10,000 codes a reader is a megabyte, of which each task would hold a copy.
        shared = ray.put(reader)
        for task in plan_tasks(order, units, epoch, step, rank, world):
            yield partial(_brick_table, shared, task)

    return _dataset(plan)


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
    for table in _tables(shard, context):
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


def map_on_ray(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield ``function(item)`` in order, each computed by one Ray Data task.

    Raises:
        ValueError: As the function did; likewise FileNotFoundError.
        ChildProcessError: One task lost its process or node again and again.
    """

    def plan(_: Cursor) -> Iterator[Callable[[], pa.Table]]:
        shared = ray.put(function)
        for number, item in enumerate(items):
            yield partial(_result_table, shared, item, number)

    dataset = _dataset(plan)
    expected = 0
    for table in _tables(dataset, dataset.context):
        if table["number"][0].as_py() != expected:
            raise RuntimeError(f"result {table['number'][0]} came where {expected} was next")
        expected += 1
        yield pickle.loads(table["result"][0].as_py())
    if expected != len(items):
        raise RuntimeError(f"{expected} of {len(items)} results came back from Ray Data")


def _dataset(plan: Callable[[Cursor], Iterable[Callable[[], pa.Table]]]) -> ray.data.Dataset:
    dataset: ray.data.Dataset = ray.data.read_datasource(
        _OneBlockPerTask(plan), override_num_blocks=1
    )
    return dataset


def _tables(data: Any, context: Any) -> Iterator[pa.Table]:
    """Yield the rows of all blocks, in the order of the tasks, as tables of one row each."""
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # never merge the blocks of two tasks
    for table in data.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=2):
        if ERROR in table.column_names:
            raise pickle.loads(table[ERROR][0].as_py())  # made by our own task a moment ago
        yield table


def _one_block(task: Callable[[], pa.Table]) -> list[pa.Table]:
    try:
        _require_few_attempts()
        return [task()]
    except (ValueError, FileNotFoundError, ChildProcessError) as error:
        # Of the user's making: it travels as a block, since Ray would wrap it in a traceback.
        column = pa.array([pickle.dumps(error.with_traceback(None))], pa.large_binary())
        return [pa.table({ERROR: column})]


def _require_few_attempts() -> None:
    # Ray Data would repeat for ever a task that kills its process or node. The number of the
    # attempt is not in Ray's public interface.
    worker: Any = ray._private.worker.global_worker
    attempt = worker.core_worker.get_current_task_attempt_number()
    if attempt >= MAX_ATTEMPTS:
        raise ChildProcessError(
            f"the processes that read data were lost {attempt} times at the same task: give Ray's "
            "nodes more memory or lower data.unit_rows; or a damaged file crashes the reader: "
            "check the data with jobs/validate.py"
        )


def _result_table(
    function: "ray.ObjectRef[Callable[[Item], Result]]", item: Item, number: int
) -> pa.Table:
    column = pa.array([pickle.dumps(ray.get(function)(item))], pa.large_binary())
    return pa.table({"number": [number], "result": column})


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
