"""A signal is noted, all ranks agree on a step, and a checkpoint is written there.

The loop asks a `Watch` after every step. It asks around about once a second only, since every
answer needs all ranks, and on a GPU the host would wait for the device.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch

from cvmae.runtime.ranks import sum_over_ranks, world_size

__all__ = ["Ask", "Demand", "PreemptedError", "Watch", "on_signal"]

logger = logging.getLogger("cvmae")

# What the outside wants of a run: nothing; a checkpoint, since a node will be lost; to stop.
Demand = Literal["", "save", "stop"]
Ask = Callable[[], Demand]  # what is wanted of this rank

ASK_EVERY_S = 1.0
MOST_STEPS = 1000  # between two questions
MOST_GROWTH = 2  # of that number, from one question to the next


class PreemptedError(BaseException):
    """The run was signalled to stop, wrote a checkpoint and can be resumed: no failure.

    Like KeyboardInterrupt it passes what handles failures, such as a sweep's trials.
    """


class Watch:
    """Says on every rank at the same step what is wanted of any of them."""

    def __init__(self, ask: Ask, device: torch.device) -> None:
        self._ask, self._device = ask, device
        self._steps, self._every, self._asked_s = 0, 1, time.monotonic()
        self.is_stopped = False

    def __call__(self) -> Demand:
        """Return what is wanted after this step; every rank calls it after every step.

        The number of steps until the next question follows from the time that steps have
        taken, averaged over ranks, so that it is the same on all of them.
        """
        self._steps += 1
        if self._steps < self._every:
            return ""
        now_s, wanted = time.monotonic(), self._ask()
        save, stop, seconds = sum_over_ranks(
            np.array([wanted == "save", wanted == "stop", now_s - self._asked_s], np.float64),
            self._device,
        )
        steps_a_second = self._steps * world_size() / max(float(seconds), 1e-9)
        # Grown step by step: the first steps tell nothing of the pauses between short epochs.
        most = min(MOST_GROWTH * self._every, MOST_STEPS)
        self._every = min(max(int(ASK_EVERY_S * steps_a_second), 1), most)
        self._steps, self._asked_s = 0, now_s
        if stop:
            self.is_stopped = True
            return "stop"
        return "save" if save else ""


@contextmanager
def on_signal(*signals: signal.Signals, call: Callable[[], object]) -> Iterator[None]:
    """Call a function at the first of the signals; the next one acts as if this were not here.

    Elsewhere than in the main thread, which alone may handle signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:  # Ray may have taken it meanwhile
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def handle(number: int, _: Any) -> None:
        restore()
        logger.warning(
            "%s: a checkpoint is written after the next step that is taken, then the run ends; a "
            "second signal ends it at once",
            signal.Signals(number).name,
        )
        call()

    for number in signals:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
