"""Whether a data set and a model's vocabulary know the same codes, and how far values moved."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from meds.schema import code_metadata_filepath

from cvmae.arrays import Floats, Ints
from cvmae.infer.unit_files import CodeSums
from cvmae.meds.code_names import SHOWN, beginning, listed_codes
from cvmae.meds.dataset import Source
from cvmae.meds.reading import read_unit
from cvmae.meds.rows import Lookup
from cvmae.meds.units import Unit
from cvmae.runtime.map_units import map_units
from cvmae.settings import ScalingConfig
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["Matching", "matching_lines", "require_common_code"]

# Shape letters: C codes.

LOOKED_INTO = 4  # units in which a code of the model is looked for before others are asked
ENOUGH = 100  # values; of fewer, a mean tells of single patients and of chance
FAR = 0.5  # standard deviations of train by which a mean is called far off

_Look = tuple[bool, tuple[str, ...]]  # whether a unit has a value for the model; codes there


@dataclass(frozen=True, kw_only=True, eq=False)
class Matching:
    """Which codes of a vocabulary a data set has, and where their values lie."""

    codes: tuple[str, ...]
    count_C: Ints
    shift_C: Floats  # of the mean, in standard deviations of train; NaN: fewer than ENOUGH values
    spread_C: Floats  # standard deviation over that of train; NaN likewise

    @classmethod
    def of(cls, sums: CodeSums, statistics: CodeStatistics) -> Self:
        """Compare a data set's sums with train, whose standardised values have mean 0 and std 1."""
        count_C = np.where(sums.count_C >= ENOUGH, sums.count_C, np.nan)
        mean_C = sums.sum_C / count_C
        variance_C = np.maximum(sums.square_C / count_C - mean_C**2, 0)
        return cls(
            codes=statistics.codes,
            count_C=sums.count_C.astype(np.int64),
            shift_C=mean_C,
            spread_C=np.sqrt(variance_C),
        )

    def as_rows(self) -> list[dict[str, Any]]:
        """Return an entry for each code, as JSON holds it."""
        return [
            {
                "code": code,
                "values": int(self.count_C[place]),
                "mean_shift": _or_none(self.shift_C[place]),
                "std_ratio": _or_none(self.spread_C[place]),
            }
            for place, code in enumerate(self.codes)
        ]


def _or_none(number: float) -> float | None:
    return None if np.isnan(number) else float(number)


def matching_lines(matching: Matching) -> list[str]:
    """Return what was matched, and the codes whose values lie elsewhere than in training."""
    codes, count_C, shift_C = matching.codes, matching.count_C, matching.shift_C
    absent = [codes[place] for place in np.flatnonzero(count_C == 0)]
    line = f"{len(codes) - len(absent)} of the model's {len(codes)} codes have values"
    far = np.flatnonzero(np.nan_to_num(np.abs(shift_C)) >= FAR)
    return [
        f"{line}; none: {beginning(absent)}" if absent else line,
        *(
            f"  {codes[place]}: mean {shift_C[place]:+.2f} standard deviations off that of train, "
            f"deviation {matching.spread_C[place]:.2f} times train's ({count_C[place]:,} values): "
            "another unit or other patients?"
            for place in far[np.argsort(-np.abs(shift_C[far]), kind="stable")]
        ),
    ]


@dataclass
class _Listener:
    """A lookup that remembers some of the codes that it was asked for."""

    lookup: Lookup
    seen: dict[str, None] = field(default_factory=dict)

    def __call__(self, dictionary: Sequence[str]) -> npt.NDArray[np.int32]:
        self.seen |= dict.fromkeys(dictionary[:SHOWN])
        return self.lookup(dictionary)


def require_common_code(
    source: Source,
    units: Sequence[Unit],
    statistics: CodeStatistics,
    split: str,
    scaling: ScalingConfig,
) -> None:
    """Refuse a data set that has no measurement for a model; reads up to the first one.

    The first units are looked into here: one is enough where the model knows the data. Where they
    hold nothing, and the data set's own table of codes has none of the model's, it is refused; else
    the other units are looked into where `scaling` says.

    Raises:
        ValueError: No subject of the split has a value of a code of the vocabulary.
    """
    own = {code for members in statistics.members for code in members}
    look = partial(_look, source=source, statistics=statistics, split=split)
    first, others = units[:LOOKED_INTO], units[LOOKED_INTO:]
    looks: Iterable[_Look] = map(look, first)
    listed = listed_codes(source.root)
    is_listed_elsewhere = bool(others and listed) and listed.isdisjoint(own)
    if others and not is_listed_elsewhere:
        looks = chain(looks, map_units(look, others, scaling, "look for codes"))
    seen: dict[str, None] = {}
    for has_value, codes in looks:
        if has_value:
            return
        seen |= dict.fromkeys(codes)
    table = (
        f" (the first {len(first)} of {len(units)} units were looked into, and "
        f"{code_metadata_filepath} lists none of the model's codes; if it should, mend it)"
    )
    there = beginning(sorted(seen)) if seen else "none of these subjects has a row"
    raise ValueError(
        f"data.root={source.root} has no value of any of the model's {len(own)} codes "
        f"({beginning(sorted(own))}) for the {len(source.members[split]):,} subjects asked for; "
        f"codes there: {there}{table if is_listed_elsewhere else ''}: give a "
        "data set whose codes are named as in training, or a model whose vocabulary was fitted to "
        "such codes"
    )


def _look(unit: Unit, *, source: Source, statistics: CodeStatistics, split: str) -> _Look:
    listener = _Listener(statistics.lookup)
    rows, _ = read_unit(source, unit, listener, split)
    return len(rows.time_us_N) > 0, tuple(listener.seen)
