"""A training step of meds-torch's triplet encoder; runs beside its packages, without cvmae.

    python meds_torch_step.py STEPS.npz HEAD_SIZE

builds the model, then reads numbers of steps from standard input and prints, for each, the CPU
seconds of that step. HEAD_SIZE 0 leaves the size of a head to the package.
"""

import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

WIDTH, LAYERS, HEADS, LONGEST = 256, 8, 8, 512
NUM_CODES = 100
LR = 1e-4


def build(head_size: int) -> Any:
    """Build encoder and transformer as their configuration does, and a head for values.

    Their class token is left out: with it, the transformer gives its vector and no other.
    """
    for name in ("meds_torch.models.components", "meds_torch.utils"):
        _skip_init(name)
    from meds_torch.input_encoder.triplet_encoder import (  # type: ignore[import-not-found]
        TripletEncoder,
    )
    from meds_torch.models.components.transformer_encoder import (  # type: ignore[import-not-found]
        TransformerEncoderModel,
    )
    from x_transformers import Encoder, TransformerWrapper  # type: ignore[import-not-found]

    torch.manual_seed(0)
    encoder = TripletEncoder.initialize(vocab_size=NUM_CODES, token_dim=WIDTH, max_seq_len=LONGEST)
    layers = Encoder(
        dim=WIDTH,
        depth=LAYERS,
        heads=HEADS,
        rotary_pos_emb=True,
        attn_flash=True,
        **({"attn_dim_head": head_size} if head_size else {}),
    )
    wrapper = TransformerWrapper(
        num_tokens=NUM_CODES,
        logits_dim=WIDTH,
        max_seq_len=LONGEST,
        use_abs_pos_emb=False,
        attn_layers=layers,
        use_cls_token=False,
    )
    transformer = TransformerEncoderModel.initialize(model=wrapper, token_emb=torch.nn.Identity())
    return torch.nn.ModuleList([encoder, transformer, torch.nn.Linear(WIDTH, 1)])


def padded(file: Any, number: int) -> dict[str, torch.Tensor]:
    """Pad a step's sequences to the longest, under the names of meds-torch's batches."""
    length_W = file[f"length_{number}"]
    is_held = np.arange(length_W.max()) < length_W[:, None]

    def block(column: str, dtype: type) -> torch.Tensor:
        filled = np.zeros(is_held.shape, dtype)
        filled[is_held] = file[f"{column}_{number}"]
        return torch.from_numpy(filled)

    hidden = block("hidden", np.bool_)
    mask = torch.from_numpy(is_held)
    value = block("value", np.float32)
    return {
        "code": block("code", np.int64),
        "time_delta_days": block("hours", np.float32) / 24,
        "numeric_value": torch.where(hidden, 0.0, value),
        "numeric_value_mask": mask & ~hidden,
        "static_mask": torch.zeros_like(mask),
        "mask": mask,
        "hidden": hidden,
        "target": value,
    }


def step_seconds(parts: Any, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> float:
    """Restore the hidden values of a batch and update the weights; return the CPU seconds."""
    encoder, transformer, head = parts
    begin = time.process_time()
    tokens = transformer(encoder(dict(batch)))["BACKBONE//EMBEDDINGS"]
    error = head(tokens)[..., 0][batch["hidden"]] - batch["target"][batch["hidden"]]
    error.square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.process_time() - begin


def _skip_init(package: str) -> None:
    """Let modules of a package be imported without all that its `__init__` imports."""
    import meds_torch  # type: ignore[import-not-found]

    root = Path(meds_torch.__file__).parent
    module = types.ModuleType(package)
    module.__path__ = [str(root.joinpath(*package.split(".")[1:]))]
    sys.modules[package] = module


def main(steps_file: str, head_size: str) -> None:
    """Take the steps that are asked for, one line each."""
    torch.set_num_threads(1)
    parts = build(int(head_size))
    optimizer = torch.optim.Adam(parts.parameters(), lr=LR)
    with np.load(steps_file) as file:
        print(sum(p.numel() for p in parts.parameters()), flush=True)
        for line in sys.stdin:
            print(step_seconds(parts, optimizer, padded(file, int(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
