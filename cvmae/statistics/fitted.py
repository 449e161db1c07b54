"""What was learnt from a data set before training, as one folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cvmae.config import Config, flatten
from cvmae.meds.dataset import Source
from cvmae.meds.unit_index import UnitIndex
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.statistics.vocabulary import file_hash
from cvmae.storage.folders import is_file, join, local_copy, written
from cvmae.storage.output import require_new

__all__ = ["FittedData", "TrainingData", "as_json", "fit_settings", "require_unfitted"]

FILES = ("code_statistics.parquet", "unit_index.parquet", "data.json")
# Settings that statistics and unit index depend on; a file counts by its content.
SETTINGS = (
    "data.code_pattern",
    "data.num_codes",
    "data.min_count",
    "data.clip_quantiles",
    "data.sequence_length",
    "data.crop",
    "data.unit_rows",
)


@dataclass(frozen=True, kw_only=True)
class FittedData:
    """What was learnt from a data set before training; travels with the weights."""

    statistics: CodeStatistics
    unit_index: UnitIndex
    fingerprint: dict[str, Any]  # of the data set
    settings: dict[str, Any]  # that the rest depends on
    report: dict[str, Any]  # counts of subjects and rows, codes left out and why

    def write(self, folder: str | Path) -> None:
        """Write a new folder, whole or not at all.

        Raises:
            ValueError: The folder is there already and is not empty.
            OSError: It cannot be written.
        """
        require_unfitted(folder)
        with written(folder, last=FILES[2]) as aside:
            aside.mkdir()
            self.statistics.write(aside / FILES[0])
            self.unit_index.write(aside / FILES[1])
            facts = {name: getattr(self, name) for name in ("fingerprint", "settings", "report")}
            (aside / FILES[2]).write_text(json.dumps(facts, indent=1), encoding="utf-8")

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is damaged.
        """
        for name in FILES:
            if not is_file(join(folder, name)):
                raise FileNotFoundError(
                    f"{folder} holds no {name}: give a folder written by fit_statistics"
                )
        with local_copy(folder) as copy:
            return cls._read(copy)

    @classmethod
    def _read(cls, folder: Path) -> Self:
        path = folder / FILES[2]
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            parts = {name: dict(facts[name]) for name in ("fingerprint", "settings", "report")}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): fit the statistics anew") from None
        return cls(
            statistics=CodeStatistics.read(folder / FILES[0]),
            unit_index=UnitIndex.read(folder / FILES[1]),
            **parts,
        )


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a run is trained on: where its rows are, and what was fitted to them."""

    source: Source
    fitted: FittedData


def require_unfitted(folder: str | Path) -> None:
    """Refuse a folder in which there is something, but for what a killed process has begun."""
    require_new(str(folder), unfinished=lambda name: name in FILES[:2])  # the last file is lacking


def fit_settings(config: Config) -> dict[str, Any]:
    """Return the settings that statistics and unit index depend on, as JSON gives them back."""
    flat = flatten(config)
    settings = {name: flat[name] for name in SETTINGS}
    return as_json(settings | {"data.codes_file": file_hash(config.data.codes_file)})


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON gives them back, so that written and fresh ones compare."""
    given_back: dict[str, Any] = json.loads(json.dumps(dict(values), default=int))
    return given_back
