"""Whether a data set and a model's vocabulary know the same codes, and how far values moved."""

import difflib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Self

import numpy as np

from cvmae.arrays import Floats, Ints
from cvmae.infer.unit_files import CodeSums
from cvmae.meds.code_names import SHOWN, beginning, short_code
from cvmae.meds.dataset import Source
from cvmae.meds.reading import read_unit
from cvmae.meds.rows import VALUE
from cvmae.meds.splits import SPLITS
from cvmae.meds.units import Unit
from cvmae.runtime.map_units import map_units
from cvmae.runtime.tables import counted
from cvmae.settings import ScalingConfig
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.statistics.vocabulary import CandidateLookup, Candidates

__all__ = ["ENOUGH", "Matching", "matching_lines", "require_common_code", "side_by_side"]

# Shape letters: C codes.

LOOKED_INTO = 4  # units in which a code of the model is looked for before others are read
ENOUGH = 100  # values; of fewer, a mean tells of single patients and of chance
FAR = 0.5  # standard deviations of train by which a mean is called far off
ALIKE = 0.75  # of difflib's ratio, from which two names count as spelt alike
NEAR_AMONG = 1000  # of a data set's codes, the most frequent ones: comparing names takes time
EVERY_CODE = Candidates(pattern="", entries=())

logger = logging.getLogger("cvmae")


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
            f"deviation {matching.spread_C[place]:.2f} times train's "
            f"({counted(int(count_C[place]), 'value')}): "
            "another unit or other patients?"
            for place in far[np.argsort(-np.abs(shift_C[far]), kind="stable")]
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What a unit has of the subjects that are asked for."""

    num_rows: int
    values_of: Mapping[str, int]  # how many each code has that has some
    has_own: bool  # one of the model's codes is among them


def require_common_code(
    source: Source,
    units: Sequence[Unit],
    statistics: CodeStatistics,
    split: str,
    scaling: ScalingConfig,
    *,
    nobody: str = "",
) -> None:
    """Refuse a data set that has no measurement for a model; reads up to the first one.

    The first units are looked into here: one is enough where the model knows the data. Where they
    hold nothing, all others are looked into where `scaling` says. The data set's own table of codes
    is not asked: MEDS does not promise that it is complete.

    Args:
        source: Where the data set is, and who is asked for.
        units: That may hold their rows.
        statistics: Of the model.
        split: Under which the source has them.
        scaling: Where the other units are read.
        nobody: What is to be said where none of them has a row.

    Raises:
        ValueError: No subject of the split has a value of a code of the vocabulary.
    """
    look = partial(_look, source=source, statistics=statistics, split=split)
    looks: Iterable[_Look] = map(look, units[:LOOKED_INTO])
    if others := units[LOOKED_INTO:]:
        looks = chain(looks, _look_on(look, others, scaling))
    values_of, num_rows = Counter[str](), 0
    for found in looks:
        if found.has_own:
            return
        values_of.update(found.values_of)
        num_rows += found.num_rows
    own = [code for members in statistics.members for code in members]
    who = counted(len(source.members[split]), "subject")
    no_values = (
        f"data.root={source.root} has no value of {_any_of(own)} for the {who} "
        f"{f'of {split}' if split in SPLITS else 'asked for'}"
    )
    if not num_rows:
        raise ValueError(nobody or f"{no_values}: none of them has a row there")
    if not values_of:
        raise ValueError(
            f"{no_values}: none of their {counted(num_rows, 'row')} has a finite {VALUE}, whatever "
            "its code: write what was measured into this column, as float32"
        )
    raise ValueError(
        f"{no_values}. {side_by_side(values_of, statistics)}: give a data set whose codes are "
        "named as in training, or a model whose vocabulary was fitted to such codes"
    )


def _any_of(own: Sequence[str]) -> str:
    return f"any of the model's {len(own)} codes" if len(own) > 1 else "the model's only code"


def _look_on(
    look: partial[_Look], others: Sequence[Unit], scaling: ScalingConfig
) -> Iterable[_Look]:
    logger.info(
        "the first units have no code of the model: %s to look into", counted(len(others), "other")
    )
    yield from map_units(look, others, scaling, "look for codes")


def _look(unit: Unit, *, source: Source, statistics: CodeStatistics, split: str) -> _Look:
    lookup = CandidateLookup(EVERY_CODE)
    measurements, rows = read_unit(source, unit, lookup, split)
    num_values = np.bincount(measurements.code_index_N, minlength=len(lookup.names))
    values_of = {n: int(k) for n, k in zip(lookup.names, num_values, strict=True) if k}
    has_own = bool((statistics.lookup(list(values_of)) >= 0).any())
    return _Look(num_rows=rows.num_rows, values_of=values_of, has_own=has_own)


def side_by_side(values_of: Mapping[str, int], statistics: CodeStatistics) -> str:
    """Return what a message shows of the codes of a data set and of a model that share none.

    Of each the most frequent, and for each of these the name on the other side that is spelt most
    nearly like it, if one is.

    Args:
        values_of: How many values each code of the data set has.
        statistics: Of the model.
    """
    there = sorted(values_of, key=lambda code: (-values_of[code], code))[:NEAR_AMONG]
    ranked = np.argsort(-statistics.num_values, kind="stable")
    own = [code for place in ranked for code in statistics.members[place]]
    shown = [f"{code} ({counted(values_of[code], 'value')})" for code in there]
    pairs = [(code, _nearest(code, own)) for code in there[:SHOWN]]
    pairs += [(_nearest(code, there), code) for code in own[:SHOWN]]
    alike = dict.fromkeys(f"{theirs} and {ours}" for theirs, ours in pairs if theirs and ours)
    text = (
        f"Its most frequent codes with values: {beginning(shown)}; the model's most frequent: "
        f"{beginning(own)}"
    )
    return text + (f"; spelt nearly alike: {', '.join(alike)}" if alike else "")


def _nearest(code: str, others: Sequence[str]) -> str:
    """Return the name that is spelt most nearly like a code's, '' where none nearly is.

    Prefixes that nearly all codes share, and whether letters are large, tell nothing.
    """
    names = {short_code(other).casefold(): other for other in reversed(others)}
    found = difflib.get_close_matches(short_code(code).casefold(), names, n=1, cutoff=ALIKE)
    return names[found[0]] if found else ""
