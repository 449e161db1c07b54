"""Training steps on a GPU: share of the data sheet's peak, speed, waiting, agreement with a CPU."""

import itertools
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from benchmarks.clock import progress
from benchmarks.rows import Row
from benchmarks.step_batches import NUM_CODES, draw_steps, to_batch
from benchmarks.step_model import CPU, one_thread, useful_flops
from cvmae.config import PRESETS, Config
from cvmae.model.vomae import build_model
from cvmae.settings import ModelConfig
from cvmae.train.engine import make_engine

__all__ = ["goals_of", "gpu_rows", "largest_difference"]

LARGE_STEP, SMALL_STEP = 65_536, 16_384  # measurements
NUM_BATCHES, TIMED_STEPS = 8, 32
AGREEMENT_STEPS, AGREEMENT_MEASUREMENTS = 100, 2048
INPUT_ROWS, INPUT_EPOCHS = 5_000_000, 24

MODELS = {
    "d=256, 8 layers": ModelConfig(),
    "d=512, 12 layers": ModelConfig(width=512, num_layers=12),
    "d=1024, 24 layers": ModelConfig(width=1024, num_layers=24, num_heads=16),
}
# Part of the device's name -> share of the data sheet's peak for each model, and measurements a
# second for the first. Those of an H200 are shown where there is no GPU.
GOALS: dict[str, tuple[tuple[float, float, float], float]] = {
    "H200": ((0.30, 0.42, 0.54), 8e6),
    "H100": ((0.24, 0.35, 0.48), 6.5e6),
}
# Largest relative difference of losses over the steps, the CPU in float32 being the reference:
# sums in another order differ by 1e-7 and bf16 rounds by 4e-3, and updates carry that on.
TOLERANCES: dict[Literal["fp32", "bf16"], float] = {"fp32": 1e-3, "bf16": 2e-2}
NO_GPU = "no GPU here"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What timed steps came to."""

    share: float  # of the peak
    measurements_per_s: float
    ms: float  # a step
    peak_gib: float


def gpu_rows(folder: Path, num_rows: int, rounds: int) -> Iterator[Row]:
    """Yield every figure of a GPU; without one, the same rows without values."""
    if not torch.cuda.is_available():
        yield from absent_rows()
        return
    one_thread()
    device = torch.device("cuda", torch.cuda.current_device())
    goals = goals_of(torch.cuda.get_device_name(device))
    speeds = {}
    for label, model in MODELS.items():
        speeds[label] = speed = measure(model, LARGE_STEP, rounds, device)
        note = f"{speed.ms:.2f} ms a step, {speed.peak_gib:.1f} GiB at most; {device_note(device)}"
        yield _row(_share_name(label), speed.share, "", goals.get(_share_name(label)), ">=", note)
        name = _speed_name(label)
        yield _row(name, speed.measurements_per_s, "measurements/s", goals.get(name), ">=")
    first = MODELS[next(iter(MODELS))]
    captured = measure(first, SMALL_STEP, rounds, device)
    eager = measure(first, SMALL_STEP, rounds, device, compiles=False)
    note = f"{captured.ms:.2f} ms a step with train.compile, {eager.ms:.2f} ms without"
    yield _row(GRAPHS, eager.ms / captured.ms, "x", 2.0, ">=", note)
    waiting, per_s = _input_wait(folder, min(num_rows, INPUT_ROWS), device)
    yield _row(WAITING, waiting, "", 0.02, "<=")
    share = per_s / speeds[next(iter(MODELS))].measurements_per_s
    yield _row(FED, share, "", None, ">=", f"{per_s:,.0f} measurements/s from files")
    for precision, tolerance in TOLERANCES.items():
        progress("gpu: %d steps on CPU and GPU, %s", AGREEMENT_STEPS, precision)
        value = _disagreement(precision, device)
        yield _row(_agreement_name(precision), value, "", tolerance, "<=", device_note(device))


def absent_rows() -> Iterator[Row]:
    """Yield the rows of a machine without a GPU."""
    goals = goals_of("H200")
    for label in MODELS:
        name = _share_name(label)
        yield _row(name, None, "", goals[name], ">=", NO_GPU)
        name = _speed_name(label)
        yield _row(name, None, "measurements/s", goals.get(name), ">=", NO_GPU)
    yield _row(GRAPHS, None, "x", 2.0, ">=", NO_GPU)
    yield _row(WAITING, None, "", 0.02, "<=", NO_GPU)
    yield _row(FED, None, "", None, ">=", NO_GPU)
    for precision, tolerance in TOLERANCES.items():
        yield _row(_agreement_name(precision), None, "", tolerance, "<=", NO_GPU)


def goals_of(device_name: str) -> Mapping[str, float]:
    """Return the goals of the rows that have one on a GPU of that name."""
    for part, (shares, per_s) in GOALS.items():
        if part in device_name:
            names = [_share_name(label) for label in MODELS]
            first = _speed_name(next(iter(MODELS)))
            return dict(zip(names, shares, strict=True)) | {first: per_s}
    return {}


def measure(
    model: ModelConfig,
    num_measurements: int,
    rounds: int,
    device: torch.device,
    *,
    compiles: bool = True,
) -> Speed:
    """Time steps of about so many measurements, whose batches are on the device already."""
    config = _config(model, compiles)
    steps = list(itertools.islice(draw_steps(num_measurements, seed=4), NUM_BATCHES))
    batches = [to_batch(step, seed=n).to(device) for n, step in enumerate(steps)]
    engine = make_engine(
        build_model(model, NUM_CODES, 0), config, device=device, total_steps=100_000
    )
    torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for number in range(rounds + 1):
        torch.cuda.synchronize(device)
        begin = time.perf_counter()
        for step in range(TIMED_STEPS):
            engine.step([batches[step % NUM_BATCHES]], number * TIMED_STEPS + step)
        torch.cuda.synchronize(device)
        if number:  # the first round meets every shape for the first time
            seconds.append((time.perf_counter() - begin) / TIMED_STEPS)
    took = statistics.median(seconds)
    progress("gpu: width %d, %d a step: %.2f ms", model.width, num_measurements, took * 1e3)
    work = statistics.mean(useful_flops(config, step) for step in steps)
    return Speed(
        share=work / took / engine.peak_flops,
        measurements_per_s=statistics.mean(step.num_measurements for step in steps) / took,
        ms=took * 1e3,
        peak_gib=torch.cuda.max_memory_reserved(device) / 2**30,
    )


def largest_difference(found: list[float], wanted: list[float]) -> float:
    """Return the largest relative difference of two runs' losses.

    Example:
        >>> largest_difference([1.0, 2.2], [1.0, 2.0])
        0.1
    """
    return round(max(abs(a - b) / abs(b) for a, b in zip(found, wanted, strict=True)), 9)


def device_note(device: torch.device) -> str:
    """Return what a figure was measured on."""
    return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"


def _input_wait(folder: Path, num_rows: int, device: torch.device) -> tuple[float, float]:
    """Train on files in this process; return the share of waiting and measurements a second."""
    from benchmarks.epochs import prepare  # files, which the other figures do without
    from benchmarks.hospitals import synthetic_hospital
    from cvmae.batches.bricks import stream_bricks
    from cvmae.train.loop import train

    prepared = prepare(synthetic_hospital(folder, num_rows))
    plan, history = prepared.plan, []
    output = folder / "step_gpu_run"
    shutil.rmtree(output, ignore_errors=True)  # a run that is there would be taken up
    output.mkdir()
    config = replace(
        prepared.config,
        output_dir=str(output),
        train=replace(prepared.config.train, epochs=INPUT_EPOCHS),
    )
    train(
        config,
        prepared.data,
        bricks=lambda epoch, step, _: stream_bricks(
            plan.train_reader, plan.train_order, plan.units, epoch=epoch, step=step
        ),
        report=lambda metrics, _: history.append(metrics),
        ask=lambda: "",
        device=device,
    )
    return tuple(  # type: ignore[return-value]  # two
        # Sizes of batches come up for the first time, and are captured, in the first half.
        statistics.median(epoch[name] for epoch in history[len(history) // 2 :])
        for name in ("data_wait_share", "measurements_per_s")
    )


def _disagreement(precision: Literal["fp32", "bf16"], device: torch.device) -> float:
    """Return the largest relative difference of losses on the device from those on the CPU."""
    return largest_difference(_losses(precision, device), _losses("fp32", CPU))


def _losses(precision: Literal["fp32", "bf16"], device: torch.device) -> list[float]:
    config = _config(PRESETS["small"].model, compiles=True)  # where it can be, as in training
    config = replace(config, train=replace(config.train, precision=precision))
    model = build_model(config.model, NUM_CODES, 0)
    engine = make_engine(model, config, device=device, total_steps=AGREEMENT_STEPS)
    losses = []
    draws = itertools.islice(draw_steps(AGREEMENT_MEASUREMENTS, seed=5), AGREEMENT_STEPS)
    for number, step in enumerate(draws):
        batch = to_batch(step, seed=number).to(device)
        error, count = engine.step([batch], number)
        losses.append(error.item() / count.item())
    return losses


def _config(model: ModelConfig, compiles: bool) -> Config:
    config = PRESETS["paper"]
    train = replace(config.train, compile="auto" if compiles else "off")
    scaling = replace(config.scaling, num_workers=0)
    return replace(config, model=model, train=train, scaling=scaling)


GRAPHS = "gpu: compiled and captured over eager, 16k measurements a step"
WAITING = "gpu: share of time that the loop waits for data, preset paper"
FED = "gpu: speed of the loop over that of batches on the device already"


def _share_name(label: str) -> str:
    return f"gpu: {label}, 64k measurements a step, useful FLOPs over the peak"


def _speed_name(label: str) -> str:
    return f"gpu: {label}, 64k measurements a step, speed"


def _agreement_name(precision: str) -> str:
    return f"gpu: losses of {AGREEMENT_STEPS} steps in {precision}, largest difference from the CPU"


def _row(
    name: str,
    value: float | None,
    unit: str,
    goal: float | None,
    sense: Literal["<=", ">="],
    note: str = "",
) -> Row:
    return Row(suite="step", name=name, value=value, unit=unit, goal=goal, sense=sense, note=note)
