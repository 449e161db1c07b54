"""Sums on their way to a norm, and GELU: plain torch, or on a GPU kernels that read rows once.

Layers hand a sum on as its terms; whoever needs it adds them where it also takes the norm.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from cvmae.model import kernels

if kernels.HAVE_KERNELS:
    from cvmae.model.kernels import gelu as fused_gelu
    from cvmae.model.kernels import norm as fused_norm

__all__ = ["Residual", "add_norm", "product", "widen"]


class Residual(NamedTuple):
    """A sum that is not taken yet: x + rest + bias."""

    x: Tensor  # [N, D]
    rest: Tensor  # [N, D]
    bias: Tensor | None  # [D]; None: there is none, or `rest` has it


def product(layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the layer's product with rows and its bias, to be added later, or None if it is."""
    if _have_kernels(x, layer):
        return linear(x, layer.weight), layer.bias
    return layer(x), None


def add_norm(terms: Residual, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Return the sum of the terms and its norm, each [N, D]."""
    x, rest, bias = terms
    if bias is not None and _have_kernels(x, norm):
        return fused_norm.add_norm(x, rest, bias, norm.weight, norm.bias, norm.eps)
    total = x + rest
    if bias is not None:
        total = total + bias.to(total.dtype)
    normed: Tensor = norm(total)
    return total, normed.to(total.dtype)


def widen(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return GELU of what the layer makes of rows."""
    if _have_kernels(x, layer):
        return fused_gelu.bias_gelu(linear(x, layer.weight), layer.bias)
    widened: Tensor = layer(x)
    return gelu(widened)


def _have_kernels(x: Tensor, layer: nn.Module) -> bool:
    """Tell whether kernels take products of these rows by whole weights."""
    # ZeRO-3 brings the parts of a layer's weights together when the layer itself is called.
    return not hasattr(layer.weight, "ds_id") and kernels.take(x, products=True)
