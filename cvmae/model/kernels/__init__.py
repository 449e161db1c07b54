"""Triton kernels of a layer, as operators that autograd and torch.compile know; who takes them.

On a GPU they are compiled. With TRITON_INTERPRET in the environment before the first import they
are interpreted instead, in slow motion and on a CPU too: so the tests run them without a GPU.
"""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["ARE_COMPILED", "HAVE_KERNELS", "HEAD_DIMS", "take"]


def _interprets() -> bool:
    """Tell whether Triton interprets kernels: it takes more words than 1 for a yes."""
    # It comes with torch for CUDA. Beside a torch for CPUs it is nothing to import, unless asked.
    may_import = torch.backends.cuda.is_built() or "TRITON_INTERPRET" in os.environ
    if find_spec("triton") is None or not may_import:
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


INTERPRETED = _interprets()
ARE_COMPILED = (
    find_spec("triton") is not None and torch.backends.cuda.is_built() and not INTERPRETED
)
HAVE_KERNELS = INTERPRETED or ARE_COMPILED
HEAD_DIMS = (16, 32, 64)  # wider ones need more shared memory than some GPUs have


def take(x: Tensor, *, products: bool = False) -> bool:
    """Tell whether kernels take these rows.

    Args:
        x: In half precision, on a GPU; if interpreted on a CPU too, and nowhere in bfloat16, which
            Triton's interpreter does not know.
        products: Autocast decides on the precision, where it is on: of the rows' products.
    """
    kind = x.dtype
    if products and torch.is_autocast_enabled(x.device.type):
        kind = torch.get_autocast_dtype(x.device.type)
    is_place = x.is_cuda or (INTERPRETED and x.is_cpu)
    is_kind = kind == torch.float16 or (kind == torch.bfloat16 and not INTERPRETED)
    return HAVE_KERNELS and is_place and is_kind
