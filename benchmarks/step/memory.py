"""A real run of a few steps of a model of a hundred million parameters, and what it takes."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.clock import progress
from benchmarks.processes import in_fresh_process, peak_memory
from benchmarks.rows import Row
from benchmarks.step.batches import NUM_CODES, draw_steps, to_batch
from benchmarks.step.model import CPU, one_thread, paper_config
from cvmae.config import Config
from cvmae.model.vomae import build_model
from cvmae.runtime.logs import setup_logging
from cvmae.train.make_engine import make_engine

__all__ = ["LargeRun", "large_config", "memory_rows", "run_large"]

NUM_STEPS = 5
STEP_MEASUREMENTS = 1024
BYTES_A_PARAMETER = 16  # weight, gradient, two moments, in float32


@dataclass(frozen=True, kw_only=True)
class LargeRun:
    """What a few steps gave."""

    num_parameters: int
    losses: tuple[float, ...]  # mean error of each step
    peak_bytes: int
    before_bytes: int  # of the process without the model
    seconds_a_step: float


def memory_rows(folder: Path, num_rows: int, rounds: int) -> Iterator[Row]:
    """Take five steps of a model of a hundred million parameters in a process of its own."""
    config = large_config()
    progress("memory: %d steps of width %d", NUM_STEPS, config.model.width)
    yield from large_rows(in_fresh_process(run_large, config))


def large_config() -> Config:
    """Return preset paper at a hundred million parameters, activations computed again."""
    config = paper_config()
    model = replace(config.model, width=768, num_layers=12, num_heads=12, num_decoder_layers=2)
    train = replace(config.train, activation_checkpointing=True)
    # The first updates of Adam are as large as any: a run warms up to the published rate.
    optim = replace(config.optim, lr=3e-6)
    return replace(config, model=model, train=train, optim=optim)


def run_large(config: Config) -> LargeRun:
    """Take steps on one batch, so that the errors of any two can be compared."""
    setup_logging()
    one_thread()
    before = peak_memory()
    model = build_model(config.model, NUM_CODES, config.seed)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    engine = make_engine(model, config, device=CPU, total_steps=NUM_STEPS)
    (step,) = itertools.islice(draw_steps(STEP_MEASUREMENTS, seed=3), 1)
    batch = to_batch(step, seed=3)
    losses, begin = [], time.process_time()
    for number in range(NUM_STEPS):
        error, count = engine.step([batch], number)
        losses.append(error.item() / count.item())
        progress("memory: step %d, loss %.4f", number + 1, losses[-1])
    return LargeRun(
        num_parameters=num_parameters,
        losses=tuple(losses),
        peak_bytes=peak_memory(),
        before_bytes=before,
        seconds_a_step=(time.process_time() - begin) / NUM_STEPS,
    )


def large_rows(run: LargeRun) -> Iterator[Row]:
    """Yield size, fall of the loss and memory."""
    shown = ", ".join(f"{loss:.4f}" for loss in run.losses)
    name = f"memory: {len(run.losses)} steps, activations computed again"
    model = f"{run.num_parameters / 1e6:.1f} M parameters"
    yield Row(
        suite="step",
        name=f"{name}, parameters",
        value=run.num_parameters / 1e6,
        unit="M",
        goal=95,
        sense=">=",
    )
    yield Row(
        suite="step",
        name=f"{name}, last loss over the first",
        value=run.losses[-1] / run.losses[0],
        goal=0.99,
        note=f"losses {shown}, of one batch of {STEP_MEASUREMENTS} measurements or so; {model}",
    )
    state = BYTES_A_PARAMETER * run.num_parameters
    yield Row(
        suite="step",
        name=f"{name}, peak memory",
        value=run.peak_bytes / 2**30,
        unit="GiB",
        note=(
            f"{state / 2**30:.2f} GiB of weights, gradients and moments ({BYTES_A_PARAMETER} "
            f"bytes a parameter), {run.before_bytes / 2**30:.2f} GiB before there was a model"
        ),
    )
    yield Row(suite="step", name=f"{name}, CPU a step", value=run.seconds_a_step, unit="s")
