"""A sum and its LayerNorm as one Triton kernel, and one for all their gradients.

At the paper's width a layer is bound by memory: each kernel here reads and writes rows once. What a
compiler does not do: backward, the gradients of bias and norm are summed over rows while these
are in registers, instead of reading them once more each. Sums are taken in a fixed order.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["add_norm"]

# Programs that sum over rows: some for each multiprocessor, as many as hide what loads take.
PROGRAMS = 660
ELEMENTS = 1024  # of the rows that a program holds at a time

# Shape letters: N rows, D columns, P programs.


@triton.jit  # type: ignore[untyped-decorator]
def _add_norm_kernel(  # type: ignore[no-untyped-def]
    x,
    rest,
    bias,
    gain,
    offset,
    total,
    normed,
    num_rows,
    epsilon,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_D)
    inside = (rows < num_rows)[:, None] & (columns < D)[None, :]
    place = rows.to(tl.int64)[:, None] * D + columns[None, :]
    added = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    added += tl.load(rest + place, mask=inside, other=0.0).to(tl.float32)
    added += tl.load(bias + columns, mask=columns < D, other=0.0).to(tl.float32)[None, :]
    rounded = added.to(total.dtype.element_ty)
    tl.store(total + place, rounded, mask=inside)
    added = rounded.to(tl.float32)
    mean = tl.sum(added, 1) / D
    centred = tl.where(inside, added - mean[:, None], 0.0)
    rate = tl.rsqrt(tl.sum(centred * centred, 1) / D + epsilon)
    gains = tl.load(gain + columns, mask=columns < D, other=0.0).to(tl.float32)
    offsets = tl.load(offset + columns, mask=columns < D, other=0.0).to(tl.float32)
    result = centred * rate[:, None] * gains[None, :] + offsets[None, :]
    tl.store(normed + place, result.to(normed.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _add_norm_gradient_kernel(  # type: ignore[no-untyped-def]
    grad_total,
    grad_normed,
    total,
    gain,
    grad_x,
    partial,
    num_rows,
    epsilon,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    columns = tl.arange(0, BLOCK_D)
    gains = tl.load(gain + columns, mask=columns < D, other=0.0).to(tl.float32)
    grad_gain = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    grad_offset = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    grad_bias = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(tl.program_id(0) * BLOCK_N, num_rows, tl.num_programs(0) * BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        inside = (rows < num_rows)[:, None] & (columns < D)[None, :]
        place = rows.to(tl.int64)[:, None] * D + columns[None, :]
        added = tl.load(total + place, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_normed + place, mask=inside, other=0.0).to(tl.float32)
        mean = tl.sum(added, 1) / D
        centred = tl.where(inside, added - mean[:, None], 0.0)
        rate = tl.rsqrt(tl.sum(centred * centred, 1) / D + epsilon)
        unit = centred * rate[:, None]
        grad_gain += grad * unit
        grad_offset += grad
        scaled = grad * gains[None, :]
        along = tl.sum(scaled * unit, 1) / D
        level = tl.sum(scaled, 1) / D
        result = (scaled - unit * along[:, None] - level[:, None]) * rate[:, None]
        result += tl.load(grad_total + place, mask=inside, other=0.0).to(tl.float32)
        result = tl.where(inside, result, 0.0)
        tl.store(grad_x + place, result.to(grad_x.dtype.element_ty), mask=inside)
        grad_bias += result
    place = partial + tl.program_id(0) * 3 * D + columns
    tl.store(place, tl.sum(grad_bias, 0), mask=columns < D)
    tl.store(place + D, tl.sum(grad_gain, 0), mask=columns < D)
    tl.store(place + 2 * D, tl.sum(grad_offset, 0), mask=columns < D)


def _row_block(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"D": width, "BLOCK_N": max(1, ELEMENTS // block), "BLOCK_D": block}


@torch.library.custom_op("cvmae::add_norm", mutates_args=())
def _add_norm(
    x: Tensor, rest: Tensor, bias: Tensor, gain: Tensor, offset: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    total, normed = torch.empty_like(x), torch.empty_like(x)
    num_rows, width = x.shape
    if num_rows:
        sizes = _row_block(width)
        _add_norm_kernel[(triton.cdiv(num_rows, sizes["BLOCK_N"]),)](
            x, rest, bias, gain, offset, total, normed, num_rows, epsilon, **sizes
        )
    return total, normed


@torch.library.custom_op("cvmae::add_norm_backward", mutates_args=())
def _add_norm_backward(
    grad_total: Tensor, grad_normed: Tensor, total: Tensor, gain: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    grad_x = torch.empty_like(total)
    num_rows, width = total.shape
    partial = torch.empty((PROGRAMS, 3, width), device=total.device, dtype=torch.float32)
    _add_norm_gradient_kernel[(PROGRAMS,)](
        grad_total.contiguous(),
        grad_normed.contiguous(),
        total,
        gain,
        grad_x,
        partial,
        num_rows,
        epsilon,
        **_row_block(width),
    )
    return grad_x, partial


@_add_norm.register_fake
def _(
    x: Tensor, rest: Tensor, bias: Tensor, gain: Tensor, offset: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


@_add_norm_backward.register_fake
def _(
    grad_total: Tensor, grad_normed: Tensor, total: Tensor, gain: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(total), gain.new_empty((PROGRAMS, 3, *gain.shape), dtype=torch.float32)


def _save_add_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *_, bias, gain, offset, ctx.epsilon = inputs
    ctx.save_for_backward(output[0], gain)
    ctx.kinds = [bias.dtype, gain.dtype, offset.dtype]


def _add_norm_gradient(
    ctx: Any, grad_total: Tensor, grad_normed: Tensor
) -> tuple[Tensor | None, ...]:
    grad_x, partial = _add_norm_backward(grad_total, grad_normed, *ctx.saved_tensors, ctx.epsilon)
    sums = zip(partial.sum(0).unbind(), ctx.kinds, strict=True)
    return grad_x, grad_x, *(grad.to(kind) for grad, kind in sums), None


_add_norm.register_autograd(_add_norm_gradient, setup_context=_save_add_norm)


def add_norm(
    x_ND: Tensor,
    rest_ND: Tensor,
    bias_D: Tensor,
    gain_D: Tensor,
    offset_D: Tensor,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Return x + rest + bias, and its LayerNorm; rows in half precision, contiguous."""
    total_ND, normed_ND = _add_norm(x_ND, rest_ND, bias_D, gain_D, offset_D, epsilon)
    return total_ND, normed_ND
