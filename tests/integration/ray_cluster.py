"""Several Ray nodes on one machine, of which one can be lost, and a record of what they read."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cvmae.batches import on_ray as stream

# Read tasks run what is defined here; their processes need not find this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@contextmanager
def cluster_of(
    num_nodes: int, num_cpus: int = 2, labels: Sequence[dict[str, str]] = ()
) -> Iterator[Cluster]:
    """Start a head without CPUs, to which this process connects, and nodes that do the work.

    Nodes have labels where some are given, one set each.
    """
    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        # A node that is lost is missed after seconds.
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("RAY_health_check_timeout_ms", "3000")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        patch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        patch.delenv("RAY_ADDRESS", raising=False)
        head = {"num_cpus": 0, "object_store_memory": 256 << 20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for own in labels or [{}] * num_nodes:
                add_node(cluster, num_cpus, own)
            ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def add_node(cluster: Cluster, num_cpus: int = 2, labels: dict[str, str] | None = None) -> Any:
    return cluster.add_node(num_cpus=num_cpus, object_store_memory=256 << 20, labels=labels or None)


def start_processes(node: Any, num_cpus: int = 2) -> None:
    """Wait until a new node has a process for each of its CPUs."""
    strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    pause: Any = ray.remote(num_cpus=1, scheduling_strategy=strategy)(_pause)
    ray.get([pause.remote() for _ in range(num_cpus)])


def _pause() -> None:
    time.sleep(1.0)  # so that the tasks do not share a process


@dataclass(frozen=True, order=True)
class Read:
    """A read task as one process has taken it up."""

    number: int  # of the superstep
    lanes: tuple[int, ...]
    pid: int
    node_id: str
    is_finished: bool


class Watch:
    """Notes the begin and the end of every read task, whichever process reads it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, pause_s: float = 0.0) -> None:
        self._folder = folder
        folder.mkdir()
        read = partial(_noted, folder, pause_s, stream._brick_table)
        patch.setattr(stream, "_brick_table", read)

    def reads(self) -> list[Read]:
        """Return what has been taken up so far, in the order of the plan."""
        found = []
        for path in self._folder.iterdir():
            number, lanes, pid, node_id, _, *end = path.name.split("_")
            own = tuple(map(int, lanes.split(".")))
            found.append(Read(int(number), own, int(pid), node_id, bool(end)))
        return sorted(found)


def _noted(folder: Path, pause_s: float, brick_table: Any, reader: Any, task: Any) -> Any:
    node_id = ray.get_runtime_context().get_node_id()
    lanes = ".".join(map(str, task.lanes))
    note = folder / f"{task.number}_{lanes}_{os.getpid()}_{node_id}_{time.monotonic_ns()}"
    note.touch()
    time.sleep(pause_s)
    table = brick_table(reader, task)
    note.rename(f"{note}_end")
    return table
