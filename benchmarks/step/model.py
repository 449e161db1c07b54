"""A training step on one thread of a CPU, beside the fastest matrix product of the same thread."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from benchmarks.clock import cpu_seconds, median_ratio, progress
from benchmarks.rows import Row
from benchmarks.step.batches import NUM_CODES, Step, draw_steps, to_batch, to_padded
from cvmae.batches.batch import Batch
from cvmae.config import PRESETS, Config
from cvmae.model.flops import flops
from cvmae.model.vomae import build_model
from cvmae.runtime.memory import keep_memory
from cvmae.train.engine import Engine
from cvmae.train.make_engine import make_engine

__all__ = ["cpu_engine", "model_rows", "one_thread", "paper_config", "useful_flops"]

STEP_MEASUREMENTS = 4096
# Rows, inner and columns of the products whose fastest is the peak, and how many in a row: a
# third of a second each, since a single lucky one tells of no speed that could be kept up.
GEMMS = ((1024, 1024, 1024, 12), (2048, 1024, 1024, 6), (2048, 2048, 2048, 2))
CPU = torch.device("cpu")

Seconds = dict[str, list[float]]
EncoderInput = Literal["visible_only", "masked_value"]


def paper_config(encoder_input: EncoderInput = "visible_only") -> Config:
    """Return preset paper as it is measured: in float32, in this process."""
    config = PRESETS["paper"]
    return replace(
        config,
        model=replace(config.model, encoder_input=encoder_input),
        train=replace(config.train, precision="fp32"),
        scaling=replace(config.scaling, num_workers=0),
    )


def cpu_engine(config: Config) -> Engine:
    """Build model and optimiser as training does."""
    model = build_model(config.model, NUM_CODES, config.seed)
    return make_engine(model, config, device=CPU, total_steps=10_000)


def one_thread() -> None:
    """Set this process up as a rank of training is."""
    torch.set_num_threads(1)
    keep_memory()


def useful_flops(config: Config, step: Step) -> float:
    """Return the operations of a step on these sequences, padding apart."""
    visible_W = step.length_W - step.num_hidden_W
    return flops(config.model, visible_W, step.num_hidden_W)


def model_rows(folder: Path, num_rows: int, rounds: int) -> Iterator[Row]:
    """Measure steps of preset paper, packed and padded, and both inputs of the encoder."""
    one_thread()
    config = paper_config()
    engine, masked_engine = cpu_engine(config), cpu_engine(paper_config("masked_value"))
    seconds: Seconds = {"ours": [], "padded": [], "masked_value": []}
    shares, measurements, padding = [], [], []
    draws = draw_steps(STEP_MEASUREMENTS, seed=0)
    for number, step in zip(range(rounds + 1), draws, strict=False):
        packed, padded = to_batch(step, seed=number), to_padded(step)
        # The peak of just now: a busy machine, or a warm one, is slower at everything.
        before = gemm_flops()
        taken = {"ours": _step_seconds(engine, packed, number)}
        peak = max(before, gemm_flops())
        taken["padded"] = _step_seconds(engine, to_batch(padded, seed=number), number)
        taken["masked_value"] = _step_seconds(masked_engine, packed, number)
        share = useful_flops(config, step) / taken["ours"] / peak
        shown = ", ".join(f"{name} {value:.2f}" for name, value in taken.items())
        progress(
            "model: round %d of %d, CPU s: %s; %.3f of %.1f GFLOP/s",
            *(number, rounds, shown, share, peak / 1e9),
        )
        if number:  # the first one meets everything for the first time
            shares.append(share)
            measurements.append(step.num_measurements)
            padding.append(padded.num_measurements / step.num_measurements)
            for name, value in taken.items():
                seconds[name].append(value)
    yield from speed_rows(seconds, shares, measurements, padding)
    yield from _optimizer_rows(config, rounds)


def speed_rows(
    seconds: Seconds, shares: list[float], measurements: list[int], padding: list[float]
) -> Iterator[Row]:
    """Yield the figures of rounds.

    Args:
        seconds: CPU seconds of each round's step: ours, padded, masked_value.
        shares: Useful operations a second over the peak of that round.
        measurements: Of each round's step, the same for all.
        padding: Rows of the padded step over measurements.
    """
    spread = f"rounds {', '.join(f'{share:.3f}' for share in shares)}"
    yield _row(
        "useful FLOPs over the GEMM peak of the same process",
        statistics.median(shares),
        "",
        0.85,
        spread,
    )
    wasted = f"{statistics.median(padding):.2f} rows a measurement, the longest of a step's 16"
    padded = median_ratio(seconds["padded"], seconds["ours"])
    yield _row("speed over the same sequences padded", padded, "x", 1.9, wasted)
    masked = median_ratio(seconds["masked_value"], seconds["ours"])
    yield _row("visible_only over masked_value", masked, "x", 1.2)
    for name, taken in seconds.items():
        a_measurement = median_ratio(taken, measurements) * 1e6
        yield _row(f"{name}, CPU a measurement", a_measurement, "us")


def gemm_flops() -> float:
    """Return the operations a second of the fastest of a few large products in float32."""
    return max(_gemm_flops(*size) for size in GEMMS)


def _gemm_flops(rows: int, inner: int, columns: int, repeats: int) -> float:
    a, b = torch.ones(rows, inner), torch.ones(inner, columns)
    out = torch.empty(rows, columns)
    took = cpu_seconds(lambda: [torch.mm(a, b, out=out) for _ in range(repeats)])
    return 2 * rows * inner * columns * repeats / took


def _step_seconds(engine: Engine, batch: Batch, number: int) -> float:
    return cpu_seconds(lambda: engine.step([batch], number))


def _optimizer_rows(config: Config, rounds: int) -> Iterator[Row]:
    """Compare AdamW as training calls it with torch's default."""
    seconds: Seconds = {"fused": [], "default": []}
    optimizers = {name: _optimizer_step(config, name == "fused") for name in seconds}
    for number in range(max(rounds, 3) + 1):
        for name, step in optimizers.items():
            took = cpu_seconds(step)
            if number:
                seconds[name].append(took)
    ratio = median_ratio(seconds["default"], seconds["fused"])
    note = f"{statistics.median(seconds['fused']) * 1e3:.1f} ms an update"
    yield _row("fused AdamW over torch's default", ratio, "x", None, note)


def _optimizer_step(config: Config, fused: bool) -> Callable[[], object]:
    model = build_model(config.model, NUM_CODES, config.seed)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True if fused else None)
    return optimizer.step


def _row(name: str, value: float, unit: str, goal: float | None = None, note: str = "") -> Row:
    return Row(
        suite="step",
        name=f"model: {name}",
        value=value,
        unit=unit,
        goal=goal,
        sense=">=",
        note=note,
    )
