"""The loop in Ray Train beside the same loop in a process without Ray, at steady state."""

import os
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.clock import median_ratio, progress
from benchmarks.hospitals import synthetic_hospital
from benchmarks.processes import in_fresh_process
from benchmarks.rows import Row
from cvmae.checkpoint import find_checkpoint, read_progress
from cvmae.config import PRESETS, Config
from cvmae.runtime.logs import setup_logging
from cvmae.train.pretrain import pretrain

__all__ = ["loop_config", "ray_overhead_rows", "ray_step_rows"]

NUM_ROWS = 200_000  # of the hospital: an epoch takes seconds
EPOCHS = 5
MOST_ROUNDS = 2

# Metrics of an epoch, over its steps: CPU of the thread that trains is the same on a busy machine,
# and has the goal; time by the clock is what a user waits.
CPU_METRIC, WALL_METRIC = "step_cpu_ms_median", "step_ms_median"

History = Sequence[Mapping[str, float]]  # metrics of each epoch


def ray_step_rows(folder: Path, num_rows: int, rounds: int) -> Iterator[Row]:
    """Let runs in process and in Ray Train take turns, each in a process of its own."""
    hospital = synthetic_hospital(folder, min(num_rows, NUM_ROWS))
    here: list[History] = []
    on_ray: list[History] = []
    for number in range(min(rounds, MOST_ROUNDS)):
        for workers, histories in ((0, here), (1, on_ray)):
            output = folder / f"step_run_{workers}"
            shutil.rmtree(output, ignore_errors=True)
            histories.append(in_fresh_process(run, loop_config(hospital, str(output), workers)))
            last = histories[-1][-1]
            progress(
                "ray: round %d, %s: %.1f ms a step, %.3g measurements/s",
                *(number + 1, "on Ray" if workers else "in process"),
                *(last[WALL_METRIC], last["measurements_per_s"]),
            )
    yield from ray_overhead_rows(here, on_ray)


def loop_config(root: str, output_dir: str, num_workers: int) -> Config:
    """Return preset small on this hospital: with one worker of Ray's, or none."""
    config = PRESETS["small"]
    return replace(
        config,
        output_dir=output_dir,
        data=replace(config.data, root=root),
        train=replace(config.train, epochs=EPOCHS),
        scaling=replace(config.scaling, num_workers=num_workers),
    )


def run(config: Config) -> History:
    """Pretrain; return what each epoch came to."""
    setup_logging()
    os.environ.pop("RAY_ADDRESS", None)  # a cluster has other work, and other machines
    return read_progress(find_checkpoint(pretrain(config))).history


def ray_overhead_rows(here: Sequence[History], on_ray: Sequence[History]) -> Iterator[Row]:
    """Yield what a step, and an epoch, costs more in Ray Train: medians of the steady epochs.

    Args:
        here: Histories of the runs in process, round after round.
        on_ray: Those of the runs in Ray Train.
    """
    names = {
        "CPU of a step, thread that trains": CPU_METRIC,
        "time of a step": WALL_METRIC,
        "time of an epoch": "train_s",
    }
    for label, metric in names.items():
        both = [_steady(history, metric) for history in here]
        ray = [_steady(history, metric) for history in on_ray]
        yield Row(
            suite="step",
            name=f"ray: loop in Ray Train over the same in process, {label}",
            value=median_ratio(ray, both),
            unit="x",
            goal=1.05 if metric == CPU_METRIC else None,
            note=(
                f"medians of steady epochs {_shown(ray, metric)} in Ray Train, "
                f"{_shown(both, metric)} in process; Ray reads data in processes of its own"
            ),
        )


def _steady(history: History, metric: str) -> float:
    """Return the median over epochs but the first, which starts everything."""
    return statistics.median(epoch[metric] for epoch in history[1:])


def _shown(values: Sequence[float], metric: str) -> str:
    unit = "s" if metric.endswith("_s") else "ms"
    return " and ".join(f"{value:.1f} {unit}" for value in values)
