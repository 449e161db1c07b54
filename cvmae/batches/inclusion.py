"""Mask weights -> the chance of each measurement to be hidden, and what its error then counts."""

import numpy as np

from cvmae import compiled
from cvmae.arrays import Float32s, Ints

__all__ = ["LEAST_CHANCE", "error_weights", "inclusion_chances"]

LEAST_CHANCE = 0.01  # that an error's weight takes notice of


def inclusion_chances(length_W: Ints, weight_N: Float32s | None, ratio: float) -> Float32s:
    """Return the chance of each measurement to be among the hidden ones of its sequence.

    Exactly k of n are hidden without replacement, so that a chance is not k w / sum(w), which may
    exceed 1. By Rosen's approximation for successive sampling (Annals of Mathematical Statistics
    43, 1972) it is 1 - exp(-w t), with t such that the chances of a sequence add up to k. The
    counts k are those of `masking.hidden_counts`, each by how often it is drawn.

    Args:
        length_W: Measurements of each sequence.
        weight_N: Mask weight of each measurement's code, above 0; None: all equal.
        ratio: Expected share hidden, from 0 to 1.

    Returns:
        Chances from 0 to 1, N entries.
    """
    expected_W = ratio * length_W
    fewer_W = np.floor(expected_W)
    share_W = expected_W - fewer_W  # of the draws that hide one more
    most_W = np.maximum(length_W - 1, 0)
    counts = [np.minimum(fewer_W + more, most_W).astype(np.int64) for more in (0, 1)]
    shares = [1 - share_W, share_W]
    if weight_N is None:
        mean_W = sum(share * count for share, count in zip(shares, counts, strict=True))
        return np.repeat((mean_W / np.maximum(length_W, 1)).astype(np.float32), length_W)
    chance_N = np.zeros(len(weight_N), np.float32)
    for share, count in zip(shares, counts, strict=True):
        compiled.inclusion(length_W, weight_N, count, share, chance_N)
    return chance_N


def error_weights(chance_M: Float32s) -> Float32s:
    """Return the inverse of each hidden value's chance to be hidden, at most 100.

    A mean by these weights estimates the mean error over all values, hidden or not (Horvitz and
    Thompson, 1952; Hajek's ratio). Chances below `LEAST_CHANCE` count as that: a weight is then
    at most 100 times another, and at a ratio of 0.25 at most 25 times the mean. Without it a few
    values that are hidden once in many epochs would make whole steps, and the variance of such
    a mean, which grows as 1 / chance, has no bound.
    """
    return np.reciprocal(np.maximum(chance_M, np.float32(LEAST_CHANCE)))
