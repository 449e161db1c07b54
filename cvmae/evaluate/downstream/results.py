"""What is reported of predictions, as results.json has it; see `cvmae.evaluate.results`."""

from dataclasses import dataclass
from typing import Literal

from cvmae.evaluate.downstream.over_seeds import Verdict
from cvmae.evaluate.downstream.probes import Learner
from cvmae.evaluate.downstream.scores import CalibrationBin
from cvmae.evaluate.downstream.tasks import Support
from cvmae.evaluate.two_way import Interval

__all__ = ["Difference", "Downstream", "MethodKind", "ProbeRow", "Score", "Subgroup", "Task"]

MethodKind = Literal["model", "fine-tuned", "untrained", "hand-made"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score as the mean over seeds; NaN, with the reason, where it is undefined."""

    value: float
    interval: Interval  # over seeds and subjects; over subjects alone for one seed
    seeds: tuple[float, ...]
    undefined: str  # why there is none; '' where there is


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """One way to predict, of one method; several runs of it are seeds."""

    method: str  # name of the models, or what stands beside them
    kind: MethodKind
    features: str
    learner: Learner
    chosen: bool  # the method's features that are best on tuning
    strengths: tuple[float, ...]  # of each seed, chosen on tuning
    tuning_loss: float
    scores: dict[str, Score]
    calibration: tuple[CalibrationBin, ...]  # all seeds together
    checkpoints: tuple[str, ...] = ()  # of each seed, of methods that have some
    stamps: tuple[str, ...] = ()  # of each checkpoint, the hash of the weights that it had


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first way to predict minus the second, on the same subjects.

    The interval is of this difference alone. p and verdict are adjusted for how many differences
    the task has: all of them together, by false discovery rate.
    """

    first: str
    second: str
    first_features: str
    second_features: str
    score: str
    value: float
    interval: Interval
    num_seeds: tuple[int | None, int | None]  # None where nothing is random
    p: float  # that there is none; NaN where seeds are too few to say, as the next
    p_adjusted: float
    verdict: Verdict  # by the latter


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """Scores of some labels, by method; numbers that would tell of few subjects are None."""

    kind: str
    level: str
    suppressed: bool  # fewer subjects than may be shown
    num_labels: int | None
    num_subjects: int | None
    num_positives: int | None
    scores: dict[str, Score]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One label set."""

    support: Support
    probes: tuple[ProbeRow, ...]
    differences: tuple[Difference, ...]
    subgroups: tuple[Subgroup, ...]

    @property
    def main_score(self) -> str:
        """Return the score by which ways to predict are compared."""
        return "auroc" if self.support.kind == "boolean" else "r2"


@dataclass(frozen=True, kw_only=True)
class Downstream:
    """All label sets, and what a reader must know of them."""

    split: str
    tasks: tuple[Task, ...]
    notes: tuple[str, ...]
