"""Gradients of ragged attention on a GPU as two Triton kernels: of queries, of keys and values.

Each gradient is summed by one program, not by atomics: the result is the same bits every time.
Gradients are written to where the packed output of the projection has theirs.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from cvmae.model.kernels.blocks import Launch, bounds, load_block, store_block

__all__ = ["run_backward"]

# Shape letters: B sequences, Q queries, K keys (both packed), H heads, D dimension of a head.

# For heads of up to 32 dimensions and for wider ones, by measurement on an H100.
QUERY_LAUNCHES = (Launch(128, 32, 4, 3), Launch(128, 64, 8, 3))
KEY_LAUNCHES = (Launch(32, 128, 4, 3), Launch(32, 128, 4, 3))


@triton.jit  # type: ignore[untyped-decorator]
def _query_gradient_kernel(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    output,
    log_sum,
    grad_output,
    grad_query,
    shift_of,
    query_offsets,
    key_offsets,
    num_rows,
    query_stride,
    key_stride,
    scale,
    log2_scale,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write the gradients of a block of queries, and <output, its gradient> of each."""
    sequence, head = tl.program_id(0) // H, tl.program_id(0) % H
    first_q, num_q, first_k, num_k = bounds(query_offsets, key_offsets, sequence)
    start_q = tl.program_id(1) * BLOCK_Q
    if start_q < num_q:
        rows = start_q + tl.arange(0, BLOCK_Q)
        q = load_block(query, first_q, rows, num_q, query_stride, head, D)
        grad = load_block(grad_output, first_q, rows, num_q, H * D, head, D)
        out = load_block(output, first_q, rows, num_q, H * D, head, D)
        shift = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
        place = head * num_rows + first_q + rows
        tl.store(shift_of + place, shift, mask=rows < num_q)
        level = tl.load(log_sum + place, mask=rows < num_q, other=float("inf"))
        grad_q = tl.zeros([BLOCK_Q, D], tl.float32)
        for start_k in range(0, num_k, BLOCK_K):
            columns = start_k + tl.arange(0, BLOCK_K)
            k = load_block(key, first_k, columns, num_k, key_stride, head, D)
            v = load_block(value, first_k, columns, num_k, key_stride, head, D)
            weight = tl.exp2(tl.dot(q, tl.trans(k)) * log2_scale - level[:, None])
            weight = tl.where((columns < num_k)[None, :], weight, 0.0)
            grad_weight = tl.dot(grad, tl.trans(v))
            grad_score = weight * (grad_weight - shift[:, None])
            grad_q += tl.dot(grad_score.to(k.dtype), k)
        store_block(grad_query, first_q, rows, num_q, query_stride, head, grad_q * scale, D)


@triton.jit  # type: ignore[untyped-decorator]
def _key_gradient_kernel(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    log_sum,
    grad_output,
    grad_key,
    grad_value,
    shift_of,
    query_offsets,
    key_offsets,
    num_rows,
    query_stride,
    key_stride,
    scale,
    log2_scale,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write the gradients of a block of keys and values, after `_query_gradient_kernel`."""
    sequence, head = tl.program_id(0) // H, tl.program_id(0) % H
    first_q, num_q, first_k, num_k = bounds(query_offsets, key_offsets, sequence)
    start_k = tl.program_id(1) * BLOCK_K
    if start_k < num_k:
        columns = start_k + tl.arange(0, BLOCK_K)
        k = load_block(key, first_k, columns, num_k, key_stride, head, D)
        v = load_block(value, first_k, columns, num_k, key_stride, head, D)
        grad_k = tl.zeros([BLOCK_K, D], tl.float32)
        grad_v = tl.zeros([BLOCK_K, D], tl.float32)
        for start_q in range(0, num_q, BLOCK_Q):
            rows = start_q + tl.arange(0, BLOCK_Q)
            q = load_block(query, first_q, rows, num_q, query_stride, head, D)
            grad = load_block(grad_output, first_q, rows, num_q, H * D, head, D)
            place = head * num_rows + first_q + rows
            shift = tl.load(shift_of + place, mask=rows < num_q, other=0.0)
            level = tl.load(log_sum + place, mask=rows < num_q, other=float("inf"))
            # Keys down, queries across: weights are then multiplied from where they are.
            weight = tl.exp2(tl.dot(k, tl.trans(q)) * log2_scale - level[None, :])
            grad_v += tl.dot(weight.to(grad.dtype), grad)
            grad_weight = tl.dot(v, tl.trans(grad))
            grad_score = weight * (grad_weight - shift[None, :])
            grad_k += tl.dot(grad_score.to(q.dtype), q)
        store_block(grad_key, first_k, columns, num_k, key_stride, head, grad_k * scale, D)
        store_block(grad_value, first_k, columns, num_k, key_stride, head, grad_v, D)


def run_backward(
    grad_output: Tensor,
    inputs: Sequence[Tensor],
    saved: tuple[Tensor, Tensor],
    offsets: tuple[Tensor, Tensor],
    longest: int,
    grads: Sequence[Tensor],
) -> None:
    """Write the gradients of query, key and value.

    Args:
        grad_output: [Q, H, D].
        inputs: Query, key and value.
        saved: What `run_forward` returned.
        offsets: As there.
        longest: As there.
        grads: To write to, laid out as the inputs.
    """
    (query, key, _), (output, log_sum) = inputs, saved
    num_rows, heads, dim = query.shape
    grad_output = grad_output.contiguous()
    shift = torch.empty((heads, num_rows), device=query.device, dtype=torch.float32)
    scale = 1 / math.sqrt(dim)
    sizes = (num_rows, query.stride(0), key.stride(0), scale, scale * math.log2(math.e))
    programs = (len(offsets[0]) - 1) * heads
    launch = QUERY_LAUNCHES[dim > 32]
    if programs and num_rows:
        _query_gradient_kernel[(programs, triton.cdiv(longest, launch.queries))](
            *inputs,
            output,
            log_sum,
            grad_output,
            grads[0],
            shift,
            *offsets,
            *sizes,
            H=heads,
            D=dim,
            **launch.constants(),
        )
    launch = KEY_LAUNCHES[dim > 32]
    if programs and len(key):
        _key_gradient_kernel[(programs, triton.cdiv(longest, launch.keys))](
            *inputs,
            log_sum,
            grad_output,
            *grads[1:],
            shift,
            *offsets,
            *sizes,
            H=heads,
            D=dim,
            **launch.constants(),
        )
