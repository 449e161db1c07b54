"""Memory in the plan: its counts are those of the model, and ZeRO cuts what it says."""

import numpy as np
import pytest
import torch

from cvmae.model.attention import plan_attention
from cvmae.model.residual import Residual
from cvmae.model.vomae import DecoderLayer, EncoderLayer, build_model
from cvmae.plan.memory import (
    DECODER_KEY,
    DECODER_ROW,
    ENCODER_ROW,
    NUM_GPUS,
    STRATEGIES,
    activation_bytes,
    largest_model,
    memory_lines,
    num_parameters,
)
from cvmae.settings import ModelConfig


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(width=32, num_layers=2, num_heads=2, num_decoder_layers=1),
        ModelConfig(width=64, num_layers=3, num_heads=4, num_decoder_layers=2),
    ],
)
def test_the_plan_counts_the_parameters_of_the_model(model):
    built = build_model(model, 100, 0)
    assert num_parameters(model) == sum(parameter.numel() for parameter in built.parameters())


def kept_bytes(layer, *inputs):
    """Return the bytes of activations that backward of a layer keeps, in bf16."""
    kept = {}

    def note(tensor):
        is_weight = any(sorted(tensor.shape) == sorted(p.shape) for p in layer.parameters())
        if not is_weight and tensor.dim() > 1 and tensor.shape[-1] > 1:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        output = layer(*inputs)
    del output
    return sum(storage.nbytes() for storage in kept.values())


def terms(rows, width):
    x, rest = (torch.randn(rows, width, dtype=torch.bfloat16) for _ in range(2))
    return Residual(x.requires_grad_() * 1.0, rest.requires_grad_() * 1.0, None)


def test_the_plan_counts_what_a_layer_keeps_for_backward():
    width, heads, hidden, visible = 128, 8, 100, 300
    own, cross = plan_of(visible, visible), plan_of(hidden, visible)
    log_sums = 4 * heads  # a float32 for each head and row, not counted in the plan
    found = kept_bytes(EncoderLayer(width, heads), terms(visible, width), own)
    # On the CPU attention's output is kept twice, padded and packed: two bytes more.
    assert found == visible * ((ENCODER_ROW + 2) * width + log_sums)
    encoded = terms(visible, width).x
    found = kept_bytes(DecoderLayer(width, heads), terms(hidden, width), cross, encoded)
    expected = hidden * ((DECODER_ROW + 2) * width + log_sums) + visible * DECODER_KEY * width
    assert found == expected


def plan_of(num_queries, num_keys):
    offsets = [torch.tensor([0, num], dtype=torch.int32) for num in (num_queries, num_keys)]
    return plan_attention(np.array([num_queries]), np.array([num_keys]), *offsets)


def test_the_plan_adds_up_activations_of_a_step():
    model = ModelConfig(width=256, num_layers=8, num_decoder_layers=2)
    kept = 65_536 * 256 * (8 * 0.75 * 32 + 2 * (0.25 * 28 + 0.75 * 6))
    assert activation_bytes(model, recompute=False) == kept
    again = 65_536 * 256 * (4 * (8 * 0.75 + 2 * 0.25) + 0.75 * 32)
    assert activation_bytes(model, recompute=True) == again


def test_zero_cuts_state_into_parts_stage_by_stage():
    assert NUM_GPUS == 8
    kept = {name: strategy.bytes_a_parameter() for name, strategy in STRATEGIES.items()}
    assert kept == {
        "DDP": 4 + 2 + 4 + 8,
        "ZeRO-1": 4 + 2 + 4 + (8 + 4) / 8,
        "ZeRO-2": 4 + 2 + (4 + 8 + 4) / 8,
        "ZeRO-3": (4 + 2 + 4 + 8 + 4) / 8,
    }


def test_the_largest_model_fits_and_the_next_does_not():
    for gpu_gib in (24, 80, 141):
        sizes = [num_parameters(largest_model(name, gpu_gib)) for name in STRATEGIES]
        assert sizes == sorted(set(sizes))  # each stage carries a larger one
    model = largest_model("DDP", 24)
    total = 18 * num_parameters(model) + activation_bytes(model, recompute=True)
    assert total <= 0.9 * 24 * 2**30 < 1.2 * total
    assert largest_model("DDP", 0.1) is None


def test_the_plan_of_memory_reaches_a_billion_parameters_and_shows_its_arithmetic():
    lines = {line.name: line for line in memory_lines()}
    assert lines["1B, parameters"].value == pytest.approx(1000, rel=0.05)
    for size in ("8M", "44M", "99M", "328M", "1B"):
        for strategy in STRATEGIES:
            assert f"{size}, state under {strategy}, 8 GPUs" in lines
    assert all(line.why for line in lines.values())
    limits = [lines[f"{gib} GB, largest model under DDP"].why for gib in (24, 80, 141)]
    assert all(note.endswith("ZeRO pays beyond this") for note in limits)
