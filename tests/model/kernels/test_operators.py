"""Operators as torch.compile meets them: what they say they do, and a compiled step of training."""

from dataclasses import replace

import pytest
import torch

from cvmae.config import PRESETS
from cvmae.model.loss import hidden_error
from cvmae.model.vomae import build_model
from tests.model.test_vomae import NUM_CODES, random_batch

pytest.importorskip("triton")

from cvmae.model.kernels import attention, gelu, norm

__all__ = ["attention", "gelu", "norm"]  # their import makes the operators known

ON_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted here")
NAMES = [
    name + suffix
    for name in ("add_norm", "bias_gelu", "cross_attention", "self_attention")
    for suffix in ("", "_backward")
]


def half(*shape):
    return torch.randn(shape).half()


def arguments(name):
    """Return what an operator takes: rows of 3 sequences, the second without queries."""
    offsets = torch.tensor([[0, 5, 5, 9], [0, 3, 7, 12]], dtype=torch.int32)
    query, packed, keys = half(9, 2, 16), half(9, 3, 2, 16), half(12, 2, 2, 16)
    saved = half(9, 2, 16), half(9, 2, 16), torch.randn(2, 9)  # gradient, output, log of sums
    one, other, third = (half(9, 24) for _ in range(3))
    bias, gain, offset = (torch.randn(24) for _ in range(3))
    return {
        "add_norm": (one, other, bias, gain, offset, 1e-5),
        "add_norm_backward": (one, other, third, gain, 1e-5),
        "bias_gelu": (one, bias),
        "bias_gelu_backward": (one, other, bias),
        "cross_attention": (query, keys, *offsets, 5),
        "cross_attention_backward": (saved[0], query, keys, *saved[1:], *offsets, 5),
        "self_attention": (packed, offsets[0], 5),
        "self_attention_backward": (saved[0], packed, *saved[1:], offsets[0], 5),
    }[name]


def test_every_operator_is_checked():
    known = torch._C._dispatch_get_all_op_names()
    assert sorted(name for name in known if name.startswith("cvmae::")) == [
        f"cvmae::{name}" for name in NAMES
    ]


@ON_CPU
@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("name", NAMES)
def test_operators_do_what_they_say(name):
    """Their schemas, their fakes (shapes without values, by which compilers trace), gradients."""
    torch.manual_seed(0)
    given = arguments(name)
    for value in given:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value.requires_grad_(not name.endswith("_backward"))
    torch.library.opcheck(getattr(torch.ops.cvmae, name).default, given)


def take_step(model, batch, kind):
    """Return the error of a batch, and the gradients of all parameters."""
    model.zero_grad()
    with torch.autocast("cpu", kind, enabled=kind != torch.float32):
        error, _ = hidden_error(model, batch)
    error.backward()
    return error.item(), {name: p.grad for name, p in model.named_parameters()}


@ON_CPU
@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize(
    "encoder_input", ["visible_only", pytest.param("masked_value", marks=pytest.mark.slow)]
)
def test_a_compiled_step_by_kernels_is_a_plain_one(rng, monkeypatch, encoder_input):
    config = replace(PRESETS["tiny"].model, encoder_input=encoder_input)
    plain, compiled = (build_model(config, NUM_CODES, seed=0) for _ in range(2))
    torch._dynamo.reset()
    compiled.compile_parts("aot_eager")
    met, run_forward = [], attention.run_forward
    monkeypatch.setattr(attention, "run_forward", lambda *x: met.append(1) or run_forward(*x))
    for lengths in ([9, 20, 33], [30, 2, 41, 5]):  # the second finds what the first compiled
        batch = random_batch(rng, lengths, [n // 4 for n in lengths])
        expected, expected_grads = take_step(plain, batch, torch.float32)
        found, grads = take_step(compiled, batch, torch.float16)
        # float16 rounds by 5e-4, a few times in a row.
        assert found == pytest.approx(expected, rel=2e-3)
        for name, grad in expected_grads.items():
            assert (grads[name] - grad).norm() <= 5e-3 * grad.norm(), name
    assert len(met) == 2 * (config.num_layers + config.num_decoder_layers)
    torch._dynamo.reset()
