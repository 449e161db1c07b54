"""Ragged attention within each sequence of a packed batch: two backends.

On CUDA in half precision our kernels (`cvmae.model.kernels`) read the packed rows as they are.
Elsewhere sequences of similar length share a padded bucket; padding exists inside
this file only, and inside a bucket only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cvmae.arrays import Ints
from cvmae.model import kernels

if kernels.HAVE_KERNELS:
    from cvmae.model.kernels import attention as operators

__all__ = [
    "AttentionPlan",
    "cross_attention",
    "plan_attention",
    "self_attention",
]

# Shape letters beside those of `cvmae.arrays`: Q queries, K keys (both packed: sequence after
# sequence), S slots of all padded buckets, H heads, D dimension of a head.

# A bucket holds lengths within an eighth of its longest, or within 16: padding then adds about
# a tenth to attention, itself a sixth of a step, and a step has about ten buckets.
BUCKET_SHARE, BUCKET_STEP = 0.125, 16


@dataclass(frozen=True, kw_only=True)
class AttentionPlan:
    """Which rows attend to which: sequence b's queries to sequence b's keys, all of them.

    Made once a step from lengths on the host, used by every layer; no device is waited for.
    """

    num_queries_B: Ints
    num_keys_B: Ints
    query_offsets_B: Tensor  # int32, B + 1 entries, on the device
    key_offsets_B: Tensor
    longest: int  # queries or keys of a sequence at most

    @cached_property
    def is_empty(self) -> bool:
        """Return True where no query has a key."""
        return not bool(np.any((self.num_queries_B > 0) & (self.num_keys_B > 0)))

    @cached_property
    def buckets(self) -> "Buckets":
        """Return the padded layout; only the bucketed backend asks for it."""
        groups = list(_group_lengths(self.num_queries_B, self.num_keys_B))
        queries = [_slots(self.num_queries_B, group) for group in groups]
        keys = [_slots(self.num_keys_B, group) for group in groups]
        same = np.array_equal(self.num_queries_B, self.num_keys_B)
        query_rows = self._rows(queries, int(self.num_queries_B.sum()))
        return Buckets(
            shapes=tuple((*q.shape, k.shape[1]) for q, k in zip(queries, keys, strict=True)),
            query_rows=query_rows,
            key_rows=query_rows if same else self._rows(keys, int(self.num_keys_B.sum())),
            key_masks=tuple(
                None if (k >= 0).all() else self._to_device(k >= 0)[:, None, None, :] for k in keys
            ),
        )

    def _rows(self, slots: list[Ints], num_rows: int) -> "Rows":
        row_S = np.concatenate([block.ravel() for block in slots])
        held = np.flatnonzero(row_S >= 0)
        slot_of_row = np.full(num_rows, -1)
        slot_of_row[row_S[held]] = held
        return Rows(row_of_slot=self._index(row_S), slot_of_row=self._index(slot_of_row))

    def _index(self, index: Ints) -> "Index":
        absent = np.flatnonzero(index < 0)
        return Index(
            source=self._to_device(index.clip(min=0)),
            absent=self._to_device(absent) if len(absent) else None,
        )

    def _to_device(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.query_offsets_B.device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class Index:
    """Rows to gather, and the places that hold nothing and are set to zero."""

    source: Tensor
    absent: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Packed rows and padded slots, each as an index into the other."""

    row_of_slot: Index
    slot_of_row: Index


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Padded blocks of sequences of similar length."""

    shapes: tuple[tuple[int, int, int], ...]  # sequences, queries, keys of each block
    query_rows: Rows
    key_rows: Rows
    key_masks: tuple[Tensor | None, ...]  # True where a slot holds a key; None: all do


def plan_attention(
    num_queries_B: Ints,
    num_keys_B: Ints,
    query_offsets_B: Tensor,
    key_offsets_B: Tensor,
    *,
    longest: int = 0,
) -> AttentionPlan:
    """Plan attention of each sequence's queries to the same sequence's keys.

    Args:
        num_queries_B: Queries of each sequence; may be 0.
        num_keys_B: Keys of each sequence; may be 0, its queries then get zeros.
        query_offsets_B: Where the queries of each sequence begin, and the end; on the device.
        key_offsets_B: Likewise of the keys.
        longest: Queries or keys of a sequence at most; 0: those of the longest here.
    """
    return AttentionPlan(
        num_queries_B=num_queries_B,
        num_keys_B=num_keys_B,
        query_offsets_B=query_offsets_B,
        key_offsets_B=key_offsets_B,
        longest=longest or int(max(num_queries_B.max(initial=1), num_keys_B.max(initial=1))),
    )


def self_attention(packed_N3HD: Tensor, plan: AttentionPlan) -> Tensor:
    """Attend within each sequence, [N, 3, H, D] (query, key and value) to [N, H, D].

    Scores are scaled by 1 / sqrt(D); no mask, no order.
    """
    if _have_kernels(packed_N3HD):
        return operators.self_attention(packed_N3HD, plan.query_offsets_B, plan.longest)
    query, key, value = packed_N3HD.unbind(1)
    return _bucketed_attention(query, key, value, plan)


def cross_attention(query_QHD: Tensor, packed_K2HD: Tensor, plan: AttentionPlan) -> Tensor:
    """Attend to the keys of the same sequence, [Q, H, D] and [K, 2, H, D] to [Q, H, D].

    Queries without keys get zeros.
    """
    if _have_kernels(query_QHD):
        offsets = plan.query_offsets_B, plan.key_offsets_B
        return operators.cross_attention(query_QHD, packed_K2HD, *offsets, plan.longest)
    key, value = packed_K2HD.unbind(1)
    return _bucketed_attention(query_QHD, key, value, plan)


def _have_kernels(x: Tensor) -> bool:
    """Tell whether our kernels take such rows of heads."""
    return x.shape[-1] in kernels.HEAD_DIMS and kernels.take(x)


def _bucketed_attention(
    query_QHD: Tensor, key_KHD: Tensor, value_KHD: Tensor, plan: AttentionPlan
) -> Tensor:
    if plan.is_empty:
        # Zeros that depend on all inputs: autograd would otherwise leave out a part of the model,
        # for whose gradients other ranks would wait.
        return query_QHD * 0 + (key_KHD.sum() + value_KHD.sum()) * 0
    buckets = plan.buckets
    rows = buckets.query_rows
    queries = _pad(query_QHD, rows, [(b, q) for b, q, _ in buckets.shapes])
    keys = _pad(key_KHD, buckets.key_rows, [(b, k) for b, _, k in buckets.shapes])
    values = _pad(value_KHD, buckets.key_rows, [(b, k) for b, _, k in buckets.shapes])
    outputs = [
        scaled_dot_product_attention(query, key, value, attn_mask=mask)
        for query, key, value, mask in zip(queries, keys, values, buckets.key_masks, strict=True)
    ]
    output_SHD = torch.cat([block.transpose(1, 2).flatten(0, 1) for block in outputs])
    return _take_rows(output_SHD, rows.slot_of_row, rows.row_of_slot)


def _pad(x: Tensor, rows: Rows, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Return a padded block [sequences, H, slots of each, D] for each bucket."""
    slots = _take_rows(x, rows.row_of_slot, rows.slot_of_row)
    blocks = torch.split(slots, [num * length for num, length in shapes])
    return [
        block.unflatten(0, shape).transpose(1, 2)
        for block, shape in zip(blocks, shapes, strict=True)
    ]


class _TakeRows(torch.autograd.Function):
    """Gather rows by an index whose inverse is known, so that backward gathers as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Index, inverse: Index) -> Tensor:
        ctx.inverse = inverse
        return _gather(x, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _gather(grads[0], ctx.inverse), None, None


def _take_rows(x: Tensor, index: Index, inverse: Index) -> Tensor:
    return cast("Tensor", _TakeRows.apply(x, index, inverse))  # type: ignore[no-untyped-call]


def _gather(x: Tensor, index: Index) -> Tensor:
    rows = x.index_select(0, index.source)
    return rows if index.absent is None else rows.index_fill_(0, index.absent, 0)


def _offsets(num_B: Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(num_B, dtype=np.int64)])


def _group_lengths(num_queries_B: Ints, num_keys_B: Ints) -> Iterator[Ints]:
    """Yield the sequences of each bucket, longest first; those without work are left out."""
    with_work = np.flatnonzero((num_queries_B > 0) & (num_keys_B > 0))
    order = with_work[np.argsort(-num_keys_B[with_work], kind="stable")]
    lengths = num_keys_B[order]
    start = 0
    while start < len(order):
        longest = lengths[start]
        shortest = longest - max(BUCKET_STEP, int(BUCKET_SHARE * longest))
        stop = start + int(np.searchsorted(-lengths[start:], -shortest, side="right"))
        yield order[start:stop]
        start = stop


def _slots(num_B: Ints, group: Ints) -> Ints:
    """Return the packed row of each slot of a bucket, -1 for padding."""
    column = np.arange(num_B[group].max())
    row = _offsets(num_B)[group][:, None] + column
    return np.where(column < num_B[group][:, None], row, -1)
