"""Which counts of a table may be shown, so that none tells of few subjects, not by subtraction."""

import numpy as np

from cvmae.arrays import Bools, Ints

__all__ = ["SMALLEST_CELL", "hidden"]

# Shape letters: G groups that share out a total, which is known; K counts of each.

SMALLEST_CELL = 20  # subjects; fewer are not shown by themselves


def hidden(count_GK: Ints, also_G: Bools | None = None) -> Bools:
    """Return the groups whose counts are hidden: small ones, and what would tell theirs.

    The total less what is shown is what is hidden together. So while a single group is hidden, or
    any count of those hidden is below `SMALLEST_CELL` together, the smallest one left joins them.

    Args:
        count_GK: Subjects; each is in one group.
        also_G: Groups that are hidden for another reason.

    Example:
        >>> hidden(np.array([[7], [57], [56], [90]])).tolist()
        [True, False, True, False]
    """
    least_G = count_GK.min(axis=1)
    hidden_G: Bools = least_G < SMALLEST_CELL
    if also_G is not None:
        hidden_G |= also_G
    for place in np.argsort(least_G, kind="stable"):
        too_few = (count_GK[hidden_G].sum(axis=0) < SMALLEST_CELL).any()
        if not hidden_G.any() or (hidden_G.sum() > 1 and not too_few):
            break
        hidden_G[place] = True
    return hidden_G
