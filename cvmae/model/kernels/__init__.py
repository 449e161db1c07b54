"""Triton kernels of a layer, as operators that autograd and torch.compile know; who takes them.

On a GPU they are compiled. With TRITON_INTERPRET=1 in the environment before the first import they
are interpreted instead, in slow motion and on a CPU too: so the tests run them without a GPU.
"""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["HAVE_KERNELS", "HEAD_DIMS", "take"]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# Triton comes with torch for CUDA. Beside a torch for CPUs it is nothing to import, unless asked.
HAVE_KERNELS = find_spec("triton") is not None and (INTERPRETED or torch.backends.cuda.is_built())
HEAD_DIMS = (16, 32, 64)  # wider ones need more shared memory than some GPUs have


def take(x: Tensor, *, products: bool = False) -> bool:
    """Tell whether kernels take these rows.

    Args:
        x: In half precision, on a GPU; on a CPU if interpreted, and not in bfloat16, which Triton's
            interpreter does not know.
        products: Autocast decides on the precision, where it is on: of the rows' products.
    """
    kind = x.dtype
    if products and torch.is_autocast_enabled(x.device.type):
        kind = torch.get_autocast_dtype(x.device.type)
    if x.is_cuda:
        return HAVE_KERNELS and kind in (torch.float16, torch.bfloat16)
    return HAVE_KERNELS and INTERPRETED and x.is_cpu and kind == torch.float16
