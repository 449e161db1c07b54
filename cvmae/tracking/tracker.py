"""Where parameters, metrics and figures of a run go: MLflow, or parquet in the run's folder.

Runs in the calling process (``scaling.num_workers=0``) need nothing but pyarrow and write
``metrics.parquet``; runs on Ray write to MLflow. Object storage holds no SQLite, so that runs
whose folder is there write parquet, too, unless `tracking.uri` names a server. Both take the same
calls and keep the first value of a (metric, step): a resumed run leaves no point twice.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.config import Config, resolved_path
from cvmae.storage.folders import is_file, join, local_copy, written
from cvmae.storage.places import is_remote

__all__ = ["ParquetTracker", "Tracker", "open_tracker", "prepare_store", "save_figure", "store_uri"]

Status = Literal["FINISHED", "FAILED", "KILLED"]

METRICS_SCHEMA = pa.schema([("step", pa.int64()), ("name", pa.string()), ("value", pa.float64())])

# Before MLflow is imported: it reports its use over the network unless told not to, and it
# waits minutes for a server that is down, during which every other rank would wait too.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


class Tracker(Protocol):
    """What a run may write; only rank 0 and the driver hold one."""

    @property
    def run_id(self) -> str:
        """Name under which the run can be opened again; empty while MLflow is down."""

    @property
    def location(self) -> str:
        """Where a person finds the run: a file or a tracking URI."""

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


def store_uri(config: Config) -> str:
    """Return the MLflow tracking URI of a run, without contacting it; '' where there is none.

    ``tracking.uri``, else ``MLFLOW_TRACKING_URI``, else SQLite in the output folder. Name it
    once on the driver: workers do not share the driver's environment.
    """
    given = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if config.scaling.num_workers == 0 or (not given and is_remote(config.output_dir)):
        return ""
    return given or f"sqlite:///{resolved_path(config.output_dir)}/mlflow.db"


def prepare_store(config: Config) -> str:
    """Create the MLflow database and experiment, and return the store's URI.

    Call it on the driver before any worker starts: a new database breaks when several
    processes connect first at once. Where parquet is written there is no store: ''.

    Raises:
        ValueError: `tracking.uri` names no store that MLflow can open.
    """
    if not store_uri(config):
        return ""
    return str(_import_mlflow_side().prepare_mlflow_store(config))


def open_tracker(
    config: Config, *, run_name: str, run_id: str = "", parent_run_id: str = ""
) -> Tracker:
    """Open the run of ``config.output_dir``, creating it where there is none.

    Args:
        config: Decides between MLflow and parquet, see `store_uri`.
        run_name: What a person sees in a list of runs.
        run_id: Run to continue, as another process created it; empty: the folder's own.
        parent_run_id: Run of the sweep to which this one belongs.

    Returns:
        A tracker that survives a server which is down: it warns, keeps and replays.
    """
    if not store_uri(config):
        return ParquetTracker(
            config.output_dir, run_name=run_name, run_id=run_id, parent_run_id=parent_run_id
        )
    tracker: Tracker = _import_mlflow_side().MlflowTracker(
        config, run_name=run_name, run_id=run_id, parent_run_id=parent_run_id
    )
    return tracker


def save_figure(figure: Any, output_dir: str, name: str) -> str:
    """Write a matplotlib figure to ``OUT/figures/NAME.png`` and return its path."""
    place = join(output_dir, "figures", f"{name}.png")
    with written(place) as path:
        figure.savefig(path, dpi=120, bbox_inches="tight")
    return place


class ParquetTracker:
    """Keeps metrics in ``OUT/metrics.parquet`` (step, name, value) and parameters beside it."""

    def __init__(
        self, output_dir: str, *, run_name: str, run_id: str = "", parent_run_id: str = ""
    ) -> None:
        self._folder = output_dir
        self._run_id = run_id or run_name
        self._about: dict[str, Any] = {"run_name": run_name, "parent_run_id": parent_run_id}
        self._params: dict[str, Any] = {}
        self._points: list[tuple[int, str, float]] = []
        self._last_step: dict[str, int] = {}
        if is_file(join(output_dir, "params.json")):
            with local_copy(join(output_dir, "params.json")) as path:
                self._params = json.loads(path.read_text())["params"]
        if is_file(self.location):
            with local_copy(self.location) as path:
                columns = pq.read_table(path).to_pydict()
            for step, name, value in zip(*(columns[c] for c in METRICS_SCHEMA.names), strict=True):
                self._add(step, name, value)

    @property
    def run_id(self) -> str:
        """Return the run's name: its folder holds one run only."""
        return self._run_id

    @property
    def location(self) -> str:
        """Return the path of the metrics."""
        return join(self._folder, "metrics.parquet")

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings; a name already recorded keeps its first value."""
        self._params = {name: str(value) for name, value in params.items()} | self._params
        self._write_about("RUNNING")

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers at a step and write them out."""
        for name, value in metrics.items():
            self._add(step, name, float(value))
        columns: list[Any] = [list(column) for column in zip(*self._points, strict=True)]
        table = pa.table(columns or [[], [], []], schema=METRICS_SCHEMA)
        with written(self.location) as path:
            pq.write_table(table, path)

    def log_artifact(self, path: str) -> None:
        """Check that the file exists: it lies in the run's own folder and needs no copy."""
        if not is_file(path):
            raise FileNotFoundError(f"{path} cannot be kept with the run: there is no such file")

    def log_figure(self, figure: Any, name: str) -> None:
        """Write the figure to ``figures/NAME.png``."""
        save_figure(figure, self._folder, name)

    def close(self, status: Status) -> None:
        """Write the run's status beside its parameters."""
        self._write_about(status)

    def _add(self, step: int, name: str, value: float) -> None:
        if step > self._last_step.get(name, -1):
            self._last_step[name] = step
            self._points.append((step, name, value))

    def _write_about(self, status: str) -> None:
        about = self._about | {"status": status, "params": self._params}
        with written(join(self._folder, "params.json")) as path:
            path.write_text(json.dumps(about, indent=1))


def _import_mlflow_side() -> Any:
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from cvmae.tracking import mlflow_store as tracking_mlflow

    return tracking_mlflow
