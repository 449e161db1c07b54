"""What a p is worth among others: Holm for a family named beforehand, else false discovery.

A p that was not taken (NaN: too few seeds) stays NaN and is none of the tests.
"""

from collections.abc import Sequence

import numpy as np

from cvmae.arrays import Floats, Ints

__all__ = ["benjamini_hochberg", "holm"]


def holm(p: Sequence[float] | Floats) -> Floats:
    """Return p adjusted so that the chance of any false claim of the family is bounded.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    adjusted, order = _sorted(p)
    num_tests = len(order)
    raised = adjusted[order] * (num_tests - np.arange(num_tests))
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return adjusted


def benjamini_hochberg(p: Sequence[float] | Floats) -> Floats:
    """Return p adjusted so that the expected share of false ones among claims is bounded.

    Example:
        >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.04, 0.04]
    """
    adjusted, order = _sorted(p)
    num_tests = len(order)
    raised = adjusted[order] * num_tests / (1 + np.arange(num_tests))
    adjusted[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1.0)
    return adjusted


def _sorted(p: Sequence[float] | Floats) -> tuple[Floats, Ints]:
    """Return a copy, and where its finite entries stand, the least first."""
    values = np.array(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    return values, order[: int(np.isfinite(values).sum())]
