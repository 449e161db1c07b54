"""Two ranks on this machine (gloo): CPU time of a step of DDP over the same step without it."""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from benchmarks.clock import cpu_seconds, median_ratio, progress
from benchmarks.rows import Row
from benchmarks.step.batches import draw_steps, to_batch
from benchmarks.step.model import cpu_engine, one_thread, paper_config

__all__ = ["overhead_row", "rank_rows"]

NUM_RANKS = 2
STEP_MEASUREMENTS = 2048  # of a rank

# CPU seconds of a rank's steps: (alone, with the other rank), round after round
Times = list[tuple[float, float]]


def rank_rows(folder: Path, num_rows: int, rounds: int) -> Iterator[Row]:
    """Measure steps of two ranks, each alone and together."""
    progress("ranks: %d ranks, %d rounds", NUM_RANKS, rounds)
    with tempfile.TemporaryDirectory(prefix="cvmae-") as scratch:
        spawn(_rank, (Path(scratch), rounds), nprocs=NUM_RANKS)
        times = [torch.load(Path(scratch) / f"rank_{number}") for number in range(NUM_RANKS)]
    yield overhead_row(times)


def overhead_row(times_of: Sequence[Times]) -> Row:
    """Return the ratio of CPU time, ranks added up, as the median over rounds."""
    alone, together = (
        [sum(times[part] for times in a_round) for a_round in zip(*times_of, strict=True)]
        for part in (0, 1)
    )
    return Row(
        suite="step",
        name=f"ranks: step of DDP on {NUM_RANKS} gloo ranks over the same without, CPU",
        value=median_ratio(together, alone),
        unit="x",
        goal=1.10,
        note=f"{STEP_MEASUREMENTS} measurements a rank and step, CPU time of both ranks",
    )


def _rank(number: int, folder: Path, rounds: int) -> None:
    one_thread()
    # Before there is a group: nothing is exchanged, neither gradients nor counts.
    alone = _step_seconds(number, rounds)
    dist.init_process_group("gloo", f"file://{folder}/ranks", rank=number, world_size=NUM_RANKS)
    try:
        together = _step_seconds(number, rounds)
    finally:
        dist.destroy_process_group()
    torch.save(list(zip(alone, together, strict=True)), folder / f"rank_{number}")


def _step_seconds(number: int, rounds: int) -> list[float]:
    """Return CPU seconds of steps on the same batches, the first apart."""
    engine = cpu_engine(paper_config())
    draws = draw_steps(STEP_MEASUREMENTS, seed=2 + number)
    seconds = [
        cpu_seconds(partial(engine.step, [to_batch(sequences, seed=step)], step))
        for step, sequences in zip(range(rounds + 1), draws, strict=False)
    ]
    return seconds[1:]
