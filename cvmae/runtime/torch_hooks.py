"""What torch has no public way for: every private name of it that is used here, one function each.

An upgrade of torch that takes one away is noticed by the test that exercises each of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["add_each", "compile_for_all_sizes"]


def add_each(totals: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """Add tensors to others in place, pair by pair, in one launch for all."""
    torch._foreach_add_(list(totals), list(others))


def compile_for_all_sizes() -> None:
    """Let what is compiled once serve batches of all sizes, in all models of this process."""
    # Two sizes that happen to be the same must not be taken for one that always is.
    torch.fx.experimental._config.use_duck_shape = False
    # Counted over all models of the process; beyond it, compiling would be an error.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
