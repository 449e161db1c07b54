"""Which engine takes the steps of a run."""

import os

import torch

from cvmae.config import Config
from cvmae.model import kernels
from cvmae.model.vomae import VOMAE
from cvmae.train.engine import Engine
from cvmae.train.replicated_engine import DDPEngine

__all__ = ["compiles", "make_engine"]


def make_engine(model: VOMAE, config: Config, *, device: torch.device, total_steps: int) -> Engine:
    """Return the engine that `train.strategy` names."""
    model.recompute = config.train.activation_checkpointing
    if compiles(config, on_gpu=device.type == "cuda", have_kernels=kernels.ARE_COMPILED):
        from cvmae.train.captured_engine import CapturedEngine

        return CapturedEngine(model, config, device=device, total_steps=total_steps)
    if config.train.strategy == "deepspeed":
        if device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # it would look for others, and warn
        # Only where it is asked for: its import takes seconds.
        from cvmae.train.deepspeed_engine import DeepspeedEngine

        return DeepspeedEngine(model, config, device=device, total_steps=total_steps)
    return DDPEngine(model, config, device=device, total_steps=total_steps)


def compiles(config: Config, *, on_gpu: bool, have_kernels: bool) -> bool:
    """Tell whether steps are compiled and captured.

    Args:
        config: Of a run.
        on_gpu: Its ranks have GPUs.
        have_kernels: And compiled kernels for them.

    Raises:
        ValueError: `train.compile` is on where that is not possible.
    """
    head_dim = config.model.width // config.model.num_heads
    problems = {
        "on cpu; give a GPU (scaling.use_gpu True on Ray)": not on_gpu,
        "in fp32; give train.precision bf16": config.train.precision == "fp32",
        "with deepspeed; give train.strategy ddp": config.train.strategy != "ddp",
        f"with {head_dim} dimensions a head (model.width / model.num_heads); give one of "
        f"{', '.join(map(str, kernels.HEAD_DIMS))}": head_dim not in kernels.HEAD_DIMS,
        "without kernels; give a torch for CUDA with its Triton, and no TRITON_INTERPRET": (
            not have_kernels
        ),
    }
    found = [text for text, is_met in problems.items() if is_met]
    if config.train.compile == "on" and found:
        raise ValueError(f"train.compile=on is not possible {found[0]}, or leave it at auto")
    return config.train.compile != "off" and not found
