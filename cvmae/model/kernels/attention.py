"""The attention kernels as operators that autograd and torch.compile know."""

from typing import Any

import torch
from torch import Tensor

from cvmae.model.kernels.attention_forward import run_forward
from cvmae.model.kernels.attention_gradient import run_backward

__all__ = ["cross_attention", "self_attention"]

# Shape letters: B sequences, N rows, Q queries, K keys, H heads, D dimension of a head.


@torch.library.custom_op("cvmae::self_attention", mutates_args=())
def _self_attention(packed: Tensor, offsets: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    query, key, value = packed.unbind(1)
    return run_forward(query, key, value, (offsets, offsets), longest)


@torch.library.custom_op("cvmae::self_attention_backward", mutates_args=())
def _self_attention_backward(
    grad_output: Tensor,
    packed: Tensor,
    output: Tensor,
    log_sum: Tensor,
    offsets: Tensor,
    longest: int,
) -> Tensor:
    grad_packed = torch.empty_like(packed)
    inputs, grads = packed.unbind(1), grad_packed.unbind(1)
    run_backward(grad_output, inputs, (output, log_sum), (offsets, offsets), longest, grads)
    return grad_packed


@torch.library.custom_op("cvmae::cross_attention", mutates_args=())
def _cross_attention(
    query: Tensor, packed: Tensor, query_offsets: Tensor, key_offsets: Tensor, longest: int
) -> tuple[Tensor, Tensor]:
    key, value = packed.unbind(1)
    return run_forward(query, key, value, (query_offsets, key_offsets), longest)


@torch.library.custom_op("cvmae::cross_attention_backward", mutates_args=())
def _cross_attention_backward(
    grad_output: Tensor,
    query: Tensor,
    packed: Tensor,
    output: Tensor,
    log_sum: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    longest: int,
) -> tuple[Tensor, Tensor]:
    grad_query, grad_packed = torch.empty_like(query), torch.empty_like(packed)
    inputs = (query, *packed.unbind(1))
    grads = (grad_query, *grad_packed.unbind(1))
    offsets = (query_offsets, key_offsets)
    run_backward(grad_output, inputs, (output, log_sum), offsets, longest, grads)
    return grad_query, grad_packed


def _outputs_like(query: Tensor) -> tuple[Tensor, Tensor]:
    num_rows, heads, _ = query.shape
    log_sum = query.new_empty((heads, num_rows), dtype=torch.float32)
    return query.new_empty(query.shape), log_sum


@_self_attention.register_fake
def _(packed: Tensor, offsets: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    return _outputs_like(packed[:, 0])


@_self_attention_backward.register_fake
def _(
    grad_output: Tensor,
    packed: Tensor,
    output: Tensor,
    log_sum: Tensor,
    offsets: Tensor,
    longest: int,
) -> Tensor:
    return torch.empty_like(packed)


@_cross_attention.register_fake
def _(
    query: Tensor, packed: Tensor, query_offsets: Tensor, key_offsets: Tensor, longest: int
) -> tuple[Tensor, Tensor]:
    return _outputs_like(query)


@_cross_attention_backward.register_fake
def _(
    grad_output: Tensor,
    query: Tensor,
    packed: Tensor,
    output: Tensor,
    log_sum: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    longest: int,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(packed)


def _save_self(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    packed, offsets, ctx.longest = inputs
    ctx.save_for_backward(packed, *output, offsets)


def _self_gradient(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    grad = _self_attention_backward(grad_output, *ctx.saved_tensors, ctx.longest)
    return grad, None, None


def _save_cross(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor, int], output: tuple[Tensor, Tensor]
) -> None:
    query, packed, query_offsets, key_offsets, ctx.longest = inputs
    ctx.save_for_backward(query, packed, *output, query_offsets, key_offsets)


def _cross_gradient(
    ctx: Any, grad_output: Tensor, _: Tensor
) -> tuple[Tensor, Tensor, None, None, None]:
    grads = _cross_attention_backward(grad_output, *ctx.saved_tensors, ctx.longest)
    return (*grads, None, None, None)


_self_attention.register_autograd(_self_gradient, setup_context=_save_self)
_cross_attention.register_autograd(_cross_gradient, setup_context=_save_cross)


def self_attention(packed_N3HD: Tensor, offsets_B: Tensor, longest: int) -> Tensor:
    """Attend within sequences, [N, 3, H, D] (query, key, value) to [N, H, D].

    Args:
        packed_N3HD: In half precision, contiguous.
        offsets_B: B + 1 offsets (int32) that cover all rows.
        longest: Rows of a sequence at most; more than there are costs little.
    """
    output_NHD: Tensor = _self_attention(packed_N3HD, offsets_B, longest)[0]
    return output_NHD


def cross_attention(
    query_QHD: Tensor,
    packed_K2HD: Tensor,
    query_offsets_B: Tensor,
    key_offsets_B: Tensor,
    longest: int,
) -> Tensor:
    """Attend from queries to the keys of the same sequence, [Q, H, D] and [K, 2, H, D]."""
    output_QHD: Tensor
    output_QHD, _ = _cross_attention(
        query_QHD, packed_K2HD, query_offsets_B, key_offsets_B, longest
    )
    return output_QHD
