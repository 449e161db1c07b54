"""A pool of Ray actors, each of which prepares once and then works off units."""

import pickle
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
import ray.data

from cvmae.runtime.nodes import selector
from cvmae.runtime.ray_hooks import drop_note, drop_notes, has_note, put_note
from cvmae.runtime.ray_tasks import ERROR, in_order, task_tables
from cvmae.runtime.tables import counted
from cvmae.settings import ScalingConfig

__all__ = ["map_on_actors"]

Item = TypeVar("Item")
Result = TypeVar("Result")
MAX_ATTEMPTS = 3  # at one unit
UNDER_WAY = "under_way"  # a note: as long as it is there, somebody asks for results


def map_on_actors(
    setup: Callable[[], Callable[[Item], Result]], items: Sequence[Item], scaling: ScalingConfig
) -> Iterator[Result]:
    """Yield ``setup()(item)`` in order, each computed by one of `scaling.num_workers` actors.

    Raises:
        ValueError: As the setup or the function did; likewise OSError, such as FileNotFoundError.
        ChildProcessError: One item took its process down `MAX_ATTEMPTS` times, or the setup did,
            or the setup failed otherwise.
    """
    rows = [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
    worker: Any = _Worker  # made with the arguments below
    notes = f"cvmae_attempt_{uuid.uuid4().hex}_"
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        worker,
        fn_constructor_args=(ray.put(setup), notes),
        compute=ray.data.ActorPoolStrategy(size=min(scaling.num_workers, len(items))),
        num_cpus=scaling.cpus_per_worker,
        num_gpus=1 if scaling.use_gpu else None,
    )
    # Of the whole data set: labels of its own would be added to these, and no node may have both.
    dataset.context.execution_options.label_selector = selector(scaling.worker_labels)
    put_note(f"{notes}{UNDER_WAY}")
    try:
        yield from in_order(task_tables(dataset, dataset.context), len(items))
    finally:  # actors end some time later, but begin to leave none without the first of them
        drop_note(f"{notes}{UNDER_WAY}")
        drop_notes(notes)


class _Worker:
    """An actor's state: what the setup gives, asked for with the first item.

    In a constructor, Ray would repeat for ever what kills the process, and wrap what fails in a
    traceback.
    """

    def __init__(self, setup: Any, notes: str) -> None:
        self._setup, self._notes = setup, notes
        self._function: Callable[[Any], Any] | None = None
        self._unready: Exception | None = None  # why there is none; another try would take as long

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["number"])
        attempt = -1  # of which no note is left
        try:
            attempt = self._begin(number)
            function = self._function = self._function or self._prepared(number)
            result = function(pickle.loads(row["item"]))
        except (ValueError, OSError) as error:
            # Of the user's making: it travels as a block, since Ray would wrap it in a traceback.
            return {ERROR: pickle.dumps(error.with_traceback(None))}
        finally:  # a note that stays says that the process died
            for past in range(attempt + 1):
                drop_note(self._note(number, past))
        return {"number": number, "result": pickle.dumps(result)}

    def _prepared(self, number: int) -> Callable[[Any], Any]:
        if self._unready:
            raise self._unready
        self._leave(self._preparing(number))
        try:
            function: Callable[[Any], Any] = ray.get(self._setup)()
        except (ValueError, OSError) as error:
            self._unready = error
            raise
        except Exception as error:
            told = str(error).strip().partition("\n")[0]
            self._unready = ChildProcessError(
                f"a process could not make ready for its units ({type(error).__name__}: {told}): "
                "where memory of a node or GPU is short, lower scaling.num_workers or give more of "
                "it; all nodes need the same packages"
            )
            raise self._unready from None
        finally:
            drop_note(self._preparing(number))
        return function

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
                f"the process that was to work on unit {number} (from 0) ended "
                f"{counted(attempt, 'time')}, "
                "the last time before it was ready, while it loaded what it needs, such as the "
                "model: give Ray's nodes more memory or lower scaling.num_workers; or nodes were "
                "lost"
                if has_note(self._preparing(number))
                else f"unit {number} (from 0) took the process that worked on it down {attempt} "
                "times: give Ray's nodes more memory or lower data.unit_rows; or a damaged file "
                "crashes the reader: check the data with jobs/validate.py; or nodes were lost"
            )
        self._leave(self._note(number, attempt))
        return attempt

    def _leave(self, note: str) -> None:
        if has_note(f"{self._notes}{UNDER_WAY}"):  # else nobody is there to take it away
            put_note(note)

    def _note(self, number: int, attempt: int) -> str:
        return f"{self._notes}{number}_{attempt}"

    def _preparing(self, number: int) -> str:
        return f"{self._notes}{number}_preparing"
