"""Parquet as other programs write it: the same rows come out, or the file is refused by name."""

import pickle
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cvmae.meds.dataset import open_dataset
from cvmae.meds.files import open_shard
from cvmae.meds.parquet import open_parquet
from cvmae.meds.reading import read_unit
from cvmae.meds.refused import RefusedDataError
from cvmae.meds.units import plan_units
from tests.validate.broken_sets import (
    ONE,
    SOUND,
    TRAIN,
    accepted,
    change,
    config_of,
    prepare,
    refusal,
    whole,
    with_column,
)

SHARD, SPLITS_FILE = "data/a.parquet", "metadata/subject_splits.parquet"
DELTAS = ("DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY")


@pytest.fixture
def root(write_meds):
    second = 1_000_000
    rows = [(s, time and time * second, code, v) for s, time, code, v in SOUND]
    return write_meds(*whole({"a.parquet": rows}, TRAIN))


def rows_read(root):
    """Return every measurement of the first shard's subjects in train."""
    dataset = open_dataset(root)
    (unit,) = plan_units(dataset, 10**6)
    read, _ = read_unit(dataset, unit, lambda codes: np.arange(len(codes), dtype=np.int32), "train")
    return [
        column.tolist()
        for column in (read.subject_id_S, read.offsets_S, read.time_us_N, read.numeric_value_N)
    ]


def assert_the_same(root, by, place=SHARD, **options):
    """Assert that a file written another way gives the same rows and the same statistics."""
    rows, fitted = rows_read(root), accepted(root)[0]
    change(f"{root}/{place}", by, **options)
    assert rows_read(root) == rows
    again = accepted(root)[0]
    assert again.statistics.differences(fitted.statistics) == []
    assert again.report == fitted.report


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("subject_id", pa.int32()),
        ("subject_id", pa.uint32()),
        ("code", pa.string_view()),
        ("code", pa.large_string()),
        ("code", pa.dictionary(pa.int8(), pa.large_string())),
        ("numeric_value", pa.float64()),
        ("numeric_value", pa.int32()),
        ("numeric_value", pa.uint64()),
        ("numeric_value", pa.int64()),
        ("numeric_value", pa.decimal128(12, 2)),
        ("numeric_value", pa.decimal256(50, 3)),
    ],
    ids=str,
)
def test_columns_of_related_types_give_the_same_rows(root, column, kind):
    assert_the_same(root, with_column(column, lambda values: values.cast(kind)))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
@pytest.mark.parametrize("encoding", ["PLAIN", *DELTAS])
@pytest.mark.parametrize("row_group_size", [2, 100])
def test_codes_in_any_encoding_give_the_same_rows(root, kind, encoding, row_group_size):
    assert_the_same(
        root,
        with_column("code", lambda codes: codes.cast(kind)),
        use_dictionary=False,
        column_encoding={"code": encoding},
        row_group_size=row_group_size,
    )


@pytest.mark.parametrize(
    ("column", "encoding"),
    [
        ("subject_id", "DELTA_BINARY_PACKED"),
        ("time", "DELTA_BINARY_PACKED"),
        ("numeric_value", "BYTE_STREAM_SPLIT"),
    ],
)
def test_numbers_in_any_encoding_give_the_same_rows(root, column, encoding):
    assert_the_same(
        root, lambda table: table, use_dictionary=False, column_encoding={column: encoding}
    )


@pytest.mark.parametrize("options", [{"version": "1.0"}, {"data_page_version": "2.0"}], ids=str)
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
def test_any_version_and_compression_gives_the_same_rows(root, options, compression):
    assert_the_same(root, lambda table: table, compression=compression, **options)


def test_columns_in_another_order_and_beside_others_give_the_same_rows(root):
    def changed(table):
        n = table.num_rows
        extra = {
            "text_value": ["x"] * n,
            "subject_id.x": [0] * n,  # a dot in a name is how parquet writes a nested column
            "nested": [{"code": "y", "time": 1}] * n,
            "list": [[1, 2]] * n,
        }
        columns = extra | {name: table[name] for name in reversed(table.column_names)}
        return pa.table({**columns, "code.y": ["z"] * n})

    assert_the_same(root, changed, row_group_size=2)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("subject_id", pa.int32()),
        ("subject_id", pa.uint32()),
        ("split", pa.string_view()),
        ("split", pa.large_string()),
        ("split", pa.dictionary(pa.int32(), pa.string())),
    ],
    ids=str,
)
def test_splits_of_related_types_are_the_same_splits(root, column, kind):
    by = with_column(column, lambda values: values.cast(kind))
    assert_the_same(root, by, place=SPLITS_FILE)


@pytest.mark.parametrize("encoding", DELTAS)
def test_splits_in_any_encoding_are_the_same_splits(root, encoding):
    options = {"use_dictionary": False, "column_encoding": {"split": encoding}}
    assert_the_same(root, lambda table: table, place=SPLITS_FILE, **options)


@pytest.mark.parametrize("column", ["subject_id", "split"])
def test_splits_with_a_column_twice_are_refused(root, column):
    change(f"{root}/{SPLITS_FILE}", lambda t: t.append_column(column, t.column(column)))
    assert f"{SPLITS_FILE} has 2 columns '{column}'" in refusal(root)


# --- INT96: nanoseconds would end in 2262


FIRST, LAST = (
    int(np.datetime64(time, "us").astype(np.int64))
    for time in ("0002-01-01", "9999-12-31T23:59:59.999999")
)


def far_dates(table):
    """Give each subject a row in the year 2, and one at the end of the calendar."""
    time = [(None, FIRST, LAST)[row % 3] for row in range(table.num_rows)]
    return with_column("time", pa.array(time, pa.timestamp("us")))(table)


def test_times_of_type_int96_are_those_of_the_same_table_in_microseconds(root):
    change(f"{root}/{SHARD}", far_dates)
    assert rows_read(root)[2] == [FIRST, LAST] * 3
    findings = accepted(root)[1].findings
    assert_the_same(root, lambda table: table, use_deprecated_int96_timestamps=True)
    assert accepted(root)[1].findings == findings


# --- what pyarrow does not read


def test_an_encoding_that_is_not_read_is_not_called_damage(root):
    # Categories whose pages are delta-encoded: pyarrow writes them and cannot read them.
    by = with_column("code", lambda codes: codes.dictionary_encode())
    options = {"use_dictionary": False, "column_encoding": {"code": "DELTA_BYTE_ARRAY"}}
    change(f"{root}/{SHARD}", by, **options)
    message = refusal(root)
    assert f"{SHARD} is parquet that pyarrow {pa.__version__} does not read" in message
    assert "damaged" not in message


def test_a_time_with_a_zone_is_refused_whatever_the_zone(root):
    for zone in ("UTC", "Europe/Vienna", "+02:00"):
        by = with_column("time", lambda t, zone=zone: t.cast(pa.timestamp("us", zone)))
        change(f"{root}/{SHARD}", lambda t: with_column("time", t["time"].cast("timestamp[us]"))(t))
        change(f"{root}/{SHARD}", by)
        assert f"timestamp[us, tz={zone}], MEDS needs timestamp[us] without" in refusal(root)


def test_subjects_beyond_int64_are_refused(root):
    by = with_column("subject_id", lambda values: values.cast(pa.uint64()))
    change(f"{root}/{SHARD}", by)
    assert "'subject_id' of type uint64, MEDS needs int64" in refusal(root)


# --- the fast way and the parts of a refusal


def test_codes_are_dictionaries_wherever_their_encoding_allows_it(root):
    with open_shard(root, SHARD) as parquet:
        assert pa.types.is_dictionary(parquet.read_row_group(0)["code"].type)
    change(f"{root}/{SHARD}", lambda table: table, use_dictionary=False)
    with open_shard(root, SHARD) as parquet:
        assert pa.types.is_dictionary(parquet.read_row_group(0)["code"].type)
    with open_parquet(root, SPLITS_FILE) as parquet:
        assert pa.types.is_string(parquet.read()["split"].type)


def test_a_refusal_has_its_parts_also_behind_a_process(write_meds):
    rows = [*SOUND, (ONE, 1, "LAB//A", 1.0)]
    root = write_meds(*whole({"a.parquet": rows}, TRAIN))
    with pytest.raises(RefusedDataError) as caught:
        prepare(config_of(root))
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (error.file, error.rows) == (SHARD, (9,))
        assert error.what == "belongs to a lower subject_id than the row before it"
        assert error.remedy.endswith("sort the file by subject_id, then time")
        assert str(error) == f"{SHARD}: row 9 (from 0) {error.what}; {error.remedy}"


# --- messages about the table of splits


def test_splits_that_are_a_folder_are_called_a_folder(root):
    path = Path(root, SPLITS_FILE)
    table = pq.read_table(path)
    path.unlink()
    path.mkdir()
    pq.write_table(table, path / "part-0.parquet")
    assert refusal(root).startswith(f"{SPLITS_FILE} is a folder; write the table as one")


def test_splits_of_other_names_are_named(root):
    by = with_column(
        "split",
        lambda names: pa.array(
            [{"tuning": "val", "held_out": "test"}.get(n, n) for n in names.to_pylist()]
        ),
    )
    change(f"{root}/{SPLITS_FILE}", by)
    message = refusal(root)
    assert "MEDS calls them train, tuning, held_out: rename val, test" in message
    assert "'val': 1, 'test': 1" in message


def test_names_are_not_shown_where_there_are_too_many_to_be_splits(root):
    change(f"{root}/{SPLITS_FILE}", lambda table: many_splits())
    message = refusal(root)
    assert "no subject in split 'train'" in message
    assert "rename" not in message


def many_splits():
    return pa.table({"subject_id": range(20), "split": [f"7700{number}" for number in range(20)]})


def test_decimals_are_the_numbers_that_they_write(root):
    values = [Decimal("1.25"), None, Decimal("-3.50")] * 3
    change(f"{root}/{SHARD}", with_column("numeric_value", pa.array(values, pa.decimal128(9, 2))))
    assert set(rows_read(root)[3]) == {-3.5}
