"""Whether a data set and a model's vocabulary know the same codes, and how far values moved."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cvmae.meds.dataset import Source
from cvmae.meds.reading import read_unit
from cvmae.meds.rows import Lookup
from cvmae.meds.units import Unit
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["require_common_code"]

SHOWN = 3  # codes that a message shows


@dataclass
class _Listener:
    """A lookup that remembers some of the codes that it was asked for."""

    lookup: Lookup
    seen: dict[str, None] = field(default_factory=dict)

    def __call__(self, dictionary: Sequence[str]) -> npt.NDArray[np.int32]:
        self.seen |= dict.fromkeys(dictionary[:SHOWN])
        return self.lookup(dictionary)


def require_common_code(
    source: Source, units: Sequence[Unit], statistics: CodeStatistics, split: str
) -> None:
    """Refuse a data set that has no measurement for a model; reads up to the first one.

    Raises:
        ValueError: No subject of the split has a value of a code of the vocabulary.
    """
    listener = _Listener(statistics.lookup)
    for unit in units:
        if len(read_unit(source, unit, listener, split)[0].time_us_N):
            return
    own = [code for members in statistics.members for code in members]
    raise ValueError(
        f"data.root={source.root} has no value of any of the model's {len(own)} codes "
        f"({_beginning(own)}) for the {len(source.members[split]):,} subjects asked for; codes "
        f"there: {_beginning(sorted(listener.seen))}: give a data set whose codes are named as in "
        "training, or a model whose vocabulary was fitted to such codes"
    )


def _beginning(codes: Iterable[str]) -> str:
    codes = list(codes)
    shown = ", ".join(codes[:SHOWN])
    return shown + (", ..." if codes[SHOWN:] else "") or "none of these subjects has a row"
