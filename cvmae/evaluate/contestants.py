"""Who is compared: runs under names that the user gave."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "BEST_WEIGHTS",
    "HAND_MADE",
    "UNTRAINED",
    "Contestant",
    "Serves",
    "not_compared",
    "of_reference",
    "reference_name",
    "require_use",
]

# Suffix of the method that stands for a name's weights with the least tuning error.
BEST_WEIGHTS = " (best weights)"
# What stands beside the models wherever labels are predicted.
HAND_MADE, UNTRAINED = "hand-made features", "untrained encoder"


# What a run can be compared by: the values that it restores, which all else follows from; what
# probes read from its encoder alone; or its own predictions of the labels it was fine-tuned with.
Serves = Literal["reconstruction", "probes", "predictions"]
LEFT_OUT = {
    "probes": "trained with mask.target=measurement, it restores hidden values without being told "
    "their codes and times, so that its errors compare with no other model's: it is compared by "
    "probes of its encoder alone",
    "predictions": "fine-tuned to predict labels, it restores no values: it is compared by its "
    "predictions alone",
}


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One run of a name; several runs of a name are seeds of it."""

    name: str
    path: str
    which: Literal["last", "best"] = "last"
    stamp: str  # of the checkpoint that the path stood for when it was looked up
    serves: Serves = field(default="reconstruction", compare=False)  # it follows from the rest

    @property
    def method(self) -> str:
        """Name under which its errors are averaged with those of other seeds."""
        return self.name + (BEST_WEIGHTS if self.which == "best" else "")


def reference_name(names: Sequence[str]) -> str:
    """Return whom the others are compared with, whatever the order of names.

    `random`; without it `shuffled_cv` where `cv` is there, whose control it is; else the first by
    the alphabet.

    Example:
        >>> reference_name(["variance", "cv", "shuffled_cv"]), reference_name(["variance", "cv"])
        ('shuffled_cv', 'cv')
    """
    if "random" in names:
        return "random"
    return "shuffled_cv" if {"cv", "shuffled_cv"} <= set(names) else min(names)


def of_reference(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Return those that the others may be compared with: who restores values, if anybody does."""
    return [c for c in contestants if c.serves == "reconstruction"] or list(contestants)


def not_compared(contestants: Sequence[Contestant]) -> dict[str, str]:
    """Say by name who has no part in reconstruction and what follows from it, and why."""
    return {c.name: LEFT_OUT[c.serves] for c in contestants if c.serves != "reconstruction"}


def require_use(contestants: Sequence[Contestant], labels: str) -> None:
    """Refuse runs that have nothing to be compared by.

    Args:
        contestants: All of them.
        labels: Folder of label sets; '' where there is none.

    Raises:
        ValueError: A model that restores no values is there without labels, or without one that
            restores some.
    """
    without = next((c for c in contestants if c.serves != "reconstruction"), None)
    if without is None:
        return
    said = f"evaluate.checkpoints={without.name}={without.path}: {LEFT_OUT[without.serves]}; "
    if not labels:
        raise ValueError(f"{said}give evaluate.labels, or leave it out")
    if all(c.serves != "reconstruction" for c in contestants):
        raise ValueError(f"{said}give a model with mask.target=value beside it")
