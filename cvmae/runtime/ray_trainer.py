"""A trainer of Ray Train that leaves signals to its caller, and no workers behind."""

from contextlib import suppress
from typing import Any

import ray
from ray.train import TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from cvmae.runtime.interfaces import name_interface
from cvmae.runtime.ray_hooks import own_ray_named

__all__ = ["InterruptibleTrainer", "NamedInterfaces"]

ABORT_S = 20.0  # within which workers are stopped; then their controller is killed
_TorchBackend: Any = TorchConfig().backend_cls


class _Backend(_TorchBackend):  # type: ignore[misc]  # of a class that Ray Train hands out
    """Forms the group of ranks by the interfaces that the cluster's addresses are at."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Form the group; see `ray.train.backend.Backend`.

        Raises:
            ConnectionError: The ranks do not reach each other; the message names their interfaces.
        """
        hosts = worker_group.execute(_name_interface)
        try:
            super().on_start(worker_group, backend_config)
        except ray.exceptions.RayTaskError as error:
            reason = str(error.cause).strip().partition("\n")[0]
            raise ConnectionError(
                f"the workers do not reach each other ({reason}): name the interface between them "
                "by GLOO_SOCKET_IFNAME, on GPUs NCCL_SOCKET_IFNAME, in the environment of `ray "
                f"start` on each host: {' | '.join(dict.fromkeys(hosts))}"
            ) from error


class NamedInterfaces(TorchConfig):
    """As Ray Train sets torch up, but by interfaces that are found; see `name_interface`."""

    @property
    def backend_cls(self) -> Any:
        """Return what forms the group."""
        return _Backend


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


def _name_interface() -> str:
    return name_interface(ray.util.get_node_ip_address())
