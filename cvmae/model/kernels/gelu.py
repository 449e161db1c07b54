"""A bias and GELU as one Triton kernel, and one for both their gradients.

As in `cvmae.model.kernels.norm`: rows are read once, and the bias's gradient is summed meanwhile,
in a fixed order.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["bias_gelu"]

# Programs that sum over rows: some for each multiprocessor, as many as hide what loads take.
PROGRAMS = 2112
ELEMENTS = 1024  # of the rows that a program holds at a time
COLUMNS = 256  # of a block: columns do not depend on one another

# Shape letters: N rows, D columns, P programs.


@triton.jit  # type: ignore[untyped-decorator]
def _bias_gelu_kernel(  # type: ignore[no-untyped-def]
    x, bias, result, num_rows, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (rows < num_rows)[:, None] & (columns < D)[None, :]
    place = rows.to(tl.int64)[:, None] * D + columns[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + columns, mask=columns < D, other=0.0).to(tl.float32)[None, :]
    value = 0.5 * value * (1 + tl.erf(value * 0.7071067811865476))
    tl.store(result + place, value.to(result.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _bias_gelu_gradient_kernel(  # type: ignore[no-untyped-def]
    grad_result,
    x,
    bias,
    grad_x,
    partial,
    num_rows,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    biases = tl.load(bias + columns, mask=columns < D, other=0.0).to(tl.float32)
    grad_bias = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(tl.program_id(0) * BLOCK_N, num_rows, tl.num_programs(0) * BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        inside = (rows < num_rows)[:, None] & (columns < D)[None, :]
        place = rows.to(tl.int64)[:, None] * D + columns[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) + biases[None, :]
        grad = tl.load(grad_result + place, mask=inside, other=0.0).to(tl.float32)
        below = 0.5 * (1 + tl.erf(value * 0.7071067811865476))
        density = 0.3989422804014327 * tl.exp(-0.5 * value * value)
        grad *= below + value * density
        tl.store(grad_x + place, grad.to(grad_x.dtype.element_ty), mask=inside)
        grad_bias += grad
    place = partial + tl.program_id(0) * D + columns
    tl.store(place, tl.sum(grad_bias, 0), mask=columns < D)


def _partial_shape(width: int) -> tuple[int, int]:
    return PROGRAMS // triton.cdiv(width, COLUMNS), width


def _column_block(width: int) -> dict[str, int]:
    return {"D": width, "BLOCK_N": ELEMENTS // COLUMNS, "BLOCK_D": COLUMNS}


@torch.library.custom_op("cvmae::bias_gelu", mutates_args=())
def _bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    result = torch.empty_like(x)
    num_rows, width = x.shape
    if num_rows:
        sizes = _column_block(width)
        grid = (triton.cdiv(num_rows, sizes["BLOCK_N"]), triton.cdiv(width, COLUMNS))
        _bias_gelu_kernel[grid](x, bias, result, num_rows, **sizes)
    return result


@torch.library.custom_op("cvmae::bias_gelu_backward", mutates_args=())
def _bias_gelu_backward(grad_result: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    grad_x = torch.empty_like(x)
    num_rows, width = x.shape
    columns = triton.cdiv(width, COLUMNS)
    partial = torch.empty(_partial_shape(width), device=x.device, dtype=torch.float32)
    _bias_gelu_gradient_kernel[(len(partial), columns)](
        grad_result.contiguous(), x, bias, grad_x, partial, num_rows, **_column_block(width)
    )
    return grad_x, partial


@_bias_gelu.register_fake
def _(x: Tensor, bias: Tensor) -> Tensor:
    return torch.empty_like(x)


@_bias_gelu_backward.register_fake
def _(grad_result: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), bias.new_empty(_partial_shape(len(bias)), dtype=torch.float32)


def _save_bias_gelu(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _bias_gelu_gradient(ctx: Any, grad_result: Tensor) -> tuple[Tensor, Tensor]:
    grad_x, partial = _bias_gelu_backward(grad_result, *ctx.saved_tensors)
    return grad_x, partial.sum(0).to(ctx.saved_tensors[1].dtype)


_bias_gelu.register_autograd(_bias_gelu_gradient, setup_context=_save_bias_gelu)


def bias_gelu(x_ND: Tensor, bias_D: Tensor) -> Tensor:
    """Return GELU(x + bias); rows in half precision, contiguous."""
    result_ND: Tensor = _bias_gelu(x_ND, bias_D)
    return result_ND
