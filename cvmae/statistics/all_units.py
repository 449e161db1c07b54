"""The two passes over all units of a data set, each unit a task, merged in unit order."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cvmae.arrays import Floats, Ints
from cvmae.meds.dataset import Source
from cvmae.meds.reading import read_splits, read_unit_and_subjects
from cvmae.meds.splits import SPLITS, is_among
from cvmae.meds.units import Unit
from cvmae.runtime.map_units import map_units
from cvmae.settings import DataConfig, ScalingConfig
from cvmae.statistics.code_statistics import MemberLookup
from cvmae.statistics.passes import FirstPass, SecondPass, first_pass, second_pass
from cvmae.statistics.sequence_counts import SplitCounts, split_counts
from cvmae.statistics.vocabulary import CandidateLookup, Candidates

__all__ = ["Vocabulary", "run_first_pass", "run_second_pass"]


TRAIN = SPLITS[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """What pass 1 has chosen: codes, and the bounds to which their values are clipped.

    Where values are not clipped, the bounds are the least and the largest of train.
    """

    members: tuple[tuple[str, ...], ...]  # MEDS codes of each entry
    low_C: Floats
    high_C: Floats


def run_first_pass(
    source: Source, units: Sequence[Unit], candidates: Candidates, scaling: ScalingConfig
) -> tuple[FirstPass, list[Ints]]:
    """Summarise train over all candidate codes; return the subjects of each unit, too."""
    total: FirstPass | None = None
    subjects: list[Ints] = []
    task = partial(_first_pass_task, source, candidates)
    for part, subject_S in map_units(task, units, scaling, "code statistics, pass 1"):
        total = part if total is None else total.merge(part)
        subjects.append(subject_S)
    assert total is not None, "open_dataset refuses a data set without rows"
    return total, subjects


def _first_pass_task(source: Source, candidates: Candidates, unit: Unit) -> tuple[FirstPass, Ints]:
    lookup = CandidateLookup(candidates)
    measurements, rows, subject_S = read_unit_and_subjects(source, unit, lookup, TRAIN)
    return first_pass(measurements, rows, lookup.names, lookup.examples()), subject_S


Item = tuple[Unit, tuple[str, ...]]  # a unit, and the splits that have subjects in it


def run_second_pass(
    source: Source,
    units: Sequence[Unit],
    subjects: Sequence[Ints],
    vocabulary: Vocabulary,
    config: DataConfig,
    scaling: ScalingConfig,
) -> tuple[SecondPass, list[dict[str, SplitCounts]]]:
    """Summarise the clipped values of train, and count each unit's sequences of every split.

    Args:
        source: Of the data set.
        units: All units.
        subjects: What pass 1 found in each, so that no split is read that has none there.
        vocabulary: What pass 1 has chosen.
        config: How sequences are cut.
        scaling: Where tasks run.
    """
    total: SecondPass | None = None
    counts_U: list[dict[str, SplitCounts]] = []
    splits_U = [_splits_of(source, subject_S) for subject_S in subjects]
    task = partial(_second_pass_task, source, MemberLookup(vocabulary.members), vocabulary, config)
    items: list[Item] = list(zip(units, splits_U, strict=True))
    for part, counts in map_units(task, items, scaling, "code statistics, pass 2"):
        if part is not None:
            total = part if total is None else total.merge(part)
        counts_U.append(counts)
    assert total is not None, "codes are chosen only where train has values"
    return total, counts_U


def _second_pass_task(
    source: Source, lookup: MemberLookup, vocabulary: Vocabulary, config: DataConfig, item: Item
) -> tuple[SecondPass | None, dict[str, SplitCounts]]:
    unit, splits = item
    part: SecondPass | None = None
    counts: dict[str, SplitCounts] = {}
    for split, (measurements, rows) in read_splits(source, unit, lookup, splits).items():
        crop = config.crop and split == TRAIN
        counts[split] = split_counts(measurements, rows, config.sequence_length, crop=crop)
        if split == TRAIN:
            part = second_pass(measurements, vocabulary.low_C, vocabulary.high_C)
    return part, counts


def _splits_of(source: Source, subject_S: Ints) -> tuple[str, ...]:
    members = source.members
    return tuple(split for split in SPLITS if is_among(members[split], subject_S).any())
