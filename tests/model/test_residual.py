"""Sums on their way to a norm, and GELU, where no kernel takes them."""

import torch
from torch import nn
from torch.nn.functional import gelu

from cvmae.model.residual import Residual, add_norm, product, widen


def rows(width):
    return torch.randn(5, width)


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
