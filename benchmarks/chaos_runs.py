"""A run that is killed again and again, and what its notes say of it afterwards."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.chaos_cluster import ClusterProcess, environment
from benchmarks.chaos_processes import is_alive, kill
from benchmarks.chaos_record import HOLD, RankLog, fingerprints, open_reads, rank_logs
from cvmae.batches.bricks import iterate_steps, stream_bricks
from cvmae.config import Config
from cvmae.meds.dataset import open_dataset
from cvmae.statistics.fitted import FittedData, TrainingData
from cvmae.train.streams import make_plan

__all__ = ["KINDS", "Kill", "Lineage", "Watched", "draw_kills", "expected_steps", "lineage"]

Words = npt.NDArray[np.uint64]

KINDS = ("training worker", "data worker", "node", "driver", "checkpoint")
MARGIN = 0.06  # share of the steps at either end of a run that kills stay away from
WAIT_S = 600.0  # for a run to come to a step: a new group of workers takes half a minute when idle


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What is killed, and when: at the first moment from a step on at which there is one."""

    kind: str
    step: int
    draw: float  # chooses among several: a share of them


def draw_kills(rng: np.random.Generator, num_steps: int) -> list[Kill]:
    """Draw one kill of each kind, in random order and at random steps of a run."""
    kinds = list(rng.permutation(np.array(KINDS)))
    # The reads of the last epoch may be done before the last kill is due.
    if kinds[-1] == "data worker":
        kinds[-1], kinds[0] = kinds[0], kinds[-1]
    bounds = np.linspace(MARGIN * num_steps, (1 - MARGIN) * num_steps, len(kinds) + 1)
    steps = rng.uniform(bounds[:-1], bounds[1:])
    return [
        Kill(kind=str(kind), step=int(step), draw=float(rng.random()))
        for kind, step in zip(kinds, steps, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What the final weights have seen, by the notes of the ranks, against what they should."""

    num_repeated: int  # steps that were taken again after a kill
    num_lost: int  # sequences
    num_duplicated: int


def lineage(logs: Sequence[RankLog], expected: Mapping[int, Words]) -> Lineage:
    """Compare the sequences of each step, as the last group took it, with the plan's.

    Args:
        logs: Of all ranks of all groups of a run, in order of their groups.
        expected: Global step -> fingerprints of its sequences.
    """
    taken: dict[int, tuple[int, list[Words]]] = {}  # step -> the last group, its ranks' share
    again: set[tuple[int, int]] = set()
    for log in logs:
        for step, words in log.steps():
            group, shares = taken.get(step, (log.group, []))
            if group != log.group:
                again.add((step, log.group))
                shares = []
            taken[step] = (log.group, [*shares, words])
    lost = duplicated = 0
    for step in expected.keys() | taken.keys():
        should = Counter(expected.get(step, np.empty(0, np.uint64)).tolist())
        _, shares = taken.get(step, (0, []))
        did = Counter(word for words in shares for word in words.tolist())
        lost += (should - did).total()
        duplicated += (did - should).total()
    return Lineage(num_repeated=len(again), num_lost=lost, num_duplicated=duplicated)


def expected_steps(config: Config, statistics: Path) -> dict[int, Words]:
    """Return the sequences of every step of a run, from the plain generator in this process."""
    plan = make_plan(
        config,
        TrainingData(
            source=open_dataset(config.data.root).source, fitted=FittedData.read(statistics)
        ),
    )
    steps: dict[int, Words] = {}
    for epoch in range(config.train.epochs):
        bricks = stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=epoch)
        for (batch,) in iterate_steps(bricks, lanes=config.data.lanes):
            steps[len(steps)] = fingerprints(batch)
    return steps


class Watched:
    """One run on the cluster, whose driver, ranks and reads can be found and killed."""

    def __init__(
        self, folder: Path, flags: Sequence[str], cluster: ClusterProcess, num_nodes: int
    ) -> None:
        """Start the driver; `flags` are those of jobs/pretrain.py but for the run's folder."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder, self._flags, self._cluster, self._num_nodes = folder, flags, cluster, num_nodes
        self._notes = folder.with_name(f"{folder.name}_notes")
        self._notes.mkdir()
        self.driver = self._start([*flags, "--output_dir", str(folder)])

    def logs(self) -> list[RankLog]:
        """Return the notes of all ranks so far."""
        return rank_logs(self._notes) if (self._notes / "ranks").is_dir() else []

    def step(self) -> int:
        """Return the last global step that the present group has begun, -1 before its first."""
        return max((step for log in self.group() for step, _ in log.steps()), default=-1)

    def group(self) -> list[RankLog]:
        """Return the notes of the ranks of the last group, by rank."""
        logs = self.logs()
        return [log for log in logs if log.group == logs[-1].group]

    @contextmanager
    def held_at(self, step: int) -> Iterator[None]:
        """Let the ranks wait at a step, so that what should happen meanwhile has the time."""
        hold = self._notes / HOLD
        aside = hold.with_suffix(".aside")
        aside.write_text(str(step), encoding="ascii")
        aside.rename(hold)  # ranks never see half of it
        try:
            yield
        finally:
            hold.unlink()

    def finish(self) -> None:
        """Wait for the driver's end.

        Raises:
            ChildProcessError: The run failed; the message ends with what it said last.
        """
        self.driver.wait()
        if self.driver.returncode:
            raise ChildProcessError(
                f"{self.folder.name} ended with code {self.driver.returncode}: {self.said()}"
            )

    def said(self) -> str:
        """Return the driver's last words."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([line for line in lines if line and "state-dump" not in line][-20:])

    def abandon(self) -> None:
        """Kill the driver of a run that is given up; its workers end with it."""
        self.driver.kill()
        self.driver.wait()

    def suffer(self, planned: Kill) -> tuple[int, float]:
        """Kill what is planned, when it is time, and wait until the run has come further.

        Returns:
            The step at which the run was, and the seconds until it took the next new one.

        Raises:
            ChildProcessError: The run ended before.
            TimeoutError: It did not come to the step, or what should be killed never showed.
        """
        self.wait_until(lambda: self.step() >= planned.step)
        match planned.kind:
            case "training worker":
                self.wait_until(lambda: kill(self._rank(planned.draw)), 0.01)
            case "data worker":
                self.wait_until(lambda: any(map(kill, open_reads(self._notes))), 0.001)
            case "node":
                self._cluster.lose(int(planned.draw * self._num_nodes))
            case "checkpoint":
                before = self._begun_checkpoints()
                self.wait_until(lambda: self._kill_writer(before), 0.001)
            case "driver":
                self.driver.kill()
        step, killed_s = self.step(), time.monotonic()
        if planned.kind == "node":
            self._cluster.add()
        if planned.kind == "driver":
            self.resume()
            step = self.step()  # its workers came so far before they noticed
        # The rank that was not killed may have begun the next step.
        self.wait_until(lambda: self.step() > step + 1)
        return step, time.monotonic() - killed_s

    def resume(self, *flags: str) -> None:
        """Start a driver that goes on, when all workers of the one before have ended."""
        self.driver.wait()
        workers = [log.pid for log in self.logs()]
        deadline = time.monotonic() + WAIT_S
        while any(map(is_alive, workers)):  # they notice that the driver is gone
            if time.monotonic() > deadline:
                raise TimeoutError(f"the workers of {self.folder.name} outlive their driver")
            time.sleep(0.05)
        self.driver = self._start(["--resume", str(self.folder), *flags])

    def _kill_writer(self, before: set[str]) -> bool:
        """Kill rank 0 while it writes a checkpoint; tell whether it was in the middle of it."""
        if not (begun := self._begun_checkpoints() - before):
            return False
        pid = self._rank(0.0)
        kill(pid)
        while is_alive(pid):
            time.sleep(0.001)
        return bool(begun & self._begun_checkpoints())

    def _begun_checkpoints(self) -> set[str]:
        names = os.listdir(self.folder / "checkpoints")
        return {name for name in names if name.startswith(".writing_")}

    def _rank(self, draw: float) -> int:
        group = self.group()
        return group[int(draw * len(group))].pid

    def wait_until(self, happens: Callable[[], bool], pause_s: float = 0.02) -> None:
        """Wait for something; see `suffer` for what is raised."""
        deadline = time.monotonic() + WAIT_S
        while not happens():
            if self.driver.poll() is not None:
                self.finish()
                raise ChildProcessError(f"{self.folder.name} ended before a kill was due")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.folder.name} stands still at step {self.step()}")
            time.sleep(pause_s)

    @property
    def _log(self) -> Path:
        return self._notes / "driver.log"

    def _start(self, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
        code = "from benchmarks.chaos_record import main; main()"
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", code, str(self._notes), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(RAY_ADDRESS=self._cluster.address),
                start_new_session=True,  # Ctrl-C is for the suite
            )
