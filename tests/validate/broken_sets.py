"""A small sound data set to break, and what pretraining and `validate` say of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cvmae.config import Config
from cvmae.meds.dataset import open_dataset
from cvmae.settings import DataConfig, ScalingConfig
from cvmae.statistics.fit import fit, require_sequences
from cvmae.statistics.fitted import FittedData
from cvmae.train.pretrain import SPLITS_TRAINED_ON
from cvmae.validate.findings import Finding, Validation
from cvmae.validate.validate import check

# Numbers that would stand out in a message, where no subject or value may appear.
ONE, TWO, THREE, FOUR, FIVE = range(7_700_001, 7_700_006)
VALUES = (8_888.0, 88_880.0)
VALUE = VALUES[0]
SECRETS = ("7700", "7_700", "8888", "8_888")


def rows_of(*subjects: int) -> list[tuple[Any, ...]]:
    """Return a row without time and two with a time, of each subject."""
    # Times are below 0 because parquet leaves a 0 beneath a null, which must not pass for a time.
    timed = ((None, VALUE), (-9, VALUES[0]), (-5, VALUES[1]))
    return [(s, time, "LAB//A", value) for s in subjects for time, value in timed]


SOUND = rows_of(ONE, TWO, THREE)
TRAIN = {ONE: "train", TWO: "train", THREE: "train"}
REST = {FOUR: "tuning", FIVE: "held_out"}


def whole(shards: dict[str, Any], splits: dict[int, str]) -> tuple[dict[str, Any], dict[int, str]]:
    """Return shards and splits with those beside them that pretraining needs."""
    return {**shards, "z.parquet": rows_of(*REST)}, {**splits, **REST}


def change(path: str | Path, by: Callable[[Any], Any], **options: Any) -> None:
    """Write a parquet file again, changed."""
    pq.write_table(by(pq.read_table(path)), path, **options)


def with_column(name: str, values: Any) -> Callable[[Any], Any]:
    """Return a change that puts other values, an array or those of the column, in a column."""

    def changed(table: pa.Table) -> pa.Table:
        column = values(table.column(name)) if callable(values) else values
        return table.set_column(table.column_names.index(name), name, column)

    return changed


def config_of(root: str, **settings: Any) -> Config:
    return Config(
        data=DataConfig(root=root, **{"min_count": 2} | settings),
        scaling=ScalingConfig(num_workers=0),
    )


def prepare(config: Config) -> FittedData:
    """Do what pretraining does before it trains."""
    fitted = fit(config, open_dataset(config.data.root, SPLITS_TRAINED_ON))
    require_sequences(fitted)
    return fitted


def accepted(root: str, **settings: Any) -> tuple[FittedData, Validation]:
    """Return what pretraining and `validate` know of a data set that both accept."""
    validation = check(config_of(root, **settings))
    refused = [found for found in validation.findings if found.level == "refused"]
    assert not refused, refused
    assert_no_secret(validation, root)
    return prepare(config_of(root, **settings)), validation


def refusal(root: str, kind: type[Exception] = ValueError, **settings: Any) -> str:
    """Return the message with which pretraining refuses a data set: one line, without secrets.

    `validate` refuses it, too, for the same reason.
    """
    with pytest.raises(kind) as caught:
        prepare(config_of(root, **settings))
    message = str(caught.value)
    assert "\n" not in message, message
    validation = check(config_of(root, **settings))
    assert not validation.accepted, message
    refused = [found for found in validation.findings if found.level == "refused"]
    assert [found for found in refused if _says(message, found)], f"{message!r} not in {refused}"
    assert_no_secret(validation, root, message)
    return message


def assert_no_secret(validation: Validation, root: str, message: str = "") -> None:
    told = json.dumps(validation.as_json()) + validation.as_text() + message
    found = [secret for secret in SECRETS if secret in told.replace(root, "")]
    assert not found, f"{found} in {told}"


def _says(message: str, found: Finding) -> bool:
    row = f" {found.rows[0]} " if found.rows else ""
    return all(part in message for part in (found.file, row, found.what, found.remedy))
