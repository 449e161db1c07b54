"""Training steps on a GPU: share of the data sheet's peak, speed, what capturing and files cost."""

import itertools
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.clock import progress
from benchmarks.gpu.sizes import NEEDS_CUDA, NO_GPU, Sizes, device_note, gpu_row, synchronize
from benchmarks.rows import Row
from benchmarks.step.batches import NUM_CODES, draw_steps, to_batch
from benchmarks.step.model import one_thread, useful_flops
from cvmae.config import PRESETS, Config
from cvmae.model.vomae import build_model
from cvmae.settings import ModelConfig
from cvmae.train.make_engine import make_engine

__all__ = [
    "absent_step_rows",
    "capture_rows",
    "goals_of",
    "input_rows",
    "measure",
    "model_config",
    "speed_rows",
]

# Part of the device's name -> share of the data sheet's peak for each model, and measurements a
# second for the first. Those of an H200 are shown where there is no GPU.
GOALS: dict[str, tuple[tuple[float, float, float], float]] = {
    "H200": ((0.30, 0.42, 0.54), 8e6),
    "H100": ((0.24, 0.35, 0.48), 6.5e6),
}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What timed steps came to."""

    share: float  # of the peak
    measurements_per_s: float
    ms: float  # a step
    peak_gib: float


def speed_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Yield share of the peak and speed of each size of model."""
    one_thread()
    goals = goals_of(device_note(device))
    for label, model in sizes.models.items():
        speed = measure(model, sizes.large_step, device, sizes)
        note = f"{speed.ms:.2f} ms a step, {speed.peak_gib:.1f} GiB at most; {device_note(device)}"
        name = _share_name(label)
        yield gpu_row(name, speed.share, "", goals.get(name), ">=", note)
        name = _speed_name(label)
        yield gpu_row(name, speed.measurements_per_s, "measurements/s", goals.get(name), ">=")


def capture_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Yield what steps gain that are compiled and captured."""
    one_thread()
    model = next(iter(sizes.models.values()))
    eager = measure(model, sizes.small_step, device, sizes, compiles=False)
    if device.type != "cuda":
        yield gpu_row(GRAPHS, None, "x", 2.0, ">=", f"{NEEDS_CUDA}; {eager.ms:.2f} ms without")
        return
    captured = measure(model, sizes.small_step, device, sizes)
    note = f"{captured.ms:.2f} ms a step with train.compile, {eager.ms:.2f} ms without"
    yield gpu_row(GRAPHS, eager.ms / captured.ms, "x", 2.0, ">=", note)


def input_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Yield how long the loop waits for data from files, and its speed."""
    fed = measure(sizes.input_model, sizes.large_step, device, sizes)
    waiting, per_s = _input_wait(folder, device, sizes)
    yield gpu_row(WAITING, waiting, "", 0.02, "<=")
    share = per_s / fed.measurements_per_s
    yield gpu_row(FED, share, "", None, ">=", f"{per_s:,.0f} measurements/s from files")


def absent_step_rows() -> Iterator[Row]:
    """Yield the rows of a machine without a GPU, with an H200's goals."""
    goals = goals_of("H200")
    for label in Sizes().models:
        name = _share_name(label)
        yield gpu_row(name, None, "", goals[name], ">=", NO_GPU)
        name = _speed_name(label)
        yield gpu_row(name, None, "measurements/s", goals.get(name), ">=", NO_GPU)
    yield gpu_row(GRAPHS, None, "x", 2.0, ">=", NO_GPU)
    yield gpu_row(WAITING, None, "", 0.02, "<=", NO_GPU)
    yield gpu_row(FED, None, "", None, ">=", NO_GPU)


def goals_of(device_name: str) -> Mapping[str, float]:
    """Return the goals of the rows that have one on a GPU of that name."""
    for part, (shares, per_s) in GOALS.items():
        if part in device_name:
            labels = list(Sizes().models)
            names = [_share_name(label) for label in labels]
            first = _speed_name(labels[0])
            return dict(zip(names, shares, strict=True)) | {first: per_s}
    return {}


def measure(
    model: ModelConfig,
    num_measurements: int,
    device: torch.device,
    sizes: Sizes,
    *,
    compiles: bool = True,
) -> Speed:
    """Time steps of about so many measurements, whose batches are on the device already."""
    config = model_config(model, compiles)
    steps = list(itertools.islice(draw_steps(num_measurements, seed=4), sizes.num_batches))
    batches = [to_batch(step, seed=n).to(device) for n, step in enumerate(steps)]
    engine = make_engine(
        build_model(model, NUM_CODES, 0), config, device=device, total_steps=100_000
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for number in range(sizes.rounds + 1):
        synchronize(device)
        begin = time.perf_counter()
        for step in range(sizes.timed_steps):
            engine.step([batches[step % sizes.num_batches]], number * sizes.timed_steps + step)
        synchronize(device)
        if number:  # the first round meets every shape for the first time
            seconds.append((time.perf_counter() - begin) / sizes.timed_steps)
    took = statistics.median(seconds)
    progress("gpu: width %d, %d a step: %.2f ms", model.width, num_measurements, took * 1e3)
    work = statistics.mean(useful_flops(config, step) for step in steps)
    return Speed(
        share=engine.peak.raised_share(work / took),
        measurements_per_s=statistics.mean(step.num_measurements for step in steps) / took,
        ms=took * 1e3,
        peak_gib=torch.cuda.max_memory_reserved(device) / 2**30 if device.type == "cuda" else 0.0,
    )


def _input_wait(folder: Path, device: torch.device, sizes: Sizes) -> tuple[float, float]:
    """Train on files in this process; return the share of waiting and measurements a second."""
    from benchmarks.epochs import prepare  # files, which the other figures do without
    from benchmarks.hospitals import synthetic_hospital
    from cvmae.batches.bricks import stream_bricks
    from cvmae.train.loop import train
    from cvmae.train.pretraining import Pretraining

    prepared = prepare(synthetic_hospital(folder, sizes.input_rows))
    plan, history = prepared.plan, []
    output = folder / "gpu_run"
    shutil.rmtree(output, ignore_errors=True)  # a run that is there would be taken up
    output.mkdir()
    config = replace(
        prepared.config,
        output_dir=str(output),
        model=sizes.input_model,
        train=replace(prepared.config.train, epochs=sizes.input_epochs),
    )
    lessons = Pretraining(
        config,
        prepared.data,
        lambda epoch, step, _: stream_bricks(
            plan.train_reader, plan.train_order, plan.units, epoch=epoch, step=step
        ),
    )
    train(
        lessons,
        report=lambda metrics, _: history.append(metrics),
        ask=lambda: "",
        device=device,
    )
    return tuple(  # type: ignore[return-value]  # two
        # Sizes of batches come up for the first time, and are captured, in the first half.
        statistics.median(epoch[name] for epoch in history[len(history) // 2 :])
        for name in ("data_wait_share", "measurements_per_s")
    )


def model_config(model: ModelConfig, compiles: bool) -> Config:
    """Return preset paper with another model, in this process."""
    config = PRESETS["paper"]
    train = replace(config.train, compile="auto" if compiles else "off")
    scaling = replace(config.scaling, num_workers=0)
    return replace(config, model=model, train=train, scaling=scaling)


GRAPHS = "capture: compiled and captured over eager, 16k measurements a step"
WAITING = "input: share of time that the loop waits for data, preset paper"
FED = "input: speed of the loop over that of batches on the device already"


def _share_name(label: str) -> str:
    return f"speed: {label}, 64k measurements a step, useful FLOPs over the peak"


def _speed_name(label: str) -> str:
    return f"speed: {label}, 64k measurements a step, speed"
