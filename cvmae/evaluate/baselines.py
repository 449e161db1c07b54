"""What one may guess without a model: the code's mean, its last value, a line between two.

Baselines see what the models see: the visible measurements of the same sequence. They are in
standardised values; since standardising is affine per code, a line between two standardised
values is the line between the two (clipped) raw values.
"""

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Bools, Floats, Ints

__all__ = ["BASELINES", "predict_baselines", "visible_neighbours"]


BASELINES = ("code mean", "last value", "linear interpolation")

# Shape letters beside those of `cvmae.arrays`: K baselines.


def predict_baselines(
    *,
    sequence_N: npt.NDArray[np.integer],
    code_index_N: npt.NDArray[np.integer],
    time_us_N: npt.NDArray[np.integer],
    value_N: npt.NDArray[np.floating],
    hidden_N: Bools,
) -> Floats:
    """Predict the standardised value of every hidden measurement by each of `BASELINES`.

    *Code mean*: the mean on train, which is 0 when standardised. *Last value*: the nearest
    earlier visible value of the code in the sequence, else the mean. *Linear interpolation*:
    in time between the nearest visible values of the code on either side; with one side only,
    that value; with none, the mean.

    Returns:
        Predictions ``[M, K]``, in the order of the hidden measurements.
    """
    key = sequence_N.astype(np.int64) * (int(code_index_N.max(initial=0)) + 1) + code_index_N
    previous_N, following_N = visible_neighbours(key, ~hidden_N)
    previous_M, following_M = previous_N[hidden_N], following_N[hidden_N]
    has_previous, has_following = previous_M >= 0, following_M >= 0
    before = value_N[previous_M].astype(np.float64)
    after = value_N[following_M].astype(np.float64)
    elapsed = (time_us_N[hidden_N] - time_us_N[previous_M]).astype(np.float64)
    span = (time_us_N[following_M] - time_us_N[previous_M]).astype(np.float64)
    # A span of 0 means that all three were measured at once: the earlier row stands.
    fraction = np.divide(elapsed, span, out=np.zeros_like(span), where=span > 0)
    last = np.where(has_previous, before, 0.0)
    one_sided = np.where(has_previous, before, np.where(has_following, after, 0.0))
    line = before + (after - before) * fraction
    linear = np.where(has_previous & has_following, line, one_sided)
    return np.stack([np.zeros_like(last), last, linear], axis=1)


def visible_neighbours(key_N: Ints, visible_N: Bools) -> tuple[Ints, Ints]:
    """Return the nearest visible entry before and after each entry that has the same key.

    Returns:
        Indices into N, -1 where there is none; an entry is no neighbour of itself where it is
        hidden (for visible entries it is).
    """
    order = np.argsort(key_N, kind="stable")  # a key's entries, in file order
    sorted_key, place = key_N[order], np.arange(len(key_N))
    first = np.flatnonzero(np.r_[True, sorted_key[1:] != sorted_key[:-1]][: len(key_N)])
    sizes = np.diff(np.r_[first, len(key_N)])
    start, end = np.repeat(first, sizes), np.repeat(first + sizes, sizes)
    shown = visible_N[order]
    before = np.maximum.accumulate(np.where(shown, place, -1))
    after = np.minimum.accumulate(np.where(shown, place, len(key_N))[::-1])[::-1]
    previous = np.full(len(key_N), -1, dtype=np.int64)
    following = previous.copy()
    has_before, has_after = before >= start, after < end
    previous[order[has_before]] = order[before[has_before]]
    following[order[has_after]] = order[after[has_after]]
    return previous, following
