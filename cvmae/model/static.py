"""Layers at a few fixed sizes: what lets a GPU fuse their kernels and replay them as one graph.

Packed batches differ in size from step to step, and a small model on a fast GPU waits for the host
to launch its kernels one by one. Here rows are padded up to the next of a few sizes, eight an
octave (at most an eighth more, a sixteenth on average), and the padding lies in sequences of its
own, which no other sees and whose results are cut off. Embeddings and the loss, a handful of
kernels, stay as they are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["StaticPlan", "compiled", "padded_rows", "static_plan", "static_size"]

Ints = npt.NDArray[np.int64]

SIZES_PER_OCTAVE, SMALLEST = 8, 64


class StaticPlan(NamedTuple):
    """Which rows attend to which, in sizes that recur; see `attention.AttentionPlan`."""

    query_offsets_B: Tensor  # int32
    key_offsets_B: Tensor  # int32
    max_queries: int
    max_keys: int
    num_queries: int  # rows, with padding
    num_keys: int


def static_size(size: int) -> int:
    """Return the smallest of the recurring sizes that is larger.

    Example:
        >>> [static_size(size) for size in (0, 63, 64, 1000, 1024)]
        [64, 64, 72, 1024, 1152]
    """
    octave = SMALLEST
    while octave * 2 <= size:
        octave *= 2
    step = octave // SIZES_PER_OCTAVE
    return max(SMALLEST, (size // step + 1) * step)


def static_plan(
    num_queries_B: Ints, num_keys_B: Ints, longest: int, device: torch.device | str
) -> StaticPlan:
    """Plan attention within sequences and, apart from them, within the padding.

    Args:
        num_queries_B: Queries of each sequence.
        num_keys_B: Keys of each sequence.
        longest: Rows of a sequence at most, the same for all steps.
        device: Where the plan's tensors live.
    """
    queries, keys = static_size(int(num_queries_B.sum())), static_size(int(num_keys_B.sum()))
    # As many sequences of padding as the most padding needs, so that their number recurs, too.
    num_sequences = static_size(len(num_queries_B) + _most_padding(queries, keys) // longest + 1)
    num_padding = num_sequences - len(num_queries_B)
    padding = [
        _spread(total - int(num_B.sum()), num_padding)
        for total, num_B in ((queries, num_queries_B), (keys, num_keys_B))
    ]
    offsets = [
        torch.from_numpy(np.cumsum([0, *num_B, *rest], dtype=np.int32)).to(
            device, non_blocking=True
        )
        for num_B, rest in zip((num_queries_B, num_keys_B), padding, strict=True)
    ]
    return StaticPlan(
        query_offsets_B=offsets[0],
        key_offsets_B=offsets[1],
        max_queries=longest,
        max_keys=longest,
        num_queries=queries,
        num_keys=keys,
    )


def padded_rows(x: Tensor, num_rows: int) -> Tensor:
    """Append rows of zeros, shape [rows, D] to [num_rows, D]."""
    return pad(x, (0, 0, 0, num_rows - len(x)))


def compiled(function: Callable[..., Tensor], backend: str = "inductor") -> Callable[..., Tensor]:
    """Return the function compiled for each size that it meets; on a GPU, as CUDA graphs."""
    # Sizes of rows and of sequences come together in some ways; torch would give up at eight.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 128)
    options: dict[str, Any] = {"dynamic": False, "fullgraph": True, "backend": backend}
    if backend == "inductor":
        options["mode"] = "reduce-overhead"
    result: Callable[..., Tensor] = torch.compile(function, **options)
    return result


def _most_padding(queries: int, keys: int) -> int:
    return max(queries, keys) // SIZES_PER_OCTAVE + SMALLEST


def _spread(rows: int, num_sequences: int) -> list[int]:
    """Share rows out evenly, so that none of the sequences is long."""
    return [len(part) for part in np.array_split(np.empty(rows), num_sequences)]
