"""Sums, norms and GELU in one kernel each equal torch's, and so do their gradients."""

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm

from cvmae.model.residual import Residual, add_norm, product, widen

pytest.importorskip("triton")

WIDTHS = (32, 192, 256, pytest.param(1024, marks=pytest.mark.slow))


def assert_close(found, wanted, rounding):
    """Compare by norms: single values are rounded by more, sums of many by less."""
    assert found.isfinite().all()
    difference = (found.double() - wanted.double()).norm()
    assert difference <= rounding * wanted.double().norm(), difference / wanted.double().norm()


def draw_rows(place, width, num_rows):
    return torch.randn(num_rows, width, device=place.device).to(place.kind).requires_grad_()


def draw_norm(place, width):
    norm = nn.LayerNorm(width, device=place.device)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("is_single", [True, False])
def test_one_kernel_adds_and_norms(place, width, is_single):
    torch.manual_seed(0)
    num_rows = 1 if is_single else place.num_rows
    x, rest = (draw_rows(place, width, num_rows) for _ in range(2))
    norm = draw_norm(place, width)
    bias = torch.randn(width, device=place.device, requires_grad=True)
    inputs = [x, rest, bias, norm.weight, norm.bias]
    exact = [value.detach().double().requires_grad_() for value in inputs]
    outputs = add_norm(Residual(x, rest, bias), norm)
    assert outputs[0].grad_fn.name().startswith("Generated")  # our operator's, not torch's
    total = exact[0] + exact[1] + exact[2]
    wanted = total, layer_norm(total, (width,), *exact[3:])
    upstream = [draw_rows(place, width, num_rows).detach() for _ in range(2)]
    grads = torch.autograd.grad(outputs, inputs, upstream)
    exact_grads = torch.autograd.grad(wanted, exact, [grad.double() for grad in upstream])
    for found, reference in zip((*outputs, *grads), (*wanted, *exact_grads), strict=True):
        assert_close(found, reference, place.rounding)


@pytest.mark.parametrize("width", WIDTHS)
def test_one_kernel_adds_a_bias_and_bends(place, width):
    torch.manual_seed(0)
    x = draw_rows(place, width, place.num_rows)
    layer = nn.Linear(width, 4 * width, device=place.device)
    nn.init.normal_(layer.bias)
    upstream = draw_rows(place, 4 * width, place.num_rows).detach()
    with torch.autocast(place.device, place.kind):
        result = widen(layer, x)
    assert result.grad_fn.name().startswith("Generated")
    exact = nn.Linear(width, 4 * width, device=place.device).double()
    exact.load_state_dict(layer.state_dict())
    exact_x = x.detach().double().requires_grad_()
    plain = gelu(exact(exact_x))
    grads = torch.autograd.grad(result, [x, *layer.parameters()], upstream)
    wanted = torch.autograd.grad(plain, [exact_x, *exact.parameters()], upstream.double())
    for one, other in zip((result, *grads), (plain, *wanted), strict=True):
        # Weights and the product are rounded too, and GELU's slope takes a rounded product.
        assert_close(one, other, 2 * place.rounding)


def test_no_rows_make_no_rows_and_gradients_of_zero(place):
    norm, layer = draw_norm(place, 32), nn.Linear(32, 128, device=place.device)
    x, rest = (draw_rows(place, 32, 0) for _ in range(2))
    bias = torch.randn(32, device=place.device, requires_grad=True)
    with torch.autocast(place.device, place.kind):
        total, normed = add_norm(Residual(x, rest, bias), norm)
        widened = widen(layer, normed)
    assert (len(total), len(widened)) == (0, 0)
    parameters = [bias, *norm.parameters(), *layer.parameters()]
    for grad in torch.autograd.grad(total.sum() + widened.sum(), parameters):
        assert not grad.any()


def test_a_product_for_a_kernel_leaves_its_bias_to_it(place):
    layer, x = nn.Linear(24, 40, device=place.device).to(place.kind), draw_rows(place, 24, 3)
    rows, bias = product(layer, x)
    assert bias is layer.bias
    assert torch.equal(rows, nn.functional.linear(x, layer.weight))
