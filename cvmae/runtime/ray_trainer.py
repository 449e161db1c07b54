"""A trainer of Ray Train that leaves signals to its caller, and no workers behind."""

from contextlib import suppress
from typing import Any

import ray
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer

from cvmae.runtime.ray_hooks import own_ray_named

__all__ = ["InterruptibleTrainer"]

ABORT_S = 20.0  # within which workers are stopped; then their controller is killed


class InterruptibleTrainer(TorchTrainer):
    """A trainer whose workers end with it, also in a process that lives on."""

    _controller: Any = None

    def fit(self) -> Any:
        """Train; see `TorchTrainer.fit`. An interruption stops the workers before it is raised."""
        try:
            with own_ray_named():
                return super().fit()
        except TrainingFailedError:
            raise
        except BaseException:
            self._stop()
            raise

    def _register_sigint_handler(self, controller: Any) -> None:
        """Keep Ray's handler away, which ends the run without a checkpoint and without a word."""
        self._controller = controller

    def _stop(self) -> None:
        if self._controller is None:
            return
        try:
            with suppress(ray.exceptions.RayError):  # it ends its process, which answers no more
                ray.get(self._controller.abort.remote(), timeout=ABORT_S)
        finally:
            ray.kill(self._controller)
