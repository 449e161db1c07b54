"""Figures of a run as it goes, as gauges that Ray exports to Prometheus beside its own.

Whoever scrapes Ray's nodes finds them as ``ray_cvmae_NAME``, with the run's name as tag ``run``;
they say how training goes and nothing of the data. `cluster/grafana.json` draws them.
"""

from collections.abc import Mapping

from ray.util.metrics import Gauge

__all__ = ["GAUGES", "RunGauges", "exported_name"]

# What is told of a run by the names of its metrics.
GAUGES = {
    "progress": "Share of a run's steps that are done",
    "measurements_per_s": "Measurements that all ranks of a run take up a second, this epoch",
    "data_wait_share": "Share of time that a run waits for data, this epoch",
    "train_loss": "Mean loss of train, this epoch",
    "tuning_mse": "Mean squared error on the tuning split after the last epoch of a pretraining",
    "tuning_loss": "Cross-entropy on the tuning split after the last epoch of a fine-tuning",
}
RUN = "run"


def exported_name(name: str) -> str:
    """Return what Prometheus calls a gauge: Ray puts its own name before ours."""
    return f"ray_cvmae_{name}"


class RunGauges:
    """The gauges of one run, in the process of its rank 0; they end with it."""

    def __init__(self, run_name: str) -> None:
        self._tags = {RUN: run_name}
        self._gauges: dict[str, Gauge] = {}

    def __call__(self, figures: Mapping[str, float]) -> None:
        """Set the gauges that figures are for; others keep what they have."""
        for name in GAUGES.keys() & figures.keys():
            if name not in self._gauges:
                # Only what is told has a gauge: one that was never set would be shown as 0.
                self._gauges[name] = Gauge(f"cvmae_{name}", GAUGES[name], tag_keys=(RUN,))
            self._gauges[name].set(figures[name], self._tags)
