"""Residuals of any number of values in bounded memory: all of a code, or a fair sample of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Floats, Ints

__all__ = ["MOST_OF_A_CODE", "ResidualSample"]

# Shape letters: C codes, Q values that are kept.

# At 16 bytes each. An interval of 95% by so many holds, of further values, 95% give or take 0.1%.
MOST_OF_A_CODE = 50_000
AT_ONCE = 1 << 20  # values that may wait to be merged
GREATEST = np.iinfo(np.uint32).max


@dataclass(frozen=True, kw_only=True, eq=False)
class ResidualSample:
    """Residuals, of each code those with the `most` smallest draws: all, where they are no more.

    A draw is a hash of whose value it is and when it was taken, and knows nothing of the value. So
    which values are kept depends neither on the order in which parts come nor on how data are cut
    into parts; and those that are kept are exchangeable with a further value of the same law, as
    all are: what split conformal prediction says of intervals holds for a sample as for the whole.
    """

    code_Q: npt.NDArray[np.int32]
    residual_Q: Floats  # value less what was expected, in standard deviations of train
    draw_Q: npt.NDArray[np.uint32]
    count_C: Ints  # of all values, kept or not
    subjects_C: Ints  # that they are of
    num_subjects: int
    most: int = MOST_OF_A_CODE

    @classmethod
    def total(cls, parts: Iterable[Self], num_codes: int, most: int = MOST_OF_A_CODE) -> Self:
        """Put parts of different subjects together, one after the other as they come."""
        nothing = np.zeros(num_codes, np.int64)
        whole = cls(
            code_Q=np.empty(0, np.int32),
            residual_Q=np.empty(0),
            draw_Q=np.empty(0, np.uint32),
            count_C=nothing,
            subjects_C=nothing,
            num_subjects=0,
            most=most,
        )
        waiting: list[Self] = []
        for part in parts:
            waiting.append(part)
            if sum(len(own.code_Q) for own in waiting) > max(AT_ONCE, len(whole.code_Q)):
                whole, waiting = whole._with(waiting), []
        return whole._with(waiting)

    def of_all(self) -> Floats:
        """Return a fair sample of the values of all codes together, or all of them.

        It is of the values whose draws are as small as they have to be in the code that was cut
        most, so that each value is in it with the same chance.
        """
        residual_Q: Floats = self.residual_Q[self.draw_Q <= self._cuts().min(initial=GREATEST)]
        return residual_Q

    def _with(self, parts: Sequence[Self]) -> Self:
        everything = [self, *parts]
        whole = replace(
            self,
            code_Q=np.concatenate([part.code_Q for part in everything]),
            residual_Q=np.concatenate([part.residual_Q for part in everything]),
            draw_Q=np.concatenate([part.draw_Q for part in everything]),
            count_C=np.sum([part.count_C for part in everything], axis=0),
            subjects_C=np.sum([part.subjects_C for part in everything], axis=0),
            num_subjects=sum(part.num_subjects for part in everything),
        )
        kept_Q = whole.draw_Q <= whole._cuts()[whole.code_Q]
        return replace(
            whole,
            code_Q=whole.code_Q[kept_Q],
            residual_Q=whole.residual_Q[kept_Q],
            draw_Q=whole.draw_Q[kept_Q],
        )

    def _cuts(self) -> npt.NDArray[np.uint32]:
        """Return the greatest draw of each code that is kept; equal ones stay or go together."""
        cut_C = np.full(len(self.count_C), GREATEST, np.uint32)
        order_Q = np.lexsort((self.draw_Q, self.code_Q))
        begin_C = np.searchsorted(self.code_Q[order_Q], np.arange(len(cut_C)))
        over = np.flatnonzero(self.count_C > self.most)
        cut_C[over] = self.draw_Q[order_Q[begin_C[over] + self.most - 1]]
        return cut_C
