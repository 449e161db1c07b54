"""Ragged attention on a GPU as a Triton kernel.

Sequences here are short (at most some hundreds of measurements) and heads narrow (32), where
general kernels spend their time on other things than arithmetic. Query, key and value are read
from the packed output of the projection, which is never copied.

The method is FlashAttention-2's (Dao, 2023): scores are never stored, backward computes them
again from their row-wise logarithm of sums.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from cvmae.model.kernels.blocks import Launch, bounds, load_block, store_block

__all__ = ["run_forward"]

# Shape letters: B sequences, Q queries, K keys (both packed), H heads, D dimension of a head.

# For heads of up to 32 dimensions and for wider ones, by measurement on an H100.
LAUNCHES = (Launch(128, 64, 4, 3), Launch(128, 64, 8, 3))


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
    first_q, num_q, first_k, num_k = bounds(query_offsets, key_offsets, sequence)
    start_q = tl.program_id(1) * BLOCK_Q
    if start_q < num_q:
        rows = start_q + tl.arange(0, BLOCK_Q)
        q = load_block(query, first_q, rows, num_q, query_stride, head, D)
        largest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_Q], tl.float32)
        result = tl.zeros([BLOCK_Q, D], tl.float32)
        for start_k in range(0, num_k, BLOCK_K):
            columns = start_k + tl.arange(0, BLOCK_K)
            k = load_block(key, first_k, columns, num_k, key_stride, head, D)
            v = load_block(value, first_k, columns, num_k, key_stride, head, D)
            score = tl.dot(q, tl.trans(k)) * log2_scale
            score = tl.where((columns < num_k)[None, :], score, float("-inf"))
            now = tl.maximum(largest, tl.max(score, 1))
            weight = tl.exp2(score - now[:, None])
            shrink = tl.exp2(largest - now)
            total = total * shrink + tl.sum(weight, 1)
            result = result * shrink[:, None] + tl.dot(weight.to(v.dtype), v)
            largest = now
        total = tl.where(num_k > 0, total, 1.0)  # queries without keys get zeros
        store_block(output, first_q, rows, num_q, H * D, head, result / total[:, None], D)
        place = log_sum + head * num_rows + first_q + rows
        tl.store(place, largest + tl.log2(total), mask=rows < num_q)


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
    launch = LAUNCHES[dim > 32]
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
