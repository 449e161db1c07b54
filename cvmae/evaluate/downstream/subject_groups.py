"""Groups of subjects for scores by subgroup: age at their first prediction, and every static code.

All labels of a subject are in one group of each kind, so that groups do not overlap. A kind is what
stands before the first ``//`` of a static code (a row without a time), the level what stands behind
it: ``GENDER//F`` is level ``F`` of kind ``GENDER``.
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from meds.schema import birth_code

from cvmae.arrays import Floats, Ints
from cvmae.meds.dataset import Dataset
from cvmae.meds.labels import Labels
from cvmae.meds.pieces import is_own, open_piece
from cvmae.meds.rows import CODE, SUBJECT, TIME
from cvmae.meds.units import Piece, Unit, plan_units
from cvmae.runtime.map_units import map_units
from cvmae.settings import ScalingConfig

__all__ = ["UNKNOWN", "Facts", "Groups", "age_bands", "label_groups", "read_facts"]

# Shape letters: L labels, M rows, S subjects.

Groups = dict[str, npt.NDArray[np.object_]]  # kind -> level of every label

AGE, UNKNOWN, OTHER = "age", "not recorded", "other"
AGES = (18, 45, 65, 80)  # where a band of ages begins
MOST_LEVELS = 12  # of a kind; rarer ones count together
US_PER_YEAR = 365.2425 * 86_400e6


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What is known of subjects whatever the time."""

    born_us: dict[int, int]  # by subject
    level_of: dict[str, dict[int, str]]  # kind -> subject -> level


def read_facts(dataset: Dataset, *, scaling: ScalingConfig, unit_rows: int) -> Facts:
    """Read births and static codes; of several static codes of a kind, a subject has the first."""
    read = partial(_unit_facts, root=dataset.root)
    facts = Facts(born_us={}, level_of={})
    units = plan_units(dataset, unit_rows)
    for births, static in map_units(read, units, scaling, "static codes"):
        facts.born_us.update(births)
        for subject, kind, level in static:
            facts.level_of.setdefault(kind, {}).setdefault(subject, level)
    return facts


def label_groups(facts: Facts, labels: Labels) -> Groups:
    """Return the level of every label in each kind of group that the data set knows.

    A subject has the age of the first label, in whose band all of the others count.
    """
    subjects = labels.subject_id_L.tolist()
    groups: Groups = {}
    if facts.born_us:
        birth_L = np.array([facts.born_us.get(subject, np.nan) for subject in subjects], np.float64)
        groups[AGE] = age_bands((_first_time(labels) - birth_L) / US_PER_YEAR)
    for kind, level_of in sorted(facts.level_of.items()):
        groups[kind] = _frequent([level_of.get(subject, UNKNOWN) for subject in subjects])
    return groups


def _first_time(labels: Labels) -> Ints:
    """Return, for every label, the time of its subject's first one."""
    subject_S, place_L = np.unique(labels.subject_id_L, return_inverse=True)
    first_S = np.full(len(subject_S), np.iinfo(np.int64).max)
    np.minimum.at(first_S, place_L, labels.time_us_L)
    return first_S[place_L]


def age_bands(years_L: Floats) -> npt.NDArray[np.object_]:
    """Return the band of each age.

    Example:
        >>> age_bands(np.array([17.9, 18.0, 80.0, np.nan])).tolist()
        ['under 18', '18 to 44', '80 and more', 'not recorded']
    """
    bands = [
        f"under {AGES[0]}",
        *(f"{low} to {high - 1}" for low, high in pairwise(AGES)),
        f"{AGES[-1]} and more",
        UNKNOWN,
    ]
    place_L = np.where(np.isfinite(years_L), np.searchsorted(AGES, years_L, side="right"), -1)
    return np.array(bands, dtype=object)[place_L]


def _frequent(levels: list[str]) -> npt.NDArray[np.object_]:
    kept = {level for level, _ in Counter(levels).most_common(MOST_LEVELS)} | {UNKNOWN}
    return np.array([level if level in kept else OTHER for level in levels], dtype=object)


def _unit_facts(unit: Unit, *, root: str) -> tuple[dict[int, int], list[tuple[int, str, str]]]:
    """Return when the subjects of a unit were born, and their static codes."""
    births: dict[int, int] = {}
    facts: list[tuple[int, str, str]] = []
    for piece in unit.pieces:
        _read_facts(root, piece, births, facts)
    return births, facts


def _read_facts(
    root: str, piece: Piece, births: dict[int, int], facts: list[tuple[int, str, str]]
) -> None:
    with open_piece(root, piece) as (parquet, row_groups, _):
        for index, _ in row_groups:
            table = parquet.read_row_group(index, columns=[SUBJECT, TIME, CODE], use_threads=False)
            code = table[CODE].combine_chunks()
            wanted = pc.or_(pc.is_null(table[TIME]), pc.equal(code, birth_code))
            rows = table.filter(wanted)
            subject_M: Ints = rows[SUBJECT].to_numpy()
            own_M = is_own(piece, subject_M)
            times = rows[TIME].cast("timestamp[us]").cast("int64").to_pylist()
            codes = rows[CODE].cast("string").to_pylist()
            for subject, time, name, own in zip(
                subject_M.tolist(), times, codes, own_M, strict=True
            ):
                if not own:
                    continue
                if name == birth_code:
                    if time is not None:
                        births.setdefault(subject, time)
                else:
                    kind, _, level = name.partition("//")
                    facts.append((subject, kind, level or "yes"))
