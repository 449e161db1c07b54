"""What a run writes about itself, into its own folder and from there to MLflow."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from cvmae.config import resolved_path
from cvmae.storage.folders import is_file, join, written
from cvmae.tracking.journal import Journal, Point, now_ms

__all__ = ["TABLES", "Mirror", "Status", "Tracker"]

logger = logging.getLogger("cvmae")

Status = Literal["FINISHED", "FAILED", "KILLED"]

FIGURES, TABLES = "figures", "tables"


class Mirror(Protocol):
    """What shows a journal elsewhere, as far as it answers."""

    @property
    def run_id(self) -> str:
        """Its name of the run, '' where it has none yet."""

    @property
    def location(self) -> str:
        """Where it is, without a password."""

    @property
    def page(self) -> str:
        """Where a browser shows it."""

    def update(self, journal: Journal) -> None:
        """Send what it lacks, unless it did not answer a short while ago."""

    def resend(self, path: str) -> None:
        """Send a file again with the next update: it is another one now."""

    @property
    def has_just_failed(self) -> bool:
        """Whether it did not answer some run of this process a short while ago."""

    def settle(self, journal: Journal, *, patient: bool) -> bool:
        """Look at all it has and send what it lacks; tell whether it is whole."""


class Watch(Protocol):
    """What measures the node meanwhile."""

    def take(self) -> list[Point]:
        """Return what was measured since it was last asked."""

    def stop(self) -> None:
        """Measure a last time, and end."""


class Tracker:
    """Writes one run; the driver and rank 0 hold one, and write in turn."""

    def __init__(
        self, journal: Journal, mirror: Mirror | None = None, watch: Watch | None = None
    ) -> None:
        self._journal, self._mirror, self._watch = journal, mirror, watch

    @property
    def key(self) -> str:
        """Return the run's own name, by which any process finds it again."""
        return self._journal.about.key

    @property
    def run_id(self) -> str:
        """Return what names the run as a parent: its key, which is the same in every store."""
        return self.key

    @property
    def mlflow_id(self) -> str:
        """Return MLflow's name of the run, '' where it has none (yet)."""
        return self._mirror.run_id if self._mirror else ""

    @property
    def location(self) -> str:
        """Return where a person finds the run: a file or a tracking URI, without a password."""
        return self._mirror.location if self._mirror else self._journal.metrics_path

    @property
    def page(self) -> str:
        """Return the address at which a browser shows the experiment; '' without MLflow."""
        return self._mirror.page if self._mirror else ""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings; a name already recorded keeps its first value, as MLflow has it.

        A later value, as when a sweep has grown, is a tag of the same name.
        """
        about, values = self._journal.about, {n: str(value) for n, value in params.items()}
        later = {
            name: value
            for name, value in values.items()
            if name in about.tags or about.params.get(name, value) != value
        }
        new = {name: value for name, value in values.items() if name not in about.params}
        self._change(params=new, tags=later)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Record what describes the run; the last value of a name stays."""
        self._change(tags=dict(tags))

    def log_dataset(self, dataset: Mapping[str, str]) -> None:
        """Record the data that the run learns from (see `dataset.describe_dataset`)."""
        self._change(dataset=dict(dataset))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers at a step; points at or before a metric's last step are dropped.

        Raises:
            OSError: They cannot be written; they come with the next ones.
        """
        time_ms = now_ms()
        points = [Point(step, name, float(value), time_ms) for name, value in metrics.items()]
        if self._journal.add([*points, *(self._watch.take() if self._watch else ())]):
            self._reflect()

    def log_artifact(self, path: str, artifact_path: str = "") -> None:
        """Keep a file with the run, in a folder of its artifacts.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if not is_file(path):
            raise FileNotFoundError(f"{path} cannot be kept with the run: there is no such file")
        # Relative where it can be: the folder may lie elsewhere when the file is sent.
        own = resolved_path(path).removeprefix(f"{self._journal.folder.rstrip('/')}/")
        if self._mirror:
            self._mirror.resend(own)
        self._change(artifacts={own: artifact_path})

    def log_figure(self, figure: Any, name: str) -> None:
        """Keep a matplotlib figure as ``figures/NAME.png``."""
        place = join(self._journal.folder, FIGURES, f"{name}.png")
        with written(place) as path:
            figure.savefig(path, dpi=120, bbox_inches="tight")
        self.log_artifact(place, FIGURES)

    def log_table(self, columns: Mapping[str, Sequence[Any]], name: str) -> None:
        """Keep a table as ``tables/NAME.json``, which MLflow's page shows as one.

        Args:
            columns: By name, of one length; figures have four digits, and none where not finite.
            name: Of the file.
        """
        rows = [[_cell(value) for value in row] for row in zip(*columns.values(), strict=True)]
        place = join(self._journal.folder, TABLES, f"{name}.json")
        with written(place) as path:
            text = json.dumps({"columns": list(columns), "data": rows}, allow_nan=False)
            path.write_text(text, encoding="utf-8")
        self.log_artifact(place, TABLES)

    def leave(self) -> None:
        """Write what is still held; another process of the run goes on."""
        if self._watch:
            self._watch.stop()
            try:
                if self._journal.add(self._watch.take()):
                    self._reflect()
            except (OSError, ValueError) as error:
                logger.warning("the last look at the node is not written (%s)", error)

    def close(self, status: Status, *, patient: bool = True) -> bool:
        """Mark the run's end, let MLflow have all that it lacks, and tell whether it has."""
        self.leave()
        try:
            self._journal.change(status=status, ended_ms=now_ms())
        except (OSError, ValueError) as error:  # what was trained is worth more
            logger.warning("the end of the run is not written to its journal (%s)", error)
        return self.settle(patient=patient)

    def settle(self, *, patient: bool = True) -> bool:
        """Let MLflow have all that it lacks; tell whether it has, and say so where it has not."""
        is_whole = self._mirror is None or self._mirror.settle(self._journal, patient=patient)
        if self._mirror and not is_whole:
            logger.warning(
                "MLflow at %s lacks something of this run; all of it is in %s, and sent when the "
                "run is resumed (--resume), also if it has finished",
                self._mirror.location,
                self._journal.folder,
            )
        return is_whole

    def _change(self, **changes: Any) -> None:
        self._journal.change(**changes)
        self._reflect()

    def _reflect(self) -> None:
        if self._mirror:
            self._mirror.update(self._journal)


def _cell(value: Any) -> Any:
    """Return a value as JSON has it and a page has room for it."""
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None
