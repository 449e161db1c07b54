"""Losses on a GPU beside those that are known: of the CPU, of plain steps, of no process group."""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args
from unittest.mock import patch

import torch
import torch.distributed as dist

from benchmarks.clock import progress
from benchmarks.gpu.sizes import NEEDS_CUDA, Sizes, device_note, gpu_row
from benchmarks.gpu.steps import model_config
from benchmarks.rows import Row
from benchmarks.step.batches import NUM_CODES, draw_steps, to_batch
from benchmarks.step.model import CPU, one_thread
from cvmae.batches.batch import Batch
from cvmae.config import PRESETS, Config
from cvmae.model.loss import rank_loss
from cvmae.model.vomae import build_model
from cvmae.train.captured_engine import CapturedEngine
from cvmae.train.engine import Engine
from cvmae.train.make_engine import make_engine
from cvmae.train.replicated_engine import DDPEngine

__all__ = ["captured_rows", "deepspeed_rows", "golden_rows", "group_rows", "parity_rows"]

Precision = Literal["fp32", "bf16"]
Stage = Literal[1, 2, 3]

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "losses.json"
# Largest relative difference of losses over the steps, the CPU in float32 being the reference:
# sums in another order differ by 1e-7 and bf16 rounds by 4e-3, and updates carry that on.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "bf16": 2e-2}


def parity_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Yield how far losses are from those of the same steps on the CPU in float32."""
    one_thread()
    reference = _losses("fp32", CPU, sizes)
    for precision, tolerance in TOLERANCES.items():
        progress("gpu: %d steps in %s", sizes.agreement_steps, precision)
        value = largest_difference(_losses(precision, device, sizes), reference)
        name = f"parity: losses in {precision}, largest difference from the CPU"
        note = f"{sizes.agreement_steps} steps; {device_note(device)}"
        yield gpu_row(name, value, "", tolerance, "<=", note)


def captured_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Yield how far losses of compiled, captured, replayed steps are from those of plain ones."""
    batches = _few_batches(device, sizes)
    found = take_steps(_engine(CapturedEngine, device, sizes), batches)
    plain = take_steps(_engine(DDPEngine, device, sizes), batches)
    name = "captured: losses of replayed steps, largest difference from plain ones in bf16"
    note = device_note(device) if device.type == "cuda" else f"nothing was captured: {NEEDS_CUDA}"
    yield gpu_row(name, largest_difference(found, plain), "", TOLERANCES["bf16"], "<=", note)


def golden_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Yield how far the golden runs of the tests are from the golden file; the notes keep them."""
    one_thread()
    golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.is_file() else {}
    for policy, encoder_input in itertools.product(
        ("random", "cv"), ("visible_only", "masked_value")
    ):
        name = f"{policy}, {encoder_input}"
        losses = golden_losses(folder, device, policy, encoder_input, sizes.golden_steps)
        known = [float.fromhex(text) for text in golden[min(golden)][name]] if golden else []
        value = largest_difference(losses, known[: len(losses)]) if known else None
        shown = " ".join(loss.hex() for loss in losses)
        note = f"losses in fp32: {shown}; {device_note(device)}"
        yield gpu_row(
            f"golden: {name}, largest difference from the golden file", value, "", 1e-4, "<=", note
        )


def golden_losses(
    folder: Path, device: torch.device, policy: str, encoder_input: str, num_steps: int
) -> list[float]:
    """Return the losses of the first steps of the run that the golden file is of, in float32."""
    from cvmae.batches.bricks import iterate_steps, stream_bricks
    from cvmae.config import override
    from cvmae.meds.dataset import open_dataset
    from cvmae.statistics.fit import load_or_fit
    from cvmae.statistics.fitted import TrainingData
    from cvmae.synthetic.hospital import write_hospital
    from cvmae.synthetic.process import SyntheticConfig
    from cvmae.train.streams import make_plan

    root = folder / "golden" / "meds"
    if not root.is_dir():
        write_hospital(
            SyntheticConfig(
                root=str(root), num_subjects=60, num_codes=8, median_measurements=60, num_shards=3
            )
        )
    own = folder / "golden" / f"{policy}_{encoder_input}"
    own.mkdir(exist_ok=True)
    changes = {
        "output_dir": str(own),
        "data.root": str(root),
        "data.min_count": 2,
        "data.unit_rows": 500,
        "data.sequence_length": 32,
        "data.lanes": 4,
        "train.batch_sequences": 16,
        "train.precision": "fp32",
        "scaling.num_workers": 0,
        "mask.policy": policy,
        "model.encoder_input": encoder_input,
    }
    config = override(PRESETS["tiny"], changes)
    dataset = open_dataset(config.data.root)
    data = TrainingData(source=dataset.source, fitted=load_or_fit(config, dataset))
    plan = make_plan(config, data)
    model = build_model(config.model, data.fitted.statistics.num_codes, config.seed)
    engine = make_engine(model, config, device=device, total_steps=1000)
    epochs = (
        stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=epoch)
        for epoch in itertools.count()
    )
    steps = (step for bricks in epochs for step in iterate_steps(bricks, lanes=config.data.lanes))
    moved = ([batch.to(device) for batch in step] for step in itertools.islice(steps, num_steps))
    return take_steps(engine, moved)


def group_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Yield how far losses in a process group of one rank are from those without (NCCL on CUDA)."""
    batches = _few_batches(device, sizes)
    backend = "nccl" if device.type == "cuda" else "gloo"
    for kind in (DDPEngine, CapturedEngine):
        alone = take_steps(_engine(kind, device, sizes), batches)
        with _group(backend, folder), _told_of_another_rank(kind):
            grouped = take_steps(_engine(kind, device, sizes), batches)
        name = f"group: {kind.__name__} with {backend}, largest difference from without"
        value = largest_difference(grouped, alone)
        yield gpu_row(name, value, "", TOLERANCES["bf16"], "<=", device_note(device))


def deepspeed_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Yield how far losses of DeepSpeed's stages are from DDP's, where it is installed."""
    batches, stages = _few_batches(device, sizes), get_args(Stage)
    name = "deepspeed: stage {}, losses, largest difference from DDP's"
    if find_spec("deepspeed") is None:
        for stage in stages:
            yield gpu_row(name.format(stage), None, note="deepspeed is not installed")
        return
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed wants to be told
    plain = take_steps(_engine(DDPEngine, device, sizes), batches)
    backend = "nccl" if device.type == "cuda" else "gloo"
    with _group(backend, folder):  # one for all stages: DeepSpeed keeps the first that it meets
        for stage in stages:
            engine = _deepspeed_engine(stage, device, sizes)
            value = largest_difference(take_steps(engine, batches), plain)
            note = device_note(device)
            yield gpu_row(name.format(stage), value, "", TOLERANCES["bf16"], "<=", note)


def _deepspeed_engine(stage: Stage, device: torch.device, sizes: Sizes) -> Engine:
    config = _config(sizes)
    config = replace(
        config,
        train=replace(config.train, strategy="deepspeed"),
        deepspeed=replace(config.deepspeed, stage=stage),
        scaling=replace(config.scaling, num_workers=1),
    )
    model = build_model(config.model, NUM_CODES, 0)
    return make_engine(model, config, device=device, total_steps=sizes.replayed_steps)


def take_steps(engine: Engine, batches: "Iterator[list[Batch]] | list[list[Batch]]") -> list[float]:
    """Return the loss of each step."""
    losses = []
    for number, step in enumerate(batches):
        error, count = engine.step(step, number)
        losses.append(error.item() / max(count.item(), 1))
    return losses


def largest_difference(found: list[float], wanted: list[float]) -> float:
    """Return the largest relative difference of two runs' losses.

    Example:
        >>> largest_difference([1.0, 2.2], [1.0, 2.0])
        0.1
    """
    return round(max(abs(a - b) / abs(b) for a, b in zip(found, wanted, strict=True)), 9)


def _losses(precision: Precision, device: torch.device, sizes: Sizes) -> list[float]:
    config = model_config(sizes.agreement_model, compiles=True)  # where it can be, as in training
    config = replace(config, train=replace(config.train, precision=precision))
    model = build_model(config.model, NUM_CODES, 0)
    engine = make_engine(model, config, device=device, total_steps=sizes.agreement_steps)
    draws = itertools.islice(
        draw_steps(sizes.agreement_measurements, seed=5), sizes.agreement_steps
    )
    return take_steps(engine, ([to_batch(step, seed=n).to(device)] for n, step in enumerate(draws)))


def _few_batches(device: torch.device, sizes: Sizes) -> list[list[Batch]]:
    """Return steps of four sizes, again and again: captured at first, then replayed."""
    draws = enumerate(itertools.islice(draw_steps(sizes.agreement_measurements, seed=6), 4))
    batches = [[to_batch(step, seed=number).to(device)] for number, step in draws]
    return list(itertools.islice(itertools.cycle(batches), sizes.replayed_steps))


def _config(sizes: Sizes) -> Config:
    config = model_config(sizes.agreement_model, compiles=False)
    return replace(config, train=replace(config.train, precision="bf16"))


def _engine(
    kind: type[DDPEngine] | type[CapturedEngine], device: torch.device, sizes: Sizes
) -> Engine:
    model = build_model(sizes.agreement_model, NUM_CODES, 0)
    return kind(model, _config(sizes), device=device, total_steps=sizes.replayed_steps)


@contextlib.contextmanager
def _told_of_another_rank(kind: type[Engine]) -> Iterator[None]:
    """Let engines exchange what they would with others: where they are alone, they do nothing.

    A sum, or a mean, over the one rank that there is changes nothing.
    """
    told = ["engine", "replicated_engine" if kind is DDPEngine else "captured_engine"]
    with contextlib.ExitStack() as stack:
        for module in told:
            stack.enter_context(patch(f"cvmae.train.{module}.world_size", lambda: 2))
        if kind is DDPEngine:  # which would scale its loss for two
            stack.enter_context(patch("cvmae.train.replicated_engine.rank_loss", _alone))
        yield


def _alone(error_sum: torch.Tensor, global_count: torch.Tensor, world: int) -> torch.Tensor:
    return rank_loss(error_sum, global_count, 1)


@contextlib.contextmanager
def _group(backend: str, folder: Path) -> Iterator[None]:
    """Be the one rank of a process group."""
    place = folder / "group"
    place.unlink(missing_ok=True)
    dist.init_process_group(backend, f"file://{place}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
