"""Which model settings stand for, and whether a file of weights is of it."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from cvmae.config import Config
from cvmae.model.finetuned import FinetunedVOMAE
from cvmae.model.vomae import VOMAE

__all__ = ["misshapen", "model_of"]


def model_of(config: Config, num_codes: int) -> VOMAE:
    """Return a model of a run's kind, with whatever weights."""
    kind = FinetunedVOMAE if config.finetune.checkpoint else VOMAE
    with torch.random.fork_rng(devices=[]):
        return kind(config.model, num_codes, config.mask.target)


def misshapen(weights: Path, config: Config, num_codes: int) -> str:
    """Say which weight of a file has not the shape that a model needs; '' where all have."""
    with torch.device("meta"):
        model = model_of(config, num_codes)
        expected = {k: list(v.shape) for k, v in model.state_dict().items()}
    try:
        with safe_open(weights, "pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        return f"its weights are no safetensors ({error})"
    for name in {**expected, **found}:
        if expected.get(name) != found.get(name):
            return (
                f"its weights are of another model: {name} has shape {found.get(name)}, expected "
                f"{expected.get(name)}"
            )
    return ""
