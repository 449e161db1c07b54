"""What a run learns from: the model it begins with, steps to take, an examination each epoch.

The loop (`cvmae.train.loop`) knows no more of a run than this; pretraining and fine-tuning are two
kinds of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from cvmae.batches.code_metrics import CodeMetrics, CodeSums
from cvmae.checkpoint import Progress
from cvmae.config import Config
from cvmae.model.vomae import VOMAE
from cvmae.statistics.fitted import FittedData
from cvmae.train.device import Step
from cvmae.train.engine import Engine

__all__ = ["Lessons", "StepsOf"]

# progress within an epoch -> this rank's steps from there to the epoch's end, on the host
StepsOf = Callable[[Progress], Iterator[Step]]


class Lessons(ABC):
    """What one rank learns from; every rank has its own share of the same steps.

    Args:
        config: Of the run.
        fitted: What a checkpoint holds beside the weights.
        num_steps: Of each epoch.
    """

    criterion: str  # the metric of an examination that must be finite

    def __init__(self, config: Config, fitted: FittedData, num_steps: tuple[int, ...]) -> None:
        self.config, self.fitted, self.num_steps = config, fitted, num_steps

    @property
    def num_codes(self) -> int:
        """Return the size of the vocabulary."""
        return self.fitted.statistics.num_codes

    @abstractmethod
    def model(self) -> VOMAE:
        """Return the model as it is before the first step."""

    def until(self, progress: Progress) -> int:
        """Return the epoch up to which steps can be made: later ones wait for what it shows."""
        return self.config.train.epochs

    @abstractmethod
    def opened(self, progress: Progress, end: int) -> AbstractContextManager[StepsOf]:
        """Open the steps up to an epoch; they are asked for epoch by epoch."""

    @abstractmethod
    def examine(
        self, engine: Engine, trained: CodeSums
    ) -> tuple[dict[str, float], CodeMetrics | None]:
        """Return the metrics on tuning after an epoch, and those of codes if any (collective).

        Args:
            engine: With the weights as they are now.
            trained: What the epoch has shown of each code in training.
        """

    @abstractmethod
    def digest(self, progress: Progress, step: int) -> str:
        """Return a hash of this rank's first batch of a step of the epoch, read once more."""

    @abstractmethod
    def told(self, metrics: Mapping[str, float]) -> str:
        """Say in a few words how an examination went, for the progress line."""
