"""A run in MLflow: a mirror of the run's journal, from whatever MLflow has of it already.

What MLflow has is asked of it once a process, after every failure, and at the end. So nothing is
lost and nothing comes twice, whether a server was down, was killed between a request and its reply,
or is another one than before. Only `MlflowClient` is used; MLflow's fluent functions keep a run per
process, which a trial that shares its process with another would overwrite.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from cvmae.config import Config, resolved_path, without_password
from cvmae.storage.folders import is_file, join, local_copy
from cvmae.tracking.journal import RUNNING, About, Journal
from cvmae.tracking.mlflow_page import GROUP_TAG, SWEEP_TAG, experiment_page
from cvmae.tracking.mlflow_store import (
    KEY_TAG,
    PARENT_TAG,
    find_or_create_experiment,
    find_run,
    warn_down,
)
from cvmae.tracking.origin import begun_or_resumed, first_line, inherited
from cvmae.tracking.params import GROUP
from cvmae.tracking.tracker import TABLES

__all__ = ["MlflowMirror"]

logger = logging.getLogger("cvmae")

# Between questions to a store that does not answer, during which all ranks wait.
FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 600.0
PATIENCE_S, PAUSE_S = 10.0, 1.0  # at the end
JUST_S = 30.0
MOST_METRICS, MOST_OTHERS, LONGEST_PARAM, LONGEST_TAG = 1000, 100, 6000, 8000  # MLflow's limits
FOLDER_TAG, TABLES_TAG = "cvmae.output_dir", "mlflow.loggedArtifacts"
# The store understood what it was sent and will never take it.
REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST"})

_failed_at_s: dict[str, float] = {}  # by store: the failure of whichever run was the last to ask


@dataclass(kw_only=True)
class _Shown:
    """What MLflow has of the run, as far as this process knows."""

    run_id: str
    status: str
    params: set[str]
    tags: dict[str, str]
    digests: set[str]  # of data sets
    last_step: dict[str, int]  # by metric
    num_rows: int = 0  # of the journal's metrics that are behind
    files: set[str] | None = None  # that are there as they are here; None: not asked yet
    refused: set[str] = field(default_factory=set)  # names


class MlflowMirror:
    """Shows one run in MLflow; see the module's docstring."""

    def __init__(self, config: Config, tags: Mapping[str, str]) -> None:
        """Name the store; nothing is asked of it yet.

        Args:
            config: Names the store, the experiment and the run's folder.
            tags: What this process alone knows of the run.
        """
        self._tags = dict(tags)
        self._uri, self._experiment = config.tracking.uri, config.tracking.experiment
        self._folder = resolved_path(config.output_dir)
        self._client: Any = None
        self._shown: _Shown | None = None
        self._run_id = self._page = ""
        self._is_down, self._takes_files = False, True
        self._drawn_again: set[str] = set()  # files that MLflow may have as they were
        self._retry_at_s, self._wait_s = 0.0, FIRST_WAIT_S

    @property
    def run_id(self) -> str:
        """Return MLflow's name of the run, '' as long as it has none."""
        return self._run_id

    @property
    def location(self) -> str:
        """Return the tracking URI, without a password."""
        return without_password(self._uri)

    @property
    def page(self) -> str:
        """Return where a browser shows the experiment, '' where that is not known."""
        return self._page

    def update(self, journal: Journal) -> None:
        """Send what MLflow lacks, unless it did not answer a short while ago."""
        if time.monotonic() >= self._retry_at_s:
            self._try(journal)

    def resend(self, path: str) -> None:
        """Send a file again with the next update that reaches MLflow."""
        self._drawn_again.add(path)

    @property
    def has_just_failed(self) -> bool:
        """Tell whether the store did not answer some run of this process a short while ago."""
        failed_at_s = _failed_at_s.get(self._uri)
        return failed_at_s is not None and time.monotonic() < failed_at_s + JUST_S

    def settle(self, journal: Journal, *, patient: bool = True) -> bool:
        """Look at all that MLflow has, send what it lacks, and tell whether it is whole."""
        deadline_s = time.monotonic() + (PATIENCE_S if patient else 0.0)
        while True:
            self._shown, self._takes_files = None, True
            if self._try(journal):
                return True
            if time.monotonic() + PAUSE_S > deadline_s:
                return False
            time.sleep(PAUSE_S)

    def _try(self, journal: Journal) -> bool:
        try:
            is_whole = self._send_all(journal)
        except Exception as error:
            if not self._is_down:
                warn_down(self._uri, error)
            # Whether a request was granted whose reply is lost, only MLflow knows.
            self._is_down, self._shown = True, None
            _failed_at_s[self._uri] = time.monotonic()
            self._retry_at_s = time.monotonic() + self._wait_s
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
            return False
        if self._is_down:
            logger.info("MLflow at %s answers again, and has what it lacked", self.location)
        self._is_down, self._retry_at_s, self._wait_s = False, 0.0, FIRST_WAIT_S
        _failed_at_s.pop(self._uri, None)
        return is_whole

    def _send_all(self, journal: Journal) -> bool:
        about = journal.about
        if self._shown is None:
            self._client = MlflowClient(tracking_uri=self._uri)
            self._shown = self._look(about)
        shown = self._shown
        self._send_tags(about.tags | _group(about, shown), shown, about.former)
        params = [
            Param(name, value[:LONGEST_PARAM])
            for name, value in about.params.items()
            if name not in shown.params
        ]
        self._send(params, shown, MOST_OTHERS, lambda some: self._log_batch(params=some))
        shown.params |= set(about.params)
        self._send_metrics(journal.table, shown)
        self._send_status(about, shown)
        has_dataset, has_files = self._send_dataset(about, shown), self._send_files(about, shown)
        return has_dataset and has_files

    def _look(self, about: About) -> _Shown:
        """Find the run by its key, or create it, and see what MLflow has of it."""
        experiment_id = find_or_create_experiment(self._uri, self._experiment)
        self._page = experiment_page(self._uri, experiment_id)
        run = find_run(self._client, experiment_id, about.key)
        there = run.data.tags if run else {}
        tags = about.tags | {KEY_TAG: about.key, FOLDER_TAG: self._folder}
        new = {name: value for name, value in self._tags.items() if name not in there}
        tags |= new | begun_or_resumed(self._tags, there)
        if parent := self._find_parent(experiment_id, about.parent_run_id):
            known = parent.data.tags
            handed_down = inherited(known, begins=run is None and about.status == RUNNING)
            tags = {n: value for n, value in handed_down.items() if n not in there} | tags
            tags |= {PARENT_TAG: parent.info.run_id, SWEEP_TAG: _sweep_name(known)}
        if run is None:
            run = self._client.create_run(
                experiment_id, start_time=about.begun_ms or None, run_name=about.run_name, tags=tags
            )
        self._run_id = str(run.info.run_id)
        if run.info.run_name in about.former and run.info.run_name != about.run_name:
            self._client.update_run(self._run_id, name=about.run_name)
        inputs = run.inputs.dataset_inputs if run.inputs else ()
        shown = _Shown(
            run_id=self._run_id,
            status=run.info.status,
            params=set(run.data.params),
            tags=dict(run.data.tags),
            digests={entry.dataset.digest for entry in inputs},
            last_step={metric.key: metric.step for metric in run.data.to_proto().metrics},
        )
        self._send_tags(tags, shown, about.former)
        return shown

    def _find_parent(self, experiment_id: str, named: str) -> Run | None:
        """Return the sweep's run, None where MLflow has none (yet)."""
        if not named:
            return None
        if run := find_run(self._client, experiment_id, named):
            return run
        with suppress(MlflowException):
            run = self._client.get_run(named)
        return run

    def _log_batch(self, **entries: Any) -> None:
        self._client.log_batch(self._run_id, **entries)

    def _send_tags(
        self, tags: Mapping[str, str], shown: _Shown, former: Sequence[str] = ()
    ) -> None:
        """Set tags; what a person has written on MLflow's page stays, unlike what we had there."""
        new = [
            RunTag(name, value[:LONGEST_TAG])
            for name, value in tags.items()
            if (there := shown.tags.get(name)) != value[:LONGEST_TAG]
            and (there in (None, *former) or not name.startswith("mlflow.") or name == TABLES_TAG)
        ]
        self._send(new, shown, MOST_OTHERS, lambda some: self._log_batch(tags=some))
        shown.tags |= {tag.key: tag.value for tag in new}

    def _send_metrics(self, table: pa.Table, shown: _Shown) -> None:
        """Send the points after the last step that MLflow has of a metric, oldest first."""
        new = table.slice(shown.num_rows)
        columns = (new["name"], new["value"], new["time"].cast(pa.int64()), new["step"])
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        points = [Metric(*row) for row in rows if row[3] > shown.last_step.get(row[0], -1)]
        self._send(points, shown, MOST_METRICS, lambda some: self._log_batch(metrics=some))
        shown.num_rows = table.num_rows
        shown.last_step |= {point.key: point.step for point in points}

    def _send(
        self,
        items: Sequence[Any],
        shown: _Shown,
        most: int,
        send: Callable[[Sequence[Any]], None],
    ) -> None:
        """Send items in turn; what the store refuses does not keep it from the others."""
        items = [item for item in items if item.key not in shown.refused]
        if len(items) > most:
            for first in range(0, len(items), most):
                self._send(items[first : first + most], shown, most, send)
        elif items:
            try:
                send(items)
            except MlflowException as error:
                if error.error_code not in REFUSALS:
                    raise
                if len(items) > 1:
                    self._send(items, shown, (len(items) + 1) // 2, send)
                    return
                shown.refused.add(items[0].key)
                logger.warning("MLflow refused %s: %s", items[0].key, first_line(error))

    def _send_status(self, about: About, shown: _Shown) -> None:
        if about.status == shown.status:
            return
        if about.status == RUNNING:
            self._client.update_run(self._run_id, status=RUNNING)
        else:
            self._client.set_terminated(self._run_id, about.status, about.ended_ms)
        shown.status = about.status

    def _send_dataset(self, about: About, shown: _Shown) -> bool:
        if not about.dataset or about.dataset["digest"] in shown.digests:
            return True
        entry = DatasetInput(
            Dataset(**about.dataset), [InputTag("mlflow.data.context", "training")]
        )
        # Another trial may name the same data set at this moment, which MLflow refuses.
        with suppress(MlflowException):
            self._client.log_inputs(self._run_id, datasets=[entry])
            shown.digests.add(about.dataset["digest"])
        return about.dataset["digest"] in shown.digests

    def _send_files(self, about: About, shown: _Shown) -> bool:
        """Send what is not there, or is of another size; last, since stores of files are others."""
        try:
            if self._takes_files:
                if shown.files is None:
                    shown.files = self._files_there(about)
                for own, to in about.artifacts.items():
                    place = self._place(own)
                    is_there = own in shown.files and own not in self._drawn_again
                    if not is_there and is_file(place):  # it may be gone by now
                        with local_copy(place) as path:
                            self._client.log_artifact(self._run_id, str(path), to or None)
                    shown.files.add(own)
                    self._drawn_again.discard(own)
                self._send_tags(_table_tags(about), shown)
        except Exception as error:
            self._takes_files = False
            logger.warning("MLflow at %s takes no files (%s)", self.location, first_line(error))
        return self._takes_files

    def _files_there(self, about: About) -> set[str]:
        sizes = {
            info.path: info.file_size
            for to in {*about.artifacts.values()}
            for info in self._client.list_artifacts(self._run_id, to or None)
        }
        there = set()
        for own, to in about.artifacts.items():
            name = join(to, Path(own).name) if to else Path(own).name
            if sizes.get(name) is not None and is_file(self._place(own)):
                with local_copy(self._place(own)) as path:
                    if path.stat().st_size == sizes[name]:
                        there.add(own)
        return there

    def _place(self, own: str) -> str:
        return own if own.startswith("/") or "://" in own else join(self._folder, own)


def _sweep_name(tags: Mapping[str, str]) -> str:
    """Return what tells a sweep's trials from those of others, also when the sweep has grown."""
    return f"{Path(tags.get(FOLDER_TAG, '')).name} {tags.get(KEY_TAG, '')[:6]}".strip()


def _group(about: About, shown: _Shown) -> dict[str, str]:
    """Return the tag of runs whose mean is drawn as one: of a sweep, else of a data set."""
    if not (masking := about.tags.get(GROUP) or about.params.get(GROUP)):
        return {}
    within = shown.tags.get(SWEEP_TAG) or " ".join(
        about.dataset[name] for name in ("name", "digest") if name in about.dataset
    )
    return {GROUP_TAG: ", ".join(filter(None, [masking, within]))}


def _table_tags(about: About) -> dict[str, str]:
    """Return the tag by which MLflow's page knows which files are tables."""
    tables = [
        {"path": join(to, Path(own).name), "type": "table"}
        for own, to in about.artifacts.items()
        if to == TABLES
    ]
    return {TABLES_TAG: json.dumps(tables)} if tables else {}
