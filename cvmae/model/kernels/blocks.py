"""What the kernels of attention share: blocks of a head's rows, bounds of a sequence, launches."""

from typing import NamedTuple

import triton
import triton.language as tl

__all__ = ["Launch", "bounds", "load_block", "store_block"]


@triton.jit  # type: ignore[untyped-decorator]
def load_block(base, first, rows, num_rows, stride, head, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load a head's part of some rows of a sequence; zeros beyond its end."""
    dims = tl.arange(0, D)
    place = (first + rows).to(tl.int64)[:, None] * stride + head * D + dims[None, :]
    return tl.load(base + place, mask=(rows < num_rows)[:, None], other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def store_block(base, first, rows, num_rows, stride, head, x, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store a head's part of some rows of a sequence, those before its end."""
    dims = tl.arange(0, D)
    place = (first + rows).to(tl.int64)[:, None] * stride + head * D + dims[None, :]
    tl.store(base + place, x.to(base.dtype.element_ty), mask=(rows < num_rows)[:, None])


@triton.jit
def bounds(query_offsets, key_offsets, sequence):  # type: ignore[no-untyped-def]
    """Return where the queries and the keys of a sequence begin, and their numbers."""
    first_q, first_k = tl.load(query_offsets + sequence), tl.load(key_offsets + sequence)
    num_q = tl.load(query_offsets + sequence + 1) - first_q
    num_k = tl.load(key_offsets + sequence + 1) - first_k
    return first_q, num_q, first_k, num_k


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
