"""What a run may write about itself, wherever that is kept."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from cvmae.storage.folders import is_file, join, written

__all__ = ["Status", "Tracker", "require_artifact", "save_figure"]

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker(Protocol):
    """What a run may write; only rank 0 and the driver hold one."""

    @property
    def run_id(self) -> str:
        """Name under which the run can be opened again; empty while MLflow is down."""

    @property
    def location(self) -> str:
        """Where a person finds the run: a file or a tracking URI, without a password."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings; a name already recorded keeps its first value."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers at a step; points at or before a metric's last step are dropped."""

    def log_artifact(self, path: str) -> None:
        """Keep a file with the run."""

    def log_figure(self, figure: Any, name: str) -> None:
        """Keep a matplotlib figure as ``figures/NAME.png``."""

    def close(self, status: Status) -> None:
        """Write what is still held and mark the run's end."""


def require_artifact(path: str) -> None:
    """Raise FileNotFoundError where there is no file that could be kept with a run."""
    if not is_file(path):
        raise FileNotFoundError(f"{path} cannot be kept with the run: there is no such file")


def save_figure(figure: Any, output_dir: str, name: str) -> str:
    """Write a matplotlib figure to ``OUT/figures/NAME.png`` and return its path."""
    place = join(output_dir, "figures", f"{name}.png")
    with written(place) as path:
        figure.savefig(path, dpi=120, bbox_inches="tight")
    return place
