"""Rows imputed from data frames of three kinds, and what is refused."""

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from cvmae.infer.model import Model
from cvmae.statistics.residuals import Residuals

HOUR = 3_600_000_000
COLUMNS = ["subject_id", "time", "code", "numeric_value", "interval_low", "interval_high"]


@pytest.fixture(scope="module")
def model(loaded):
    """A model with residuals of half a standard deviation down and one up."""
    statistics = loaded.fitted.statistics
    num_codes = statistics.num_codes
    residuals = Residuals(
        level=0.9,
        past_only=False,
        codes=statistics.codes,
        low_C=np.full(num_codes, -0.5),
        high_C=np.full(num_codes, 1.0),
        count_C=np.full(num_codes, 500),
        is_own_C=np.ones(num_codes, bool),
    )
    return Model(replace(loaded, residuals=residuals))


@pytest.fixture(scope="module")
def table(loaded):
    """Values of two subjects, rows without one, and rows that are none."""
    first, second, third = loaded.fitted.statistics.codes[:3]
    mean = loaded.fitted.statistics.mean
    rows = [
        (7, 2, second, None),
        (7, 0, first, mean[0]),
        (3, 0, second, mean[1]),
        (3, 1, first, float("nan")),
        (3, 0, second, None),  # beside a value
        (3, None, first, None),
        (3, 1, third, None),
        (3, 1, "ADMISSION", None),
        (9, 1, first, None),  # nothing else is known
    ]
    subject, hour, code, value = zip(*rows, strict=True)
    time = pa.array([None if h is None else h * HOUR for h in hour], pa.timestamp("us"))
    columns = {"subject_id": subject, "time": time, "code": code, "numeric_value": value}
    return pa.table(columns)


KINDS = {"arrow": lambda t: t, "pandas": pa.Table.to_pandas, "polars": pl.from_arrow}
TYPES = {"arrow": pa.Table, "pandas": pd.DataFrame, "polars": pl.DataFrame}


def plain(frame):
    return frame.to_arrow() if isinstance(frame, pl.DataFrame) else pa.table(frame)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_value_come_back_in_a_frame_of_the_kind(model, table, kind):
    found = model.impute(KINDS[kind](table))
    assert isinstance(found, TYPES[kind])
    assert list(found.columns if kind != "arrow" else found.column_names) == COLUMNS
    first, second, third = model.codes[:3]
    rows = plain(found).to_pylist()
    assert [(r["subject_id"], r["code"]) for r in rows] == [
        *sorted([(3, first), (3, third)]),
        (7, second),
        (9, first),
    ]
    assert all((r["numeric_value"] is None) == (r["subject_id"] == 9) for r in rows)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_for_comes_in_its_order(model, table, kind):
    code = model.codes[2]
    time = pa.array([9 * HOUR, HOUR, 9 * HOUR], pa.timestamp("us"))
    asked = pa.table({"subject_id": [7, 3, 7], "time": time, "code": [code] * 3})
    rows = plain(model.impute(KINDS[kind](table), KINDS[kind](asked))).to_pylist()
    assert [row["subject_id"] for row in rows] == [7, 3, 7]
    assert rows[0] == rows[2]
    assert rows[0]["numeric_value"] != rows[1]["numeric_value"]


def test_an_interval_is_what_is_expected_and_residuals_in_own_units(model, table):
    (row, *_) = [r for r in model.impute(table).to_pylist() if r["subject_id"] == 7]
    statistics = model.loaded.fitted.statistics
    std, mean = statistics.std[1], statistics.mean[1]
    assert abs(row["numeric_value"] - mean) < 3 * std
    assert row["numeric_value"] - row["interval_low"] == pytest.approx(0.5 * std, rel=1e-3)
    assert row["interval_high"] - row["numeric_value"] == pytest.approx(std, rel=1e-3)


def test_no_end_lies_beyond_what_values_were_clipped_to(model, table):
    residuals = model.loaded.residuals
    wide = replace(residuals, high_C=residuals.high_C * 1e6)
    far = Model(replace(model.loaded, residuals=wide))
    (row, *_) = [r for r in far.impute(table).to_pylist() if r["subject_id"] == 7]
    highest = model.loaded.fitted.statistics.clip_high[1]
    assert row["interval_high"] == pytest.approx(highest, rel=1e-6)


def test_without_residuals_a_warning_says_how_to_get_them(loaded, table, caplog):
    with caplog.at_level(logging.WARNING, logger="cvmae"):
        found = Model(loaded).impute(table)
    assert found["interval_low"].null_count == found.num_rows
    assert found["numeric_value"].null_count == 1
    (record,) = caplog.records
    assert "intervals are null" in record.message
    assert "jobs/export.py" in record.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"code": ["LAB//zinc"]}, r"1 row with codes that are none of the model's 8 .*zinc"),
        ({"time": pa.array([None], pa.timestamp("us"))}, "asked: row 0 of the frame: time is"),
        ({"subject_id": ["seven"]}, "subject_id is of type string, expected int64"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(model, table, change, message):
    time = pa.array([HOUR], pa.timestamp("us"))
    asked = {"subject_id": [7], "time": time, "code": [model.codes[0]]} | change
    with pytest.raises(ValueError, match=message):
        model.impute(table, pa.table(asked))


def test_what_diverged_is_refused_and_threads_are_left_alone(model_of, hospital, table):
    own = Model(model_of(hospital))
    torch.set_num_threads(2)
    try:
        own.impute(table)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    with torch.no_grad():
        own.loaded.model.mask_token.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"imputed values are NaN or infinite; its weights"):
        own.impute(table)
