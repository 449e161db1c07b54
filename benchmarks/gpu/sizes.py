"""How much the suite `gpu` measures, and how; tests shrink it to what a CPU does in seconds."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from benchmarks.rows import Row
from cvmae.config import PRESETS
from cvmae.settings import ModelConfig

__all__ = ["NEEDS_CUDA", "NO_GPU", "Sizes", "device_note", "gpu_row", "milliseconds", "synchronize"]

NO_GPU = "no GPU here"
NEEDS_CUDA = "needs CUDA"


def _models() -> dict[str, ModelConfig]:
    return {
        "d=256, 8 layers": ModelConfig(),
        "d=512, 12 layers": ModelConfig(width=512, num_layers=12),
        "d=1024, 24 layers": ModelConfig(width=1024, num_layers=24, num_heads=16),
    }


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the parts measure; the defaults are those of a GPU."""

    rounds: int = 3  # medians are over them
    models: Mapping[str, ModelConfig] = field(default_factory=_models)
    large_step: int = 65_536  # measurements
    small_step: int = 16_384
    num_batches: int = 8
    timed_steps: int = 16  # of a round
    agreement_model: ModelConfig = PRESETS["small"].model
    agreement_steps: int = 100
    agreement_measurements: int = 2048
    replayed_steps: int = 24
    golden_steps: int = 20  # those of the golden file
    input_rows: int = 3_000_000
    input_epochs: int = 24
    input_model: ModelConfig = PRESETS["paper"].model
    widths: tuple[tuple[int, int], ...] = ((256, 8), (512, 8), (1024, 16))  # and heads
    calls: int = 20  # of a kernel, of a round
    backend: str = "inductor"
    tests: tuple[str, ...] = ()  # given to pytest beside the marker


def synchronize(device: torch.device) -> None:
    """Wait for what was given to the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(work: Callable[[], object], device: torch.device, sizes: Sizes) -> float:
    """Return what a call takes, its median over rounds; on CUDA captured, so no host is waited for.

    Args:
        work: On tensors that keep their place, always the same.
        device: Where it works.
        sizes: How many rounds, and calls of each.
    """
    work()  # compiles
    synchronize(device)
    replay = _captured(work) if device.type == "cuda" else work
    taken = []
    for _ in range(sizes.rounds):
        synchronize(device)
        begin = time.perf_counter()
        for _ in range(sizes.calls):
            replay()
        synchronize(device)
        taken.append((time.perf_counter() - begin) / sizes.calls * 1e3)
    return statistics.median(taken)


def _captured(work: Callable[[], object]) -> Callable[[], object]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def device_note(device: torch.device) -> str:
    """Return what a figure was measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    return f"{name}, torch {torch.__version__}"


def gpu_row(
    name: str,
    value: float | None,
    unit: str = "",
    goal: float | None = None,
    sense: Literal["<=", ">="] = "<=",
    note: str = "",
) -> Row:
    """Return a figure of the suite."""
    return Row(suite="gpu", name=name, value=value, unit=unit, goal=goal, sense=sense, note=note)
