"""A run's numbers in its own folder: ``metrics.parquet``, and ``params.json`` beside it."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.storage.folders import is_file, join, local_copy, written
from cvmae.tracking.tracker import Status, require_artifact, save_figure

__all__ = ["ParquetTracker"]

METRICS_SCHEMA = pa.schema([("step", pa.int64()), ("name", pa.string()), ("value", pa.float64())])


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
        """Record numbers at a step and write them out, where any is new."""
        known = len(self._points)
        for name, value in metrics.items():
            self._add(step, name, float(value))
        if len(self._points) == known:
            return
        columns: list[Any] = [list(column) for column in zip(*self._points, strict=True)]
        table = pa.table(columns, schema=METRICS_SCHEMA)
        with written(self.location) as path:
            pq.write_table(table, path)

    def log_artifact(self, path: str) -> None:
        """Check that the file exists: it lies in the run's own folder and needs no copy."""
        require_artifact(path)

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
