"""The kernels of attention against a plain loop over sequences."""

import importlib

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.model.test_attention import (
    LENGTHS,
    attend,
    attend_one_by_one,
    draw,
    lengths,
    plan_on,
)

pytest.importorskip("triton")

from cvmae.model import attention, kernels
from cvmae.model.kernels.attention import cross_attention, self_attention

# The widest is right as well, though not every GPU has the memory.
HEAD_DIMS = (16, 32, 64, pytest.param(128, marks=pytest.mark.slow))


def attend_by_kernels(query, key, value, plan, longest=None):
    """Attend by the operators themselves, whatever decides on them elsewhere."""
    longest = longest or plan.longest
    if np.array_equal(plan.num_queries_B, plan.num_keys_B):
        packed = torch.stack([query, key, value], dim=1)
        return self_attention(packed, plan.query_offsets_B, longest)
    packed = torch.stack([key, value], dim=1)
    offsets = plan.query_offsets_B, plan.key_offsets_B
    return cross_attention(query, packed, *offsets, longest)


def draw_half(rng, place, num_queries, num_keys, head_dim):
    exact = draw(rng, num_queries, num_keys, num_heads=2, head_dim=head_dim)
    return [x.detach().to(place.device, place.kind).requires_grad_() for x in exact]


def skip_too_wide(place, head_dim):
    if place.device == "cuda" and head_dim not in kernels.HEAD_DIMS:
        pytest.skip("takes more shared memory than some GPUs have")


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("name", LENGTHS)
def test_kernels_equal_a_loop_over_sequences(rng, place, name, head_dim):
    skip_too_wide(place, head_dim)
    num_queries, num_keys = lengths(name)
    half = draw_half(rng, place, num_queries, num_keys, head_dim)
    expected = attend_one_by_one(*half, num_queries, num_keys)
    output = attend_by_kernels(*half, plan_on(place.device, num_queries, num_keys))
    # Outputs of up to about three are rounded, and weights before the values are summed.
    tolerance = 3 * place.rounding
    torch.testing.assert_close(output.double(), expected, atol=tolerance, rtol=tolerance)
    if "no " in name:
        return
    upstream = torch.from_numpy(rng.normal(size=output.shape)).to(place.device)
    grads = torch.autograd.grad(output, half, upstream.to(place.kind))
    wanted = torch.autograd.grad(expected, half, upstream)
    for grad, reference in zip(grads, wanted, strict=True):
        difference = (grad.double() - reference.double()).norm()
        assert difference <= place.rounding * reference.double().norm()


@pytest.mark.parametrize("length", [127, 128, 129, 257])
def test_sequences_are_attended_to_their_end_whatever_the_bound(rng, place, length):
    """Kernels go as far as the longest sequence may be, in blocks of 32 to 128 rows."""
    num = np.array([length, 3])
    half = draw_half(rng, place, num, num, 16)
    plan, results = plan_on(place.device, num, num), []
    for longest in (length, length + 1, 512):
        output = attend_by_kernels(*half, plan, longest)
        grads = torch.autograd.grad(output.float().square().sum(), half)
        results.append([output, *grads])
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert torch.equal(one, other)
    expected = attend_one_by_one(*half, num, num)
    torch.testing.assert_close(results[0][0].double(), expected, atol=3 * place.rounding, rtol=0)


def test_kernels_give_the_same_bits_every_time(rng, place):
    num_queries, num_keys = lengths("cross")
    half = draw_half(rng, place, num_queries, num_keys, 16)

    def once():
        output = attend_by_kernels(*half, plan_on(place.device, num_queries, num_keys))
        return [output, *torch.autograd.grad(output.float().square().sum(), half)]

    for one, other in zip(once(), once(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("head_dim", "kind", "is_taken"),
    [(16, "half", True), (24, "half", False), (128, "half", False), (16, "float32", False)],
)
def test_rows_are_attended_by_kernels_where_these_take_them(
    rng, place, monkeypatch, head_dim, kind, is_taken
):
    met = []
    for name in ("self_attention", "cross_attention"):
        monkeypatch.setattr(attention.operators, name, lambda *_: met.append(1))
    monkeypatch.setattr(attention, "_bucketed_attention", lambda *_: None)
    for name in ("self, equal", "cross"):
        num_queries, num_keys = lengths(name)
        inputs = draw_half(rng, place, num_queries, num_keys, head_dim)
        if kind == "float32":
            inputs = [x.float() for x in inputs]
        attend(*inputs, plan_on(place.device, num_queries, num_keys))
    assert met == [1, 1] * is_taken


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_interpreter_takes_no_bfloat16(monkeypatch, device):
    """It would take the bits for those of whole numbers."""
    monkeypatch.setattr(kernels, "HAVE_KERNELS", True)
    monkeypatch.setattr(kernels, "INTERPRETED", True)
    with FakeTensorMode():  # rows of a GPU that may not be there
        rows = torch.zeros(3, 2, 16, dtype=torch.bfloat16, device=device)
        assert not kernels.take(rows)
        assert kernels.take(rows.half())
        with torch.autocast("cpu", torch.bfloat16, enabled=device == "cpu"):
            assert not kernels.take(rows.float(), products=True)


def test_compiled_kernels_take_half_precision_on_a_gpu_only(monkeypatch):
    monkeypatch.setattr(kernels, "HAVE_KERNELS", True)
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with FakeTensorMode():
        for kind in (torch.float16, torch.bfloat16):
            assert kernels.take(torch.zeros(3, 2, 16, dtype=kind, device="cuda"))
            assert not kernels.take(torch.zeros(3, 2, 16, dtype=kind, device="cpu"))
        assert not kernels.take(torch.zeros(3, 2, 16, device="cuda"))


@pytest.mark.parametrize(("word", "expected"), [("true", True), ("1", True), ("0", False)])
def test_kernels_are_interpreted_where_triton_understands_a_yes(monkeypatch, word, expected):
    monkeypatch.setenv("TRITON_INTERPRET", word)
    try:
        assert importlib.reload(kernels).INTERPRETED is expected
    finally:
        monkeypatch.undo()
        importlib.reload(kernels)
