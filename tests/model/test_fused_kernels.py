"""Sums, norms and GELU in one kernel each equal torch's, and so do their gradients."""

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm

from cvmae.model.residual import Residual, add_norm, product, widen

NUM_ROWS = 1037  # no multiple of a block


def rows(width, device="cpu", num_rows=NUM_ROWS):
    return torch.randn(num_rows, width, device=device).requires_grad_()


def test_without_kernels_a_sum_is_taken_term_by_term():
    norm, x, rest = nn.LayerNorm(24), rows(24), rows(24)
    total, normed = add_norm(Residual(x, rest, None), norm)
    assert torch.equal(total, x + rest)
    assert torch.equal(normed, norm(x + rest))
    bias = torch.randn(24)
    assert torch.equal(add_norm(Residual(x, rest, bias), norm)[0], x + rest + bias)


def test_without_kernels_a_product_has_its_bias():
    layer, x = nn.Linear(24, 40), rows(24)
    assert product(layer, x)[1] is None
    assert torch.equal(product(layer, x)[0], layer(x))
    assert torch.equal(widen(layer, x), gelu(layer(x)))


def assert_close(found, wanted):
    """Compare by norms: bfloat16 rounds single values by 0.4%, sums of a thousand by less."""
    assert found.isfinite().all()
    difference = (found.double() - wanted.double()).norm()
    assert difference <= 0.01 * wanted.double().norm(), difference / wanted.double().norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("width", [32, 192, 256, 1024])
@pytest.mark.parametrize("num_rows", [1, NUM_ROWS])
def test_one_kernel_adds_and_norms(width, num_rows):
    torch.manual_seed(0)
    x, rest = (rows(width, "cuda", num_rows).detach().bfloat16() for _ in range(2))
    norm = nn.LayerNorm(width, device="cuda")
    bias = torch.randn(width, device="cuda", requires_grad=True)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    inputs = [x.requires_grad_(), rest.requires_grad_(), bias, norm.weight, norm.bias]
    exact = [value.detach().double().requires_grad_() for value in inputs]
    outputs = add_norm(Residual(x, rest, bias), norm)
    total = exact[0] + exact[1] + exact[2]
    wanted = total, layer_norm(total, (width,), *exact[3:])
    upstream = [torch.randn(num_rows, width, device="cuda").bfloat16() for _ in range(2)]
    grads = torch.autograd.grad(outputs, inputs, upstream)
    exact_grads = torch.autograd.grad(wanted, exact, [grad.double() for grad in upstream])
    for found, reference in zip((*outputs, *grads), (*wanted, *exact_grads), strict=True):
        assert_close(found, reference)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("width", [32, 192, 1024])
def test_one_kernel_adds_a_bias_and_bends(width):
    torch.manual_seed(0)
    x = rows(width, "cuda").detach().bfloat16().requires_grad_()
    layer = nn.Linear(width, 4 * width, device="cuda")
    nn.init.normal_(layer.bias)
    upstream = torch.randn(NUM_ROWS, 4 * width, device="cuda").bfloat16()
    found, wanted = [], []
    with torch.autocast("cuda", torch.bfloat16):
        result = widen(layer, x)
        plain = gelu(layer(x))
    found = [result, *torch.autograd.grad(result, [x, *layer.parameters()], upstream)]
    wanted = [plain, *torch.autograd.grad(plain, [x, *layer.parameters()], upstream)]
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other)
