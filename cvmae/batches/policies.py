"""Code statistics -> mask weight of each code: the policies of volatility-aware masking."""

from dataclasses import dataclass
from typing import Protocol, assert_never

import numpy as np

from cvmae.arrays import Bools, Float32s, Floats
from cvmae.batches.code_metrics import CodeMetrics
from cvmae.settings import Policy
from cvmae.statistics.code_statistics import CodeStatistics, flagged_codes

__all__ = ["EpochWeights", "FixedWeights", "fixed_weights", "mask_weights"]

CAP_QUANTILE = 0.99
FLOOR = 1e-6  # of the largest weight: no code is never hidden


class EpochWeights(Protocol):
    """Mask weight of each code in each epoch, on every rank the same."""

    @property
    def changes(self) -> bool:
        """Tell whether an epoch's weights may follow from those before: none is read ahead."""
        ...

    def of_epoch(self, epoch: int, last: CodeMetrics | None) -> Float32s | None:
        """Return the weights of an epoch; None: all equal.

        Args:
            epoch: Counted from 0.
            last: What the epoch before has shown, None before the first. A checkpoint holds it,
                so that a resumed run hides what it would have hidden.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedWeights:
    """The same weights in every epoch."""

    weight_C: Float32s | None
    changes: bool = False

    def of_epoch(self, epoch: int, last: CodeMetrics | None) -> Float32s | None:
        """Return the weights, whatever came before."""
        return self.weight_C


def fixed_weights(statistics: CodeStatistics, policy: Policy) -> FixedWeights:
    """Return the weights of a policy that code statistics decide."""
    if policy == "random":
        return FixedWeights(weight_C=None)
    return FixedWeights(weight_C=mask_weights(statistics, policy).astype(np.float32))


def mask_weights(statistics: CodeStatistics, policy: Policy) -> Floats:
    """Return the relative chance that a code's values are hidden, the largest being 1.

    Equal weights come out as exactly 1, so that masks equal those of ``random`` bit for bit.
    Weights of ``cv`` do not depend on units of measurement, those of ``variance`` do. Codes
    whose scale has no natural zero (see `flagged_codes`) are capped at the 0.99 quantile of
    the other codes' weights.
    """
    match policy:
        case "random":
            weight_C = np.ones(statistics.num_codes)
        case "variance":
            weight_C = statistics.std**2
        case "cv":
            weight_C = statistics.cv
        case _:
            assert_never(policy)
    weight_C = _capped(weight_C, flagged_codes(statistics))
    weight_C = np.maximum(weight_C, FLOOR * weight_C.max())
    return np.asarray(weight_C / weight_C.max())


def _capped(weight_C: Floats, flagged_C: Bools) -> Floats:
    """Cap flagged codes' weights, at a number that the flagged ones do not set themselves."""
    trusted_C = weight_C[~flagged_C]
    if len(trusted_C) == 0:  # nothing to compare with: the codes are treated alike
        return np.ones_like(weight_C)
    cap = np.quantile(trusted_C, CAP_QUANTILE)
    return np.where(flagged_C, np.minimum(weight_C, cap), weight_C)
