"""A pool of Ray actors, each of which prepares once and then works off units."""

import pickle
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
import ray.data

from cvmae.runtime.ray_hooks import drop_note, has_note, put_note
from cvmae.runtime.ray_tasks import ERROR, in_order, task_tables
from cvmae.settings import ScalingConfig

__all__ = ["map_on_actors"]

Item = TypeVar("Item")
Result = TypeVar("Result")
MAX_ATTEMPTS = 3  # at one unit


def map_on_actors(
    setup: Callable[[], Callable[[Item], Result]], items: Sequence[Item], scaling: ScalingConfig
) -> Iterator[Result]:
    """Yield ``setup()(item)`` in order, each computed by one of `scaling.num_workers` actors.

    Raises:
        ValueError: As the function did; likewise OSError, such as FileNotFoundError.
        ChildProcessError: One item took its process down `MAX_ATTEMPTS` times.
    """
    rows = [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
    worker: Any = _Worker  # made with the arguments below
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        worker,
        fn_constructor_args=(ray.put(setup), uuid.uuid4().hex),
        compute=ray.data.ActorPoolStrategy(size=min(scaling.num_workers, len(items))),
        num_cpus=scaling.cpus_per_worker,
        num_gpus=1 if scaling.use_gpu else None,
    )
    yield from in_order(task_tables(dataset, dataset.context), len(items))


class _Worker:
    """An actor's state: what the setup gave."""

    def __init__(self, setup: Any, job: str) -> None:
        self._function: Callable[[Any], Any] = ray.get(setup)()
        self._job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["number"])
        try:
            attempt = self._begin(number)
            result = self._function(pickle.loads(row["item"]))
        except (ValueError, OSError) as error:
            # Of the user's making: it travels as a block, since Ray would wrap it in a traceback.
            return {ERROR: pickle.dumps(error.with_traceback(None))}
        for past in range(attempt + 1):
            drop_note(self._note(number, past))
        return {"number": number, "result": pickle.dumps(result)}

    def _begin(self, number: int) -> int:
        """Count an attempt at an item, by notes: in an actor Ray's own count stays at 0.

        Ray Data would repeat for ever what kills its process; and to bound the restarts of an
        actor would end a long job on nodes that come and go.
        """
        attempt = 0
        while has_note(self._note(number, attempt)):
            attempt += 1
        if attempt >= MAX_ATTEMPTS:
            raise ChildProcessError(
                f"unit {number} (from 0) took the process that worked on it down {attempt} times: "
                "give Ray's nodes more memory or lower data.unit_rows; or a damaged file crashes "
                "the reader: check the data with jobs/validate.py; or nodes were lost"
            )
        put_note(self._note(number, attempt))
        return attempt

    def _note(self, number: int, attempt: int) -> str:
        return f"cvmae_attempt_{self._job}_{number}_{attempt}"
