"""How many trials, epochs and hours a sweep may still spend: asked before a trial begins.

What is running ends as it would: a budget never cuts a trial short, because half a trial is
neither a result nor saved work.
"""

import copy
import time
from collections.abc import Callable, Iterable, Mapping

from cvmae.settings_of_comparison import SweepConfig

__all__ = ["Budget"]


class Budget:
    """What may still begin; epochs are set aside for all of a trial when it begins."""

    def __init__(
        self,
        limits: SweepConfig,
        begun: Mapping[str, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start counting.

        Args:
            limits: `max_trials`, `max_epochs` and `max_hours`.
            begun: Trials that have begun in earlier attempts -> epochs that they take in all.
            clock: Seconds.
        """
        self._limits, self._epochs, self._clock = limits, dict(begun), clock
        self._start = clock()
        self.used_up = ""  # the setting that has kept a trial from beginning

    def begin(self, name: str, epochs: int) -> bool:
        """Set aside what a trial needs and return True; False where there is not enough left.

        One that has begun in an earlier attempt is counted already. After the first False no trial
        begins any more, so that what is begun is always the grid's first part.
        """
        if not self.used_up:
            self.used_up = self._lacking(name, epochs)
        if self.used_up:
            return False
        self._epochs.setdefault(name, epochs)
        return True

    def foreseen(self, waiting: Iterable[tuple[str, int]]) -> set[str]:
        """Return which trials of those that wait, with their epochs, there is enough left for."""
        ahead = copy.copy(self)
        ahead._epochs = dict(self._epochs)
        return {name for name, epochs in waiting if ahead.begin(name, epochs)}

    def stopped(self, name: str, epochs: int) -> None:
        """Give back the epochs of a trial that a scheduler has stopped."""
        self._epochs[name] = epochs

    def _lacking(self, name: str, epochs: int) -> str:
        limits, others = self._limits, self._epochs.keys() - {name}
        total = sum(self._epochs.values()) + (0 if name in self._epochs else epochs)
        if limits.max_hours and self._clock() - self._start >= limits.max_hours * 3600:
            return f"sweep.max_hours={limits.max_hours:g}"
        if name in self._epochs:
            return ""
        if limits.max_trials and len(others) >= limits.max_trials:
            return f"sweep.max_trials={limits.max_trials}"
        if limits.max_epochs and total > limits.max_epochs:
            return f"sweep.max_epochs={limits.max_epochs}"
        return ""
