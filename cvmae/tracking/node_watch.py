"""What a node does while it trains: CPU, memory, disk, network and GPUs, as MLflow measures them.

MLflow's own monitor sends what it measures by itself and ends for good when a server does not
answer once. So only its measuring is used here: the points go to the journal with those of the next
epoch, and reach MLflow as all others do.
"""

import importlib
import logging
import os
import threading
from contextlib import suppress
from typing import Any

from cvmae.tracking.journal import Point, now_ms

__all__ = ["PREFIX", "NodeWatch"]

logger = logging.getLogger("cvmae")

PREFIX = "system/"  # under which MLflow's page has a tab of its own
SWITCH, INTERVAL = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
EVERY_S = 10.0
MOST_HELD = 100_000  # points, should nobody take them
# What a package is missing for, or a device, is left out.
MONITORS = {
    "cpu_monitor": "CPUMonitor",
    "disk_monitor": "DiskMonitor",
    "network_monitor": "NetworkMonitor",
    "gpu_monitor": "GPUMonitor",
    "rocm_monitor": "ROCMMonitor",
}


class NodeWatch:
    """Measures this node in a thread of its own, from when it is made until it is stopped."""

    def __init__(self, first_step: int) -> None:
        """Begin to measure.

        Args:
            first_step: Number of the first measuring: a resumed run counts on.
        """
        self._first_step = self._step = first_step
        self._points = list[Point]()
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._monitors = _monitors()
        self._every_s = EVERY_S
        with suppress(ValueError):
            self._every_s = max(float(os.environ.get(INTERVAL, EVERY_S)), 0.1)
        if self._monitors:
            threading.Thread(target=self._watch, daemon=True, name="cvmae-node-watch").start()

    def take(self) -> list[Point]:
        """Return what was measured since it was last asked."""
        with self._lock:
            points, self._points = self._points, []
        return points

    def stop(self) -> None:
        """End; a run that was too short for a point has one now."""
        if not self._stopped.is_set():
            self._stopped.set()
            if self._step == self._first_step:  # else too soon after the last one to tell anything
                self._measure()

    def _watch(self) -> None:
        self._measure(keep=False)  # the first share of the CPU is that since the machine began
        while not self._stopped.wait(self._every_s):
            self._measure()

    def _measure(self, *, keep: bool = True) -> None:
        with self._lock:
            try:
                values: dict[str, float] = {}
                for monitor in self._monitors:
                    monitor.collect_metrics()
                    values |= monitor.aggregate_metrics()
                    monitor.clear_metrics()
            except Exception as error:  # a run is worth more
                logger.warning("the node is not watched any more (%s)", error)
                self._monitors = []
                self._stopped.set()
                return
            if keep and values and len(self._points) < MOST_HELD:
                time_ms = now_ms()
                self._points += [
                    Point(self._step, f"{PREFIX}{name}", float(value), time_ms)
                    for name, value in values.items()
                ]
                self._step += 1


def _monitors() -> list[Any]:
    """Return what can be measured here; nothing where the user has switched it off."""
    if os.environ.get(SWITCH, "").lower() in ("false", "0"):
        return []
    # It would say at every measuring what a device does not tell.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    made = []
    for module, name in MONITORS.items():
        with suppress(Exception):
            found = importlib.import_module(f"mlflow.system_metrics.metrics.{module}")
            made.append(getattr(found, name)())
    return made
