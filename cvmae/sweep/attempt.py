"""One attempt at a sweep: what is to be run, and whom to ask and to tell."""

from collections.abc import Sequence
from dataclasses import dataclass

from cvmae.config import Config
from cvmae.statistics.fitted import TrainingData
from cvmae.sweep.budget import Budget
from cvmae.sweep.live import LiveTable
from cvmae.sweep.trials import Trial

__all__ = ["Attempt"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """Trials and what they share; the same here and on Ray."""

    config: Config  # of the sweep
    grid: Sequence[Trial]  # all trials: a scheduler learns from what earlier attempts have shown
    waiting: Sequence[Trial]  # that are not over, in the order in which they are run
    num_at_once: int  # trials that there is room for
    data: TrainingData  # what all of them train on
    parent_run_id: str  # tracking run of the sweep
    budget: Budget  # asked before each trial
    table: LiveTable  # told what happens
