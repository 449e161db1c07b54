"""Ray Data as a scheduler of tasks: each is a function that returns one table, one block.

Ray Data reads ahead with back-pressure and retries lost tasks; it never sees a row.
`preserve_order` and one block a task make the order of the tables that of the plan.
"""

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from cvmae.runtime.nodes import selector
from cvmae.runtime.ray_hooks import task_attempt
from cvmae.runtime.tables import counted

__all__ = ["CURSOR", "in_order", "map_on_ray", "task_dataset", "task_tables"]

# Importing ray.data has set it to report the plan and the end of every execution.
logging.getLogger("ray.data").setLevel(logging.WARNING)
# Each process would say once that it shows no progress bars, as it is told.
logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)

Item = TypeVar("Item")
Result = TypeVar("Result")
CURSOR = "cvmae_cursor"  # where a context holds what an execution is asked for
ERROR = "error"  # the column of a block that is one
MAX_ATTEMPTS = 5  # at one task


class _OneBlockPerTask(Datasource):
    """A data source whose read tasks are functions that return one table each."""

    def __init__(self, plan: Callable[[Any], Iterable[Callable[[], pa.Table]]]) -> None:
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
        tasks = self._plan(data_context.get_config(CURSOR))
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [
            ReadTask(partial(_one_block, task), unknown, per_task_row_limit=per_task_row_limit)
            for task in tasks
        ]


def map_on_ray(
    function: Callable[[Item], Result], items: Sequence[Item], labels: Sequence[str] = ()
) -> Iterator[Result]:
    """Yield ``function(item)`` in order, each computed by one Ray Data task.

    Args:
        function: See `map_units`.
        items: Likewise.
        labels: Of the nodes that tasks run on, each as KEY=VALUE.

    Raises:
        ValueError: As the function did; likewise FileNotFoundError.
        ChildProcessError: One task lost its process or node again and again.
    """

    def plan(_: None) -> Iterator[Callable[[], pa.Table]]:
        shared = ray.put(function)
        for number, item in enumerate(items):
            yield partial(_result_table, shared, item, number)

    dataset = task_dataset(plan)
    dataset.context.execution_options.label_selector = selector(labels)
    yield from in_order(task_tables(dataset, dataset.context), len(items))


def in_order(tables: Iterable[pa.Table], num_results: int) -> Iterator[Any]:
    """Yield the results that rows hold, and see that each comes when it is due."""
    expected = 0
    for table in tables:
        if table["number"][0].as_py() != expected:
            raise RuntimeError(f"result {table['number'][0]} came where {expected} was next")
        expected += 1
        yield pickle.loads(table["result"][0].as_py())
    if expected != num_results:
        raise RuntimeError(f"{expected} of {num_results} results came back from Ray Data")


def task_dataset(plan: Callable[[Any], Iterable[Callable[[], pa.Table]]]) -> ray.data.Dataset:
    """Return a data set that runs what the plan gives for the cursor in its context, if any."""
    dataset: ray.data.Dataset = ray.data.read_datasource(
        _OneBlockPerTask(plan), override_num_blocks=1
    )
    return dataset


def task_tables(data: Any, context: Any) -> Iterator[pa.Table]:
    """Yield the rows of all blocks, in the order of the tasks, as tables of one row each."""
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # never merge the blocks of two tasks
    tables = data.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=2)
    with closing(iter(tables)) as blocks:  # what is left ends with an error, not some time later
        for table in blocks:
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
    # Ray Data would repeat for ever a task that kills its process or node.
    if (attempt := task_attempt()) >= MAX_ATTEMPTS:
        raise ChildProcessError(
            f"the processes that read data were lost {counted(attempt, 'time')} at the same "
            "task: give Ray's "
            "nodes more memory or lower data.unit_rows; or a damaged file crashes the reader: "
            "check the data with jobs/validate.py"
        )


def _result_table(
    function: "ray.ObjectRef[Callable[[Item], Result]]", item: Item, number: int
) -> pa.Table:
    column = pa.array([pickle.dumps(ray.get(function)(item))], pa.large_binary())
    return pa.table({"number": [number], "result": column})
