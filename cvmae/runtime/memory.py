"""Let a process keep the memory that it frees: units come one after another, all alike."""

import ctypes
from functools import cache

__all__ = ["keep_memory"]

# Parameters of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


@cache
def keep_memory() -> None:
    """Stop the C library from handing freed arrays back to the system, once per process.

    Left alone, glibc returns arrays of some hundred kilobytes as soon as they are freed, and
    the next ones fault their pages in again: half of the time that picking out measurements
    takes. The process keeps its peak, no more. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 16 << 20)
