"""Data frames as users have them: kinds, orders, types, and what is refused."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from cvmae.infer.frames import like, read_measurements, read_moments

DAY = np.timedelta64(1, "D")
START = np.datetime64("2020-01-01", "us")


@pytest.fixture
def statistics(loaded):
    return loaded.fitted.statistics


@pytest.fixture
def table(statistics):
    """Two subjects out of order, and rows that are no measurements."""
    first, second = statistics.codes[:2]
    rows = [
        (7, START + 2 * DAY, second, 3.0),
        (7, START, first, 1.0),
        (3, START, first, 2.0),
        (3, START, second, 5.0),  # of the same time, in this order
        (3, None, first, 2.0),
        (3, START, "ADMISSION", None),
        (7, START, first, None),
        (7, START, first, float("nan")),
        (7, START, first, float("inf")),
        (9, START, "ADMISSION", 1.0),
    ]
    subject, time, code, value = zip(*rows, strict=True)
    return pa.table(
        {
            "subject_id": pa.array(subject, pa.int64()),
            "time": pa.array(time, pa.timestamp("us")),
            "code": code,
            "numeric_value": pa.array(value, pa.float64()),
            "text_value": [None] * len(rows),
        }
    )


KINDS = {
    "arrow": lambda table: table,
    "pandas": lambda table: table.to_pandas(),
    "pandas with another index": lambda table: table.to_pandas().set_index(np.arange(10)[::-1]),
    "categorical": lambda table: table.to_pandas().astype({"code": "category"}),
    "seconds": lambda table: table.set_column(1, "time", table["time"].cast(pa.timestamp("s"))),
    "nanoseconds": lambda table: table.set_column(
        1, "time", table["time"].cast(pa.timestamp("ns"))
    ),
    "chunks": lambda table: pa.concat_tables([table.slice(0, 4), table.slice(4)]),
    "polars": pl.from_arrow,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_frame_gives_the_same_measurements(statistics, table, kind):
    found = read_measurements(KINDS[kind](table), statistics)
    assert found.subject_id_S.tolist() == [3, 7]
    assert found.offsets_S.tolist() == [0, 2, 4]
    assert found.code_index_N.tolist() == [0, 1, 0, 1]
    assert found.numeric_value_N.tolist() == [2.0, 5.0, 1.0, 3.0]
    days = (found.time_us_N - START.astype(np.int64)) / 86_400_000_000
    assert days.tolist() == [0, 0, 0, 2]


def without(name):
    return lambda table: table.drop_columns([name])


def cast(name, kind):
    return lambda table: table.set_column(
        table.column_names.index(name), name, table[name].cast(kind)
    )


def emptied(name):
    """Take a column's value in row 5 away."""

    def change(table):
        values = table[name].to_pylist()
        values[5] = None
        column = pa.array(values, table[name].type)
        return table.set_column(table.column_names.index(name), name, column)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("code"), r"no column code \(it has subject_id, time, numeric_value, text_value\)"),
        (cast("subject_id", pa.float64()), "subject_id is of type double, expected int64"),
        (cast("subject_id", pa.string()), "subject_id is of type string, expected int64"),
        (emptied("subject_id"), "row 5 of the frame: subject_id is empty; so in 1 row"),
        (emptied("code"), "row 5 of the frame: code is empty"),
        (cast("time", pa.string()), "time is of type string, expected timestamp"),
        (cast("time", pa.timestamp("us", tz="UTC")), "expected timestamp without a time zone"),
    ],
)
def test_what_is_no_frame_of_meds_is_refused_by_name(statistics, table, change, message):
    with pytest.raises(ValueError, match=message):
        read_measurements(change(table), statistics)


def test_a_frame_without_a_known_code_is_refused(statistics, table):
    foreign = table.set_column(2, "code", pa.array(["ADMISSION", "HR"] * 5))
    message = (
        r"any of the model's \d+ codes\. Its most frequent codes with values: .*HR \(\d values\)"
        r".*; the model's most frequent: .*, \.\.\.: name codes"
    )
    with pytest.raises(ValueError, match=message):
        read_measurements(foreign, statistics)


def test_texts_are_no_values(statistics, table):
    table = table.set_column(3, "numeric_value", pa.array(["high"] * 10))
    with pytest.raises(ValueError, match="numeric_value is of type string, expected float") as told:
        read_measurements(table, statistics)
    assert "high" not in str(told.value)


@pytest.mark.parametrize("name", ["subject_id", "numeric_value"])
def test_what_a_message_of_pandas_would_show_is_not_shown(statistics, table, name):
    frame = table.to_pandas()
    frame[name] = frame[name].astype(object)
    frame.loc[3, name] = "748113"
    with pytest.raises(
        ValueError, match=f"^measurements: {name} holds values of several types"
    ) as told:
        read_measurements(frame, statistics)
    assert "748113" not in str(told.value)
    assert told.value.__cause__ is None


def test_an_id_beyond_the_last_of_int64_is_refused(statistics, table):
    ids = pa.array([2**63 + 5, *[7] * 9], pa.uint64())
    with pytest.raises(ValueError, match="row 0 of the frame: subject_id is beyond 92233") as told:
        read_measurements(table.set_column(0, "subject_id", ids), statistics)
    assert str(2**63 + 5) not in str(told.value)
    small = table.set_column(0, "subject_id", table["subject_id"].cast(pa.uint64()))
    assert read_measurements(small, statistics).subject_id_S.tolist() == [3, 7]


def test_a_time_that_no_calendar_has_is_refused(statistics, table):
    far = pa.array([10**13] * 10).cast(pa.timestamp("s"))
    with pytest.raises(ValueError, match="row 0 of the frame: time is in no year from 1 to 9999"):
        read_measurements(table.set_column(1, "time", far), statistics)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([{"subject_id": 1}], "^measurements: a list is no data frame"),
        (pl.LazyFrame(), "^measurements: a lazy frame .* collect"),
    ],
)
def test_what_has_no_columns_is_refused(statistics, given, message):
    with pytest.raises(TypeError, match=message):
        read_measurements(given, statistics)
    with pytest.raises(TypeError, match=r"^at: "):
        read_moments(given)


def test_moments_keep_their_order(table):
    frame = pd.DataFrame({"subject_id": [9, 3], "prediction_time": [START + DAY, START]})
    moments = read_moments(frame)
    assert moments.subject_id_L.tolist() == [9, 3]
    assert np.diff(moments.time_us_L).tolist() == [-86_400_000_000]
    frame.loc[1, "prediction_time"] = pd.NaT
    with pytest.raises(ValueError, match=r"^at: row 1 of the frame: prediction_time is empty"):
        read_moments(frame)


@pytest.mark.parametrize("kind", ["arrow", "pandas", "polars"])
def test_what_comes_back_is_of_the_kind_that_was_given(table, kind):
    frame = KINDS[kind](table)
    assert type(like(pa.table({"a": [1]}), frame)) is type(frame)
