"""What ranks train on and which processes read, noted in files that outlive a kill.

A driver that is started through `main` has its ranks and its reads note what they do; for all
else it is the verb `pretrain`, and nothing in it knows that it is watched.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cvmae.batches.batch import Batch
from cvmae.command_line import run_job
from cvmae.runtime.ranks import rank, sum_over_ranks, world_size
from cvmae.train import loop
from cvmae.train.pretrain import pretrain

__all__ = ["HOLD", "RankLog", "fingerprints", "main", "open_reads", "rank_logs", "record_to"]

Words = npt.NDArray[np.uint64]

RANKS, READS = "ranks", "reads"
HOLD = "hold"  # a file with the step at which ranks wait for as long as it is there


@dataclass(frozen=True, order=True)
class RankLog:
    """The file of one rank of one group of workers; later groups sort behind."""

    group: int
    world: int
    rank: int
    pid: int
    path: Path

    def steps(self) -> Iterator[tuple[int, Words]]:
        """Yield each global step that was taken and the fingerprints of its sequences."""
        words = np.fromfile(self.path, np.uint64, count=self.path.stat().st_size // 8)
        place = 0
        while place + 2 <= len(words):
            step, count = int(words[place]), int(words[place + 1])
            place += 2 + count
            if place <= len(words):
                yield step, words[place - count : place]


def rank_logs(folder: Path) -> list[RankLog]:
    """Return the files of all ranks that have begun so far, in order of their groups."""
    found = []
    for path in (folder / RANKS).iterdir():
        group, world, number, pid = map(int, path.name.split("_"))
        found.append(RankLog(group, world, number, pid, path))
    return sorted(found)


def open_reads(folder: Path) -> list[int]:
    """Return the processes that are reading, or that ended in the middle of a read."""
    return [int(name.partition("_")[0]) for name in os.listdir(folder / READS)]


def fingerprints(batch: Batch) -> Words:
    """Return 64 bits for each sequence: its codes, times, values and which of them are hidden.

    Two sequences share one by chance only; no subject can be told from it.
    """
    if batch.num_sequences == 0:
        return np.empty(0, np.uint64)
    code_N = batch.code_index_N.cpu().numpy().astype(np.uint64)
    hours_N, value_N = (
        column.cpu().numpy().view(np.uint32).astype(np.uint64)
        for column in (batch.hours_N, batch.value_N)
    )
    hidden_N = np.zeros(batch.num_measurements, np.uint64)
    hidden_N[batch.hidden_M.cpu().numpy()] = 1
    word_N = (value_N << np.uint64(32) | hours_N) * np.uint64(0x9E3779B97F4A7C15)
    word_N ^= (code_N << np.uint64(1) | hidden_N) * np.uint64(0xBF58476D1CE4E5B9)
    word_N ^= word_N >> np.uint64(31)
    word_N *= np.uint64(0x94D049BB133111EB)  # the rounds of splitmix64
    word_N ^= word_N >> np.uint64(29)
    return np.add.reduceat(word_N, batch.offsets_B[:-1].cpu().numpy())


def record_to(folder: Path) -> None:
    """Let ranks and reads that this driver starts write notes below a folder."""
    from cvmae.batches import on_ray as stream
    from cvmae.train import workers

    for name in (RANKS, READS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    replaced: Any = partial(_recorded_work, folder / RANKS, workers._work)
    setattr(workers, "_work", replaced)  # noqa: B010  # no method of ours, says mypy
    replaced = partial(_recorded_read, folder / READS, stream._brick_table)
    setattr(stream, "_brick_table", replaced)  # noqa: B010


def main() -> None:
    """Pretrain with notes below the first argument; the others are those of the job."""
    record_to(Path(sys.argv.pop(1)))
    run_job(pretrain, resumes=True)


def _recorded_work(folder: Path, work: Callable[[Any], Any], job: Any) -> Any:
    loop_of_rank: Any = loop
    make = loop_of_rank.make_engine
    # All ranks of a group carry the time at which its rank 0 began.
    began = np.array([time.time_ns() // 1000 if rank() == 0 else 0])
    (group,) = sum_over_ranks(began, torch.device("cpu"))
    path = folder / f"{int(group)}_{world_size()}_{rank()}_{os.getpid()}"
    path.touch()

    def make_recorded(*args: Any, **kwargs: Any) -> Any:
        engine: Any = make(*args, **kwargs)
        engine.step = partial(_recorded_step, path, engine.step)
        return engine

    loop_of_rank.make_engine = make_recorded
    return work(job)


def _recorded_step(
    path: Path, take: Callable[..., Any], micro_batches: Sequence[Batch], global_step: int
) -> Any:
    seen = np.concatenate([fingerprints(batch) for batch in micro_batches])
    head = np.array([global_step, len(seen)], np.uint64)
    with path.open("ab", buffering=0) as file:
        file.write(np.concatenate([head, seen]).tobytes())
    with suppress(FileNotFoundError):  # until it is taken away
        while global_step >= int(path.parent.with_name(HOLD).read_text(encoding="ascii")):
            time.sleep(0.05)
    return take(micro_batches, global_step)


def _recorded_read(folder: Path, read: Callable[..., Any], reader: Any, task: Any) -> Any:
    note = folder / f"{os.getpid()}_{time.time_ns()}"
    note.touch()
    table = read(reader, task)
    note.unlink()
    return table
