"""What seeds alone make: runs of one policy that differ in nothing else."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from cvmae.evaluate.reconstruction import Scores

__all__ = ["CONFIDENCE", "MIN_SEEDS", "Estimate", "SeedSpread", "estimate_mean", "seed_spreads"]

CONFIDENCE = 0.95
MIN_SEEDS = 3  # runs of a policy below which nothing is claimed of it


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds, and its t interval; no interval for fewer than three seeds."""

    mean: float
    low: float | None
    high: float | None
    num_seeds: int


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """How far runs of one policy lie apart: no difference between policies means more than that.

    Wins and losses are those of the better of the two runs that lie furthest apart, pooled.
    """

    name: str
    num_runs: int
    standard_deviation: float  # of pooled R2
    largest_difference: float
    wins: int
    losses: int


def estimate_mean(values: Sequence[float]) -> Estimate:
    """Return mean and 95% t interval of one figure of several seeds.

    It covers the luck of training, not the choice of subjects.

    Example:
        >>> found = estimate_mean([1.0, 2.0, 3.0])
        >>> found.mean, round(found.low, 3), round(found.high, 3)
        (2.0, -0.484, 4.484)
    """
    array = np.array(values, np.float64)
    mean = float(array.mean())
    if len(array) < MIN_SEEDS:
        return Estimate(mean=mean, low=None, high=None, num_seeds=len(array))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(array) - 1) * stats.sem(array)
    return Estimate(
        mean=mean, low=float(mean - half), high=float(mean + half), num_seeds=len(array)
    )


def seed_spreads(runs: Scores, columns: Mapping[str, Sequence[int]]) -> tuple[SeedSpread, ...]:
    """Compare the runs of each name with one another.

    Args:
        runs: Scores of every run.
        columns: Name -> its runs; names with one run say nothing.
    """
    spreads = []
    for name, own in columns.items():
        pooled = {k: float(runs.pooled_K[k]) for k in own}
        if len(pooled) < 2:
            continue
        pairs = itertools.permutations(pooled, 2)
        best, worst = max(pairs, key=lambda pair: pooled[pair[0]] - pooled[pair[1]])
        difference_C = (runs.r2_CK[:, best] - runs.r2_CK[:, worst])[runs.counted_C]
        spreads.append(
            SeedSpread(
                name=name,
                num_runs=len(pooled),
                standard_deviation=float(np.std(list(pooled.values()), ddof=1)),
                largest_difference=pooled[best] - pooled[worst],
                wins=int((difference_C > 0).sum()),
                losses=int((difference_C < 0).sum()),
            )
        )
    return tuple(spreads)
