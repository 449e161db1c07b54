"""What a run has logged, in its own folder: ``metrics.parquet`` and ``tracking.json``.

Nothing else of a run's tracking has to be kept: what MLflow lacks is sent from here, whenever it
answers. A change reads what is there, adds to it, and writes it whole, here and on object storage
alike; for the driver and the worker of rank 0 write in turn, never at once.
"""

import dataclasses
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.storage.folders import is_file, join, local_copy, remove_file, written

__all__ = ["ABOUT", "METRICS", "RUNNING", "About", "Journal", "Point", "now_ms"]

METRICS, ABOUT = "metrics.parquet", "tracking.json"
# Of versions that kept no journal: the name by which MLflow knows the run, and what it lacked then,
# which a resumed run reports again from its checkpoint.
EARLIER_KEY, EARLIER_PENDING = "tracking_key.txt", "tracking_pending.jsonl"
RUNNING = "RUNNING"

TIME = pa.timestamp("ms", "UTC")
SCHEMA = pa.schema(
    [("step", pa.int64()), ("name", pa.string()), ("value", pa.float64()), ("time", TIME)]
)


class Point(NamedTuple):
    """One value of a metric."""

    step: int
    name: str
    value: float
    time_ms: int  # since 1970


@dataclass(frozen=True, kw_only=True)
class About:
    """What a run is, but for its metrics."""

    key: str  # the run's own name everywhere, known before any store gives it another
    run_name: str
    parent_run_id: str = ""  # key of the sweep's run; earlier versions had MLflow's name of it
    former: list[str] = field(default_factory=list)  # names and descriptions it has had
    status: str = RUNNING
    begun_ms: int = 0
    ended_ms: int = 0
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    dataset: dict[str, str] = field(default_factory=dict)  # as MLflow describes an input
    artifacts: dict[str, str] = field(default_factory=dict)  # file -> folder among the artifacts


class Journal:
    """The two files of a run; a folder without them is that of a run that begins."""

    def __init__(self, folder: str, about: About | None = None) -> None:
        """Read what is there.

        Args:
            folder: Of the run.
            about: What the run is where the folder does not say it (yet).
        """
        self.folder = folder
        self._held: list[Point] = []  # could not be written when they came
        self.table = SCHEMA.empty_table()
        self.about = about or About(key=_first_key(folder), run_name="", begun_ms=now_ms())
        self.read()

    @property
    def metrics_path(self) -> str:
        """Return the place of the metrics."""
        return join(self.folder, METRICS)

    def read(self) -> None:
        """Look at what is written: another process may have done so."""
        if is_file(place := join(self.folder, ABOUT)):
            with local_copy(place) as path:
                self.about = About(**json.loads(path.read_text(encoding="utf-8")))
        if is_file(self.metrics_path):
            with local_copy(self.metrics_path) as path:
                self.table = _with_time(pq.read_table(path))

    def change(self, **changes: Any) -> None:
        """Write what has changed of `about`; where nothing has, write nothing.

        A dictionary is added to what is there.

        Raises:
            OSError: It cannot be written.
        """
        self.read()
        new = {
            name: getattr(self.about, name) | value if isinstance(value, dict) else value
            for name, value in changes.items()
        }
        about = replace(self.about, **new)
        place = join(self.folder, ABOUT)
        if about == self.about and is_file(place):
            return
        self.about = about
        with written(place) as path:
            text = json.dumps(dataclasses.asdict(about), indent=1)
            path.write_text(text + "\n", encoding="utf-8")

    def add(self, points: Sequence[Point]) -> bool:
        """Write points that are new, and say whether any was.

        A point at or before its metric's last step is dropped: the first value of a step stays.

        Raises:
            OSError: They cannot be written; they are held, and come with the next ones.
        """
        self._held += points
        self.read()
        last, new = self.last_steps(), list[Point]()
        for point in self._held:
            if point.step > last.get(point.name, -1):
                last[point.name] = point.step
                new.append(point)
        if new:
            columns: list[Any] = [list(column) for column in zip(*new, strict=True)]
            table = pa.concat_tables([self.table, pa.table(columns, schema=SCHEMA)])
            with written(self.metrics_path) as path:
                pq.write_table(table, path)
            self.table = table
        self._held = []
        return bool(new)

    def forget_pending(self) -> None:
        """Remove the queue of an earlier version; a journal needs none."""
        if is_file(place := join(self.folder, EARLIER_PENDING)):
            remove_file(place)

    def last_steps(self) -> dict[str, int]:
        """Return the last step of each metric."""
        last = self.table.group_by("name").aggregate([("step", "max")]).to_pydict()
        return dict(zip(last["name"], last["step_max"], strict=True))


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)


def _first_key(folder: str) -> str:
    """Return the key that an earlier version gave the run, else a new one."""
    if not is_file(place := join(folder, EARLIER_KEY)):
        return uuid.uuid4().hex
    with local_copy(place) as path:
        return path.read_text(encoding="ascii").strip() or uuid.uuid4().hex


def _with_time(table: pa.Table) -> pa.Table:
    """Return metrics with the time of each, which those of earlier versions do not have."""
    if "time" in table.column_names:
        return table
    times: list[Any] = [now_ms()] * table.num_rows
    return table.append_column("time", pa.array(times, TIME))
