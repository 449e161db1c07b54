"""What a data set supports: how many labels each split has, and what cannot be told from them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from meds.schema import train_split, tuning_split

from cvmae.arrays import Bools, Ints
from cvmae.meds.labels import Kind, Labels
from cvmae.meds.splits import SPLITS, is_among
from cvmae.runtime.tables import counted

__all__ = ["SplitCount", "Support", "labels_in_splits", "support"]

# Shape letters: L labels.


@dataclass(frozen=True, kw_only=True)
class SplitCount:
    """The labels of one split."""

    num_labels: int
    num_subjects: int
    num_positives: int | None  # None where labels are numbers


@dataclass(frozen=True, kw_only=True)
class Support:
    """Whether a task can be learned and scored on a data set."""

    name: str
    kind: Kind
    splits: dict[str, SplitCount]
    num_without_split: int  # labels of subjects in no split, left out
    not_learned: str  # why nothing can be fitted; '' where something can
    not_scored: str  # why scores are undefined in the split that is scored; '' where they are not

    @property
    def is_learned(self) -> bool:
        """Tell whether probes can be fitted."""
        return not self.not_learned


def labels_in_splits(labels: Labels, members: Mapping[str, Ints]) -> dict[str, Bools]:
    """Return which labels are of each split's subjects."""
    return {split: is_among(members[split], labels.subject_id_L) for split in SPLITS}


def support(labels: Labels, within: Mapping[str, Bools], scored: str) -> Support:
    """Count labels by split and say what they do not allow.

    Args:
        labels: Of the task.
        within: What `labels_in_splits` returned.
        scored: Split whose labels are scored.
    """
    counts = {split: _count(labels, chosen_L) for split, chosen_L in within.items()}
    values = {split: labels.value_L[chosen_L] for split, chosen_L in within.items()}
    not_learned = ""
    if not counts[tuning_split].num_labels:
        not_learned = "tuning has no label to choose a probe's strength by"
    elif not counts[scored].num_labels:
        not_learned = f"{scored} has no label"
    elif len(np.unique(values[train_split])) < 2:
        not_learned = f"train has {_what_is_alike(counts[train_split])}: nothing to learn from"
    not_scored = ""
    if len(np.unique(values[scored])) < 2:
        not_scored = f"{scored} has {_what_is_alike(counts[scored])}"
    every = np.logical_or.reduce(list(within.values()))
    return Support(
        name=labels.name,
        kind=labels.kind,
        splits=counts,
        num_without_split=int(np.count_nonzero(~every)),
        not_learned=not_learned,
        not_scored=not_scored,
    )


def _count(labels: Labels, chosen_L: Bools) -> SplitCount:
    boolean = labels.kind == "boolean"
    return SplitCount(
        num_labels=int(chosen_L.sum()),
        num_subjects=len(np.unique(labels.subject_id_L[chosen_L])),
        num_positives=int(labels.value_L[chosen_L].sum()) if boolean else None,
    )


def _what_is_alike(count: SplitCount) -> str:
    if not count.num_labels:
        return "no label"
    if count.num_positives is None:
        return f"{counted(count.num_labels, 'label')} of one value"
    which = "positive" if count.num_positives == 0 else "negative"
    return f"no {which} label among {count.num_labels}"
