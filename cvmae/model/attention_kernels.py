"""Ragged attention on a GPU as Triton kernels: forward, gradient of queries, gradient of keys.

Sequences here are short (at most some hundreds of measurements) and heads narrow (32), where
general kernels spend their time on other things than arithmetic. Each gradient is summed by one
program, not by atomics: the result is the same bits every time. Query, key and value are read
from, and their gradients written to, the packed output of the projection, which is never copied.

The method is FlashAttention-2's (Dao, 2023): scores are never stored, backward computes them
again from their row-wise logarithm of sums.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["run_backward", "run_forward"]

# Shape letters: B sequences, Q queries, K keys (both packed), H heads, D dimension of a head.


@triton.jit  # type: ignore[untyped-decorator]
def _load(base, first, rows, num_rows, stride, head, D: tl.constexpr):  # type: ignore[no-untyped-def]
    dims = tl.arange(0, D)
    place = (first + rows).to(tl.int64)[:, None] * stride + head * D + dims[None, :]
    return tl.load(base + place, mask=(rows < num_rows)[:, None], other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _store(base, first, rows, num_rows, stride, head, x, D: tl.constexpr):  # type: ignore[no-untyped-def]
    dims = tl.arange(0, D)
    place = (first + rows).to(tl.int64)[:, None] * stride + head * D + dims[None, :]
    tl.store(base + place, x.to(base.dtype.element_ty), mask=(rows < num_rows)[:, None])


@triton.jit
def _bounds(query_offsets, key_offsets, sequence):  # type: ignore[no-untyped-def]
    first_q, first_k = tl.load(query_offsets + sequence), tl.load(key_offsets + sequence)
    num_q = tl.load(query_offsets + sequence + 1) - first_q
    num_k = tl.load(key_offsets + sequence + 1) - first_k
    return first_q, num_q, first_k, num_k


@triton.jit  # type: ignore[untyped-decorator]
def _forward_kernel(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    output,
    log_sum,
    query_offsets,
    key_offsets,
    num_rows,
    query_stride,
    key_stride,
    log2_scale,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Attend from a block of a sequence's queries, of one head."""
    sequence, head = tl.program_id(0) // H, tl.program_id(0) % H
    first_q, num_q, first_k, num_k = _bounds(query_offsets, key_offsets, sequence)
    start_q = tl.program_id(1) * BLOCK_Q
    if start_q < num_q:
        rows = start_q + tl.arange(0, BLOCK_Q)
        q = _load(query, first_q, rows, num_q, query_stride, head, D)
        largest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_Q], tl.float32)
        result = tl.zeros([BLOCK_Q, D], tl.float32)
        for start_k in range(0, num_k, BLOCK_K):
            columns = start_k + tl.arange(0, BLOCK_K)
            k = _load(key, first_k, columns, num_k, key_stride, head, D)
            v = _load(value, first_k, columns, num_k, key_stride, head, D)
            score = tl.dot(q, tl.trans(k)) * log2_scale
            score = tl.where((columns < num_k)[None, :], score, float("-inf"))
            now = tl.maximum(largest, tl.max(score, 1))
            weight = tl.exp2(score - now[:, None])
            shrink = tl.exp2(largest - now)
            total = total * shrink + tl.sum(weight, 1)
            result = result * shrink[:, None] + tl.dot(weight.to(v.dtype), v)
            largest = now
        total = tl.where(num_k > 0, total, 1.0)  # queries without keys get zeros
        _store(output, first_q, rows, num_q, H * D, head, result / total[:, None], D)
        place = log_sum + head * num_rows + first_q + rows
        tl.store(place, largest + tl.log2(total), mask=rows < num_q)


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
    first_q, num_q, first_k, num_k = _bounds(query_offsets, key_offsets, sequence)
    start_q = tl.program_id(1) * BLOCK_Q
    if start_q < num_q:
        rows = start_q + tl.arange(0, BLOCK_Q)
        q = _load(query, first_q, rows, num_q, query_stride, head, D)
        grad = _load(grad_output, first_q, rows, num_q, H * D, head, D)
        out = _load(output, first_q, rows, num_q, H * D, head, D)
        shift = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
        place = head * num_rows + first_q + rows
        tl.store(shift_of + place, shift, mask=rows < num_q)
        level = tl.load(log_sum + place, mask=rows < num_q, other=float("inf"))
        grad_q = tl.zeros([BLOCK_Q, D], tl.float32)
        for start_k in range(0, num_k, BLOCK_K):
            columns = start_k + tl.arange(0, BLOCK_K)
            k = _load(key, first_k, columns, num_k, key_stride, head, D)
            v = _load(value, first_k, columns, num_k, key_stride, head, D)
            weight = tl.exp2(tl.dot(q, tl.trans(k)) * log2_scale - level[:, None])
            weight = tl.where((columns < num_k)[None, :], weight, 0.0)
            grad_weight = tl.dot(grad, tl.trans(v))
            grad_score = weight * (grad_weight - shift[:, None])
            grad_q += tl.dot(grad_score.to(k.dtype), k)
        _store(grad_query, first_q, rows, num_q, query_stride, head, grad_q * scale, D)


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
    first_q, num_q, first_k, num_k = _bounds(query_offsets, key_offsets, sequence)
    start_k = tl.program_id(1) * BLOCK_K
    if start_k < num_k:
        columns = start_k + tl.arange(0, BLOCK_K)
        k = _load(key, first_k, columns, num_k, key_stride, head, D)
        v = _load(value, first_k, columns, num_k, key_stride, head, D)
        grad_k = tl.zeros([BLOCK_K, D], tl.float32)
        grad_v = tl.zeros([BLOCK_K, D], tl.float32)
        for start_q in range(0, num_q, BLOCK_Q):
            rows = start_q + tl.arange(0, BLOCK_Q)
            q = _load(query, first_q, rows, num_q, query_stride, head, D)
            grad = _load(grad_output, first_q, rows, num_q, H * D, head, D)
            place = head * num_rows + first_q + rows
            shift = tl.load(shift_of + place, mask=rows < num_q, other=0.0)
            level = tl.load(log_sum + place, mask=rows < num_q, other=float("inf"))
            # Keys down, queries across: weights are then multiplied from where they are.
            weight = tl.exp2(tl.dot(k, tl.trans(q)) * log2_scale - level[None, :])
            grad_v += tl.dot(weight.to(grad.dtype), grad)
            grad_weight = tl.dot(v, tl.trans(grad))
            grad_score = weight * (grad_weight - shift[None, :])
            grad_k += tl.dot(grad_score.to(q.dtype), q)
        _store(grad_key, first_k, columns, num_k, key_stride, head, grad_k * scale, D)
        _store(grad_value, first_k, columns, num_k, key_stride, head, grad_v, D)


class Launch(NamedTuple):
    """How a kernel cuts its work, by measurement on an H100."""

    queries: int  # of a block
    keys: int
    warps: int
    stages: int

    def constants(self) -> dict[str, int]:
        """Return what the kernel is compiled for."""
        return {
            "BLOCK_Q": self.queries,
            "BLOCK_K": self.keys,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


# Of each kernel, for heads of up to 32 dimensions and for wider ones.
LAUNCHES = {
    "forward": (Launch(128, 64, 4, 3), Launch(128, 64, 8, 3)),
    "query gradient": (Launch(128, 32, 4, 3), Launch(128, 64, 8, 3)),
    "key gradient": (Launch(32, 128, 4, 3), Launch(32, 128, 4, 3)),
}


def _launch(kernel: str, dim: int) -> Launch:
    return LAUNCHES[kernel][dim > 32]


def run_forward(
    query: Tensor, key: Tensor, value: Tensor, offsets: tuple[Tensor, Tensor], longest: int
) -> tuple[Tensor, Tensor]:
    """Return attention's output, [Q, H, D], and the base-2 logarithm of each row's sum, [H, Q].

    Args:
        query: [Q, H, D]; rows may be apart, as in a packed projection.
        key: [K, H, D], likewise.
        value: Laid out as `key`.
        offsets: Of queries and keys, each B + 1 (int32), covering all rows.
        longest: Rows of a sequence at most.
    """
    num_rows, heads, dim = query.shape
    output = torch.empty((num_rows, heads, dim), device=query.device, dtype=query.dtype)
    log_sum = torch.empty((heads, num_rows), device=query.device, dtype=torch.float32)
    launch = _launch("forward", dim)
    programs = (len(offsets[0]) - 1) * heads
    if programs and num_rows:
        _forward_kernel[(programs, triton.cdiv(longest, launch.queries))](
            query,
            key,
            value,
            output,
            log_sum,
            *offsets,
            num_rows,
            query.stride(0),
            key.stride(0),
            math.log2(math.e) / math.sqrt(dim),
            H=heads,
            D=dim,
            **launch.constants(),
        )
    return output, log_sum


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
    launch = _launch("query gradient", dim)
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
    launch = _launch("key gradient", dim)
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
