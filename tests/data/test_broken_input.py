"""Every kind of broken data set is refused with one clear line that shows no patient's data."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cvmae.data.meds import (
    SPLITS,
    open_dataset,
    plan_units,
    read_unit,
    refuse_shared_subjects,
    require_split,
    scan_subjects,
)

# Numbers that would stand out in a message, where no subject or value may appear.
ONE, TWO, THREE = 7_700_001, 7_700_002, 7_700_003
VALUE = 8_888.0
SECRETS = ("7700", "7_700", "8888")
# Times are below 0 because parquet leaves a 0 beneath a null, which must not pass for a time.
SOUND = [(s, time, "LAB//A", VALUE) for s in (ONE, TWO, THREE) for time in (None, -9, -5)]
TRAIN = {ONE: "train", TWO: "train", THREE: "train"}


def read_everything(root, unit_rows=10**6):
    """Open, plan and read as all jobs do."""
    dataset = open_dataset(root)
    require_split(dataset, "train")
    units = plan_units(dataset, unit_rows)
    refuse_shared_subjects(root, units, [scan_subjects(root, unit) for unit in units])
    for split in SPLITS:
        for unit in units:
            read_unit(root, unit, lambda codes: np.zeros(len(codes), np.int32), split)


def refusal(root, kind=ValueError, unit_rows=10**6):
    """Return the message with which a data set is refused: one line, without secrets."""
    with pytest.raises(kind) as caught:
        read_everything(root, unit_rows)
    message = str(caught.value)
    assert "\n" not in message
    assert not [secret for secret in SECRETS if secret in message.replace(root, "")]
    return message


def test_the_sound_data_set_beneath_these_tests_is_accepted(write_meds):
    read_everything(write_meds({"a.parquet": SOUND}, TRAIN))


@pytest.mark.parametrize("column", ["subject_id", "time", "code", "numeric_value"])
def test_missing_column(write_meds, column):
    root = write_meds({"a.parquet": SOUND}, TRAIN)
    path = Path(root) / "data" / "a.parquet"
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    message = refusal(root)
    assert "data/a.parquet has no column" in message
    assert repr(column) in message


@pytest.mark.parametrize(
    ("column", "kind", "needed"),
    [
        ("subject_id", pa.string(), "int64"),
        ("subject_id", pa.float64(), "int64"),
        ("time", pa.int64(), "timestamp[us]"),
        ("time", pa.timestamp("us", "UTC"), "timestamp[us] without a time zone"),
        ("code", pa.binary(), "string"),
        ("numeric_value", pa.string(), "float32"),
    ],
)
def test_wrong_column_type(write_meds, column, kind, needed):
    root = write_meds({"a.parquet": SOUND}, TRAIN)
    path = Path(root) / "data" / "a.parquet"
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, table.column(column).cast(kind)), path)
    message = refusal(root)
    assert f"data/a.parquet: column {column!r} is of type {kind}" in message
    assert f"MEDS needs {needed}" in message


@pytest.mark.parametrize("unit_rows", [1, 10**6])
@pytest.mark.parametrize("row_group_size", [1, 3, 100])
def test_times_that_are_not_sorted(write_meds, row_group_size, unit_rows):
    rows = [*SOUND[:6], (THREE, 9, "LAB//A", VALUE), (THREE, 8, "LAB//A", VALUE)]
    root = write_meds({"a.parquet": rows}, TRAIN, row_group_size=row_group_size)
    assert "data/a.parquet: row 7 (from 0) is earlier" in refusal(root, unit_rows=unit_rows)


@pytest.mark.parametrize("row_group_size", [1, 3, 100])
def test_a_row_without_time_behind_rows_with_one(write_meds, row_group_size):
    rows = [*SOUND, (THREE, None, "LAB//A", VALUE)]
    root = write_meds({"a.parquet": rows}, TRAIN, row_group_size=row_group_size)
    assert "data/a.parquet: row 9 (from 0) is earlier" in refusal(root)


@pytest.mark.parametrize("unit_rows", [1, 10**6])
@pytest.mark.parametrize("row_group_size", [1, 2, 3, 100])
@pytest.mark.parametrize("write_statistics", [True, False])
def test_subjects_that_are_not_sorted(write_meds, unit_rows, row_group_size, write_statistics):
    rows = [*SOUND[:3], *SOUND[6:], *SOUND[3:6]]
    options = {"row_group_size": row_group_size, "write_statistics": write_statistics}
    root = write_meds({"a.parquet": rows}, TRAIN, **options)
    message = refusal(root, unit_rows=unit_rows)
    assert "data/a.parquet: row 6 (from 0) belongs to a lower subject_id" in message


@pytest.mark.parametrize("row_group_size", [1, 2, 3, 100])
def test_subjects_that_are_interleaved(write_meds, row_group_size):
    rows = [*SOUND, SOUND[2]]
    root = write_meds({"a.parquet": rows}, TRAIN, row_group_size=row_group_size)
    assert "data/a.parquet: row 9 (from 0) belongs to a lower subject_id" in refusal(root)


@pytest.mark.parametrize("unit_rows", [1, 10**6])
def test_row_groups_whose_subjects_overlap(write_meds, unit_rows):
    # Each row group ascends and would be a unit of its own: only their bounds tell.
    rows = [*SOUND[:3], *SOUND[6:], *SOUND[3:6], (THREE + 1, 0, "LAB//A", VALUE)]
    root = write_meds({"a.parquet": rows}, TRAIN, row_group_size=6)
    message = refusal(root, unit_rows=unit_rows)
    assert "data/a.parquet: row 6 (from 0) belongs to a lower subject_id" in message


@pytest.mark.parametrize("unit_rows", [1, 10**6])
def test_a_subject_in_two_files(write_meds, unit_rows):
    # With small units the two files are in two units, with large ones in the same unit.
    shards = {"a.parquet": SOUND[:6], "b/c.parquet": SOUND[3:], "d.parquet": []}
    message = refusal(write_meds(shards, TRAIN), unit_rows=unit_rows)
    assert "two files, data/a.parquet and data/b/c.parquet" in message


def test_a_subject_in_two_files_is_refused_while_reading_one_unit(write_meds):
    root = write_meds({"a.parquet": SOUND[:6], "b.parquet": SOUND[3:]}, TRAIN)
    (unit,) = plan_units(open_dataset(root), 100)
    with pytest.raises(ValueError, match=r"two files, data/a.parquet and data/b.parquet"):
        read_unit(root, unit, lambda codes: np.zeros(len(codes), np.int32), "train")


@pytest.mark.parametrize("column", ["subject_id", "code"])
def test_a_row_without_subject_or_code(write_meds, column):
    rows = [list(row) for row in SOUND]
    rows[4][["subject_id", "time", "code"].index(column)] = None
    root = write_meds({"a.parquet": rows}, TRAIN)
    message = refusal(root)
    assert f"data/a.parquet: row 4 (from 0) has no {column}" in message


def test_rows_without_any_subject(write_meds):
    root = write_meds({"a.parquet": [(None, *row[1:]) for row in SOUND]}, TRAIN)
    assert "data/a.parquet: row 0 (from 0) has no subject_id" in refusal(root)


def test_no_train_split(write_meds):
    root = write_meds({"a.parquet": SOUND}, {ONE: "tuning", TWO: "held_out", THREE: "validation"})
    message = refusal(root)
    assert "no subject in split 'train'" in message
    assert "subject_splits.parquet" in message


def test_missing_table_of_splits(write_meds):
    root = write_meds({"a.parquet": SOUND}, None)
    assert "metadata/subject_splits.parquet is missing" in refusal(root, FileNotFoundError)


def test_subject_in_two_splits(write_meds):
    root = write_meds({"a.parquet": SOUND}, TRAIN)
    path = Path(root) / "metadata" / "subject_splits.parquet"
    rows = {"subject_id": [ONE, TWO, ONE], "split": ["train", "tuning", "held_out"]}
    pq.write_table(pa.table(rows), path)
    message = refusal(root)
    assert "rows 0 and 2 (from 0) put one subject in two splits ('train' and 'held_out')" in message


def test_subject_twice_in_one_split_is_harmless(write_meds):
    root = write_meds({"a.parquet": SOUND}, TRAIN)
    path = Path(root) / "metadata" / "subject_splits.parquet"
    pq.write_table(pa.table({"subject_id": [ONE, TWO, ONE], "split": ["train"] * 3}), path)
    assert open_dataset(root).num_subjects["train"] == 2


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"subject_id": pa.array([], "int64"), "split": pa.array([], "string")}, "no subject"),
        ({"subject_id": [ONE]}, "no column 'split'"),
        ({"split": ["train"]}, "no column 'subject_id'"),
        ({"subject_id": ["x"], "split": ["train"]}, "has type string in column 'subject_id'"),
        ({"subject_id": [ONE], "split": [3]}, "has type int64 in column 'split'"),
        ({"subject_id": [ONE, TWO], "split": ["train", None]}, "row 1 (from 0) has no split"),
        ({"subject_id": [None, TWO], "split": ["train"] * 2}, "row 0 (from 0) has no subject_id"),
    ],
)
def test_unsound_table_of_splits(write_meds, table, expected):
    root = write_meds({"a.parquet": SOUND}, TRAIN)
    pq.write_table(pa.table(table), Path(root) / "metadata" / "subject_splits.parquet")
    message = refusal(root)
    assert "metadata/subject_splits.parquet" in message
    assert expected in message


@pytest.mark.parametrize("place", ["data/a.parquet", "metadata/subject_splits.parquet"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda whole: whole[: len(whole) // 2], id="cut short"),
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: b"subject_id,time,code,numeric_value\n", id="csv"),
    ],
)
def test_file_that_is_not_whole_parquet(write_meds, place, damage):
    root = write_meds({"a.parquet": SOUND}, TRAIN)
    path = Path(root) / place
    path.write_bytes(damage(path.read_bytes()))
    assert f"{place} cannot be read as parquet" in refusal(root)


def test_file_with_damaged_pages(write_meds):
    # Footer and schema are sound, so the damage shows only when rows are decoded.
    root = write_meds({"a.parquet": SOUND}, TRAIN, compression="zstd")
    path = Path(root) / "data" / "a.parquet"
    whole = bytearray(path.read_bytes())
    whole[4:200] = bytes(196)
    path.write_bytes(whole)
    assert "data/a.parquet cannot be read as parquet" in refusal(root)


@pytest.mark.parametrize("change", ["gone", "fewer row groups", "other columns"])
def test_file_that_changed_after_the_data_set_was_listed(write_meds, change):
    root = write_meds({"a.parquet": SOUND}, TRAIN, row_group_size=2)
    (unit,) = plan_units(open_dataset(root), 10**6)
    path = Path(root) / "data" / "a.parquet"
    table = pq.read_table(path)
    if change == "gone":
        path.unlink()
    elif change == "fewer row groups":
        pq.write_table(table, path)
    else:
        pq.write_table(table.drop_columns(["code"]), path, row_group_size=2)
    with pytest.raises(ValueError, match=r"data/a\.parquet (is gone|has changed|has no column)"):
        scan_subjects(root, unit)
    with pytest.raises(ValueError, match=r"data/a\.parquet (is gone|has changed|has no column)"):
        read_unit(root, unit, lambda codes: np.zeros(len(codes), np.int32), "train")


def test_data_folder_without_parquet_files(write_meds):
    root = write_meds({}, TRAIN)
    (Path(root) / "data" / "notes.txt").write_text("nothing here")
    assert "has no .parquet file below data/" in refusal(root)


def test_shards_without_rows(write_meds):
    assert "have no rows" in refusal(write_meds({"a.parquet": [], "b.parquet": []}, TRAIN))


def test_root_that_does_not_exist(tmp_path):
    message = refusal(str(tmp_path / "nowhere"), FileNotFoundError)
    assert "data.root=" in message
    assert "nowhere" in message


def test_empty_root():
    assert "data.root=''" in refusal("", FileNotFoundError)


def test_root_that_is_not_the_folder_of_a_data_set(write_meds):
    root = write_meds({"a.parquet": SOUND}, TRAIN)
    message = refusal(str(Path(root) / "data"), FileNotFoundError)
    assert "holds no folder data/" in message


def test_root_that_is_a_file(write_meds):
    root = write_meds({"a.parquet": SOUND}, TRAIN)
    with pytest.raises(FileNotFoundError, match=r"is no folder"):
        open_dataset(f"{root}/data/a.parquet")


def test_a_folder_named_like_a_shard_is_not_one(write_meds):
    root = write_meds({"x.parquet/0.parquet": SOUND}, TRAIN)
    assert [shard.path for shard in open_dataset(root).shards] == ["data/x.parquet/0.parquet"]


def test_hidden_files_are_not_shards(write_meds):
    # Copies from other systems leave such files, and writers their unfinished ones.
    root = write_meds({"0.parquet": SOUND}, TRAIN)
    shutil.copy(f"{root}/data/0.parquet", f"{root}/data/._0.parquet")
    assert [shard.path for shard in open_dataset(root).shards] == ["data/0.parquet"]
