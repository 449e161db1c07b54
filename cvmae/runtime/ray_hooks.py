"""What Ray has no public way for: every private name of it that is used here, one function each.

An upgrade of Ray that takes one away is noticed by the test that exercises each of them.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray

__all__ = [
    "drain_node",
    "drop_note",
    "drop_notes",
    "has_note",
    "own_ray_named",
    "put_note",
    "quiet_exit",
    "quiet_report_callback",
    "task_attempt",
    "trial_actor",
]


def put_note(name: str) -> None:
    """Leave a note that every process of the cluster can see at once.

    The cluster's key-value store is neither a process of its own that could die, nor a file that
    a shared file system shows to another node half a minute later.
    """
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(name, b"1")


def has_note(name: str) -> bool:
    """Tell whether a note has been left."""
    from ray.experimental import internal_kv

    return bool(internal_kv._internal_kv_exists(name))


def drop_note(name: str) -> None:
    """Take a note away, if it is there; where Ray is out of reach, it went with the cluster."""
    from ray.experimental import internal_kv

    with suppress(Exception):  # of its transport, of Ray, or of a client that is gone
        internal_kv._internal_kv_del(name)


def drop_notes(beginning: str) -> None:
    """Take all notes away whose names begin so; see `drop_note`."""
    from ray.experimental import internal_kv

    with suppress(Exception):
        internal_kv._internal_kv_del(beginning, del_by_prefix=True)


def task_attempt() -> int:
    """Return how often the task that this process runs was begun before."""
    worker: Any = ray._private.worker.global_worker
    return int(worker.core_worker.get_current_task_attempt_number())


def quiet_report_callback() -> Any:
    """Return what hands each report of Ray Train to the trial of Ray Tune that this process is.

    Its queue is an actor, which ends with the trial. Where a busy node lets it wait for that until
    its job is over too, Ray's signal meets Python on its way out, and what is then "ignored" would
    stand in the sweep's output as a traceback.

    Raises:
        RuntimeError: This process is no trial.
    """
    from ray.tune.integration.ray_train import TuneReportCallback

    callback = TuneReportCallback()
    callback._training_actor_item_queue.actor.__ray_call__.remote(quiet_exit)
    return callback


def quiet_exit(actor: Any = None) -> None:
    """Let this process, whose work is done, say nothing of exceptions that are ignored."""
    sys.unraisablehook = lambda unraisable: None


def trial_actor(trial: Any) -> Any:
    """Return the actor in which a trial of Tune runs, None where it has none now."""
    return trial.temporary_state.ray_actor


def drain_node(address: str, node_id: str, seconds: int) -> None:
    """Tell a cluster that a node will be taken away, as a cloud does before it takes one back.

    The command `ray drain-node` does so; it is no public one either.

    Args:
        address: Of the cluster.
        node_id: Of the node, in hexadecimal digits.
        seconds: Until it goes.
    """
    import ray._raylet
    from ray.core.generated import autoscaler_pb2

    gcs: Any = ray._raylet
    reason: Any = autoscaler_pb2
    deadline_ms = int((time.time() + seconds) * 1000)
    gcs.GcsClient(address=address).drain_node(
        node_id, reason.DRAIN_NODE_REASON_PREEMPTION, "preemption", deadline_ms
    )


@contextmanager
def own_ray_named() -> Iterator[None]:
    """Let the controllers that Ray Train starts meanwhile know which Ray they belong to.

    What gives back the CPUs of a controller that has died asks Ray's dashboard, for which it looks
    around on the machine: where there are two Rays it fails, and the CPUs are lost to all trials
    that follow. It looks into RAY_ADDRESS first, which Ray Train hands on if it is told to.
    """
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    was_handed_on = "RAY_ADDRESS" in ENV_VARS_TO_PROPAGATE
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_ADDRESS"]
        else:
            os.environ["RAY_ADDRESS"] = before
        if not was_handed_on:
            ENV_VARS_TO_PROPAGATE.discard("RAY_ADDRESS")
