"""The MLflow side of tracking: one run per training, which outlives a server that is down.

Everything that is logged is first an entry. An entry that cannot be sent is kept, with all
that follow, in ``OUT/tracking_pending.jsonl``, and replayed in order when the store answers
again: by the same process, by the driver when the workers have ended, or by a resumed run.
Only `MlflowClient` is used; MLflow's fluent functions keep a run per process, which a trial
that shares its process with another would overwrite.
"""

import json
import time
import uuid
import warnings
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from cvmae.config import Config, resolved_path, without_password
from cvmae.storage.folders import is_file, join, local_copy, remove_file, written
from cvmae.tracking.mlflow_store import find_or_create_experiment, first_line, warn_down
from cvmae.tracking.tracker import Status, require_artifact, save_figure

__all__ = ["MlflowTracker"]

RETRY_AFTER_S = 60.0
MAX_PARAMS_PER_CALL = 100  # MLflow's own limit
MAX_PARAM_LENGTH = 6000
KEY_TAG, FOLDER_TAG = "cvmae.run_key", "cvmae.output_dir"
# The store understood the entry and will never take it: it must not block those behind it.
REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST"})


class MlflowTracker:
    """Writes one run to MLflow; see the module's docstring for a store that is down."""

    def __init__(
        self, config: Config, *, run_name: str, run_id: str = "", parent_run_id: str = ""
    ) -> None:
        self._uri = config.tracking.uri
        self._experiment = config.tracking.experiment
        self._folder = resolved_path(config.output_dir)
        self._run_name, self._run_id, self._parent = run_name, run_id, parent_run_id
        self._last_step: dict[str, int] | None = None  # None: ask the store
        self._retry_at, self._is_down = 0.0, False
        # An end that an interrupted run could not send is no end any more.
        kept = [entry for entry in self._read_pending() if entry["kind"] != "status"]
        self._write_pending(kept)
        self._replay([])

    @property
    def run_id(self) -> str:
        """Return MLflow's run id; empty while the store is down and the run not created."""
        return self._run_id

    @property
    def location(self) -> str:
        """Return the tracking URI, without a password."""
        return without_password(self._uri)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings; a name already recorded keeps its first value."""
        values = {name: str(value)[:MAX_PARAM_LENGTH] for name, value in params.items()}
        self._log({"kind": "params", "values": values})

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers at a step; points at or before a metric's last step are dropped."""
        values = {name: float(value) for name, value in metrics.items()}
        self._log(
            {"kind": "metrics", "step": step, "time_ms": int(time.time() * 1000), "values": values}
        )

    def log_artifact(self, path: str, artifact_path: str = "") -> None:
        """Copy a file to the run's artifacts."""
        require_artifact(path)
        # Relative where it can be: the folder may lie elsewhere when the entry is sent.
        own = resolved_path(path).removeprefix(f"{self._folder.rstrip('/')}/")
        self._log({"kind": "artifact", "path": own, "to": artifact_path})

    def log_figure(self, figure: Any, name: str) -> None:
        """Write ``figures/NAME.png`` in the run's folder and copy it to the artifacts."""
        self.log_artifact(save_figure(figure, self._folder, name), "figures")

    def close(self, status: Status) -> None:
        """Replay what was kept, wait or no wait, and mark the run's end."""
        self._retry_at = 0.0
        self._log({"kind": "status", "status": status, "time_ms": int(time.time() * 1000)})
        if is_file(self._pending_path):
            warnings.warn(
                f"MLflow at {self.location} did not come back; what it lacks is kept in "
                f"{self._pending_path} and sent when the run is resumed",
                RuntimeWarning,
                stacklevel=2,
            )

    @property
    def _pending_path(self) -> str:
        return join(self._folder, "tracking_pending.jsonl")

    def _log(self, entry: dict[str, Any]) -> None:
        if time.monotonic() < self._retry_at:
            self._write_pending([*self._read_pending(), entry])
        else:
            self._replay([entry])

    def _replay(self, new: list[dict[str, Any]]) -> None:
        """Send kept entries and new ones in order; keep the rest at the first failure."""
        entries = [*self._read_pending(), *new]
        sent = 0
        try:
            self._attach()
            for entry in entries:
                self._send_or_drop(entry)
                sent += 1
        except Exception as error:
            if not self._is_down:
                warn_down(self._uri, error)
            self._is_down, self._retry_at = True, time.monotonic() + RETRY_AFTER_S
            # Where only the reply was lost, the store itself drops the entry when it comes again:
            # the same point at the same time.
            self._write_pending(entries[sent:])
            return
        self._is_down = False
        self._write_pending([])

    def _attach(self) -> None:
        """Find the run by its id or its folder's key, else create it."""
        self._client = MlflowClient(tracking_uri=self._uri)
        if self._last_step is not None:
            return
        if not self._run_id:
            self._run_id = self._find_or_create_run()
        run = self._client.get_run(self._run_id)
        if run.info.status != "RUNNING":
            self._client.update_run(self._run_id, status="RUNNING")
        if run.data.tags.get(FOLDER_TAG) != self._folder:
            self._client.set_tag(self._run_id, FOLDER_TAG, self._folder)
        self._last_step = {
            name: max(m.step for m in self._client.get_metric_history(self._run_id, name))
            for name in run.data.metrics
        }

    def _find_or_create_run(self) -> str:
        experiment_id = find_or_create_experiment(self._uri, self._experiment)
        key = _run_key(self._folder)
        found = self._client.search_runs(
            [experiment_id], filter_string=f"tags.`{KEY_TAG}` = '{key}'", max_results=1
        )
        if found:
            return str(found[0].info.run_id)
        tags = {KEY_TAG: key, FOLDER_TAG: self._folder}
        if self._parent:
            tags["mlflow.parentRunId"] = self._parent
        run = self._client.create_run(experiment_id, run_name=self._run_name, tags=tags)
        return str(run.info.run_id)

    def _send_or_drop(self, entry: dict[str, Any]) -> None:
        try:
            self._send(entry)
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            warnings.warn(
                f"MLflow refused {entry['kind']} of run {self._run_id}: {first_line(error)}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _send(self, entry: dict[str, Any]) -> None:
        assert self._last_step is not None
        match entry["kind"]:
            case "params":
                known = self._client.get_run(self._run_id).data.params
                params = [Param(n, v) for n, v in entry["values"].items() if n not in known]
                for start in range(0, len(params), MAX_PARAMS_PER_CALL):
                    some = params[start : start + MAX_PARAMS_PER_CALL]
                    self._client.log_batch(self._run_id, params=some)
            case "metrics":
                step, time_ms = entry["step"], entry["time_ms"]
                metrics = [
                    Metric(name, value, time_ms, step)
                    for name, value in entry["values"].items()
                    if step > self._last_step.get(name, -1)
                ]
                if metrics:
                    self._client.log_batch(self._run_id, metrics=metrics)
                self._last_step |= {metric.key: step for metric in metrics}
            case "artifact":
                own = entry["path"]
                place = own if own.startswith("/") or "://" in own else join(self._folder, own)
                if is_file(place):  # a kept entry's file may be gone by now
                    with local_copy(place) as path:
                        self._client.log_artifact(self._run_id, str(path), entry["to"] or None)
            case "status":
                self._client.set_terminated(self._run_id, entry["status"], entry["time_ms"])

    def _read_pending(self) -> list[dict[str, Any]]:
        if not is_file(self._pending_path):
            return []
        with local_copy(self._pending_path) as path:
            return [json.loads(line) for line in path.read_text().splitlines()]

    def _write_pending(self, entries: list[dict[str, Any]]) -> None:
        if not entries:
            remove_file(self._pending_path)
            return
        with written(self._pending_path) as path:
            path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def _run_key(folder: str) -> str:
    """Return the folder's own name for its run, known before MLflow gives it an id."""
    place = join(folder, "tracking_key.txt")
    if not is_file(place):
        with written(place) as path:
            path.write_text(uuid.uuid4().hex)
    with local_copy(place) as path:
        return path.read_text()
