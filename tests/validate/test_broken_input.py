"""Every kind of broken data set is refused with one clear line that shows no patient's data."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cvmae.meds.dataset import open_dataset
from cvmae.meds.reading import read_unit
from cvmae.meds.subjects import scan_subjects
from cvmae.meds.units import plan_units
from tests.validate.broken_sets import (
    ONE,
    REST,
    SOUND,
    THREE,
    TRAIN,
    TWO,
    VALUE,
    accepted,
    change,
    refusal,
    rows_of,
    whole,
    with_column,
)

SPLITS_FILE = "metadata/subject_splits.parquet"


@pytest.fixture
def root(write_meds):
    """A sound data set, to be broken."""
    return write_meds(*whole({"a.parquet": SOUND}, TRAIN))


def test_the_sound_data_set_beneath_these_tests_is_accepted(root):
    fitted, validation = accepted(root)
    assert fitted.statistics.codes == ("LAB//A",)
    assert {found.what for found in validation.findings} == {"has no time, though its code matches"}


@pytest.mark.parametrize("column", ["subject_id", "time", "code"])
def test_missing_column(root, column):
    change(f"{root}/data/a.parquet", lambda table: table.drop_columns([column]))
    message = refusal(root)
    assert "data/a.parquet has no column" in message
    assert repr(column) in message


@pytest.mark.parametrize(
    ("column", "kind", "needed"),
    [
        ("subject_id", pa.string(), "int64"),
        ("subject_id", pa.float64(), "int64"),
        ("subject_id", pa.uint64(), "int64"),
        ("time", pa.int64(), "timestamp[us]"),
        ("time", pa.date64(), "timestamp[us]"),
        ("time", pa.timestamp("us", "UTC"), "timestamp[us] without a time zone"),
        ("code", pa.binary(), "string"),
        ("numeric_value", pa.string(), "float32"),
        ("numeric_value", pa.bool_(), "float32"),
    ],
)
def test_wrong_column_type(root, column, kind, needed):

    change(f"{root}/data/a.parquet", with_column(column, pa.nulls(len(SOUND), kind)))
    message = refusal(root)
    assert f"data/a.parquet has a column {column!r} of type" in message
    assert f"MEDS needs {needed}" in message


def test_a_column_that_is_there_twice(root):
    change(f"{root}/data/a.parquet", lambda t: t.append_column("code", t.column("code")))
    assert "data/a.parquet has 2 columns 'code'" in refusal(root)


@pytest.mark.parametrize("unit_rows", [1, 10**6])
@pytest.mark.parametrize("row_group_size", [1, 3, 100])
def test_times_that_are_not_sorted(write_meds, row_group_size, unit_rows):
    rows = [*SOUND[:6], (THREE, 9, "LAB//A", VALUE), (THREE, 8, "LAB//A", VALUE)]
    root = write_meds(*whole({"a.parquet": rows}, TRAIN), row_group_size=row_group_size)
    assert "data/a.parquet: row 7 (from 0) is earlier" in refusal(root, unit_rows=unit_rows)


@pytest.mark.parametrize("row_group_size", [1, 3, 100])
def test_a_row_without_time_behind_rows_with_one(write_meds, row_group_size):
    rows = [*SOUND, (THREE, None, "LAB//A", VALUE)]
    root = write_meds(*whole({"a.parquet": rows}, TRAIN), row_group_size=row_group_size)
    assert "data/a.parquet: row 9 (from 0) is earlier" in refusal(root)


@pytest.mark.parametrize("unit_rows", [1, 10**6])
@pytest.mark.parametrize("row_group_size", [1, 2, 3, 100])
@pytest.mark.parametrize("write_statistics", [True, False])
def test_subjects_that_are_not_sorted(write_meds, unit_rows, row_group_size, write_statistics):
    rows = [*SOUND[:3], *SOUND[6:], *SOUND[3:6]]
    options = {"row_group_size": row_group_size, "write_statistics": write_statistics}
    root = write_meds(*whole({"a.parquet": rows}, TRAIN), **options)
    message = refusal(root, unit_rows=unit_rows)
    assert "data/a.parquet: row 6 (from 0) belongs to a lower subject_id" in message


@pytest.mark.parametrize("row_group_size", [1, 2, 3, 100])
def test_subjects_that_are_interleaved(write_meds, row_group_size):
    rows = [*SOUND, SOUND[2]]
    root = write_meds(*whole({"a.parquet": rows}, TRAIN), row_group_size=row_group_size)
    assert "data/a.parquet: row 9 (from 0) belongs to a lower subject_id" in refusal(root)


@pytest.mark.parametrize("unit_rows", [1, 10**6])
def test_row_groups_whose_subjects_overlap(write_meds, unit_rows):
    # Each row group ascends and would be a unit of its own: only their bounds tell.
    rows = [*SOUND[:3], *SOUND[6:], *SOUND[3:6], (THREE + 10, 0, "LAB//A", VALUE)]
    root = write_meds(*whole({"a.parquet": rows}, TRAIN), row_group_size=6)
    message = refusal(root, unit_rows=unit_rows)
    assert "data/a.parquet: row 6 (from 0) belongs to a lower subject_id" in message


@pytest.mark.parametrize("unit_rows", [1, 10**6])
def test_a_subject_in_two_files(write_meds, unit_rows):
    # With small units the two files are in two units, with large ones in the same unit.
    shards = {"a.parquet": SOUND[:6], "b/c.parquet": SOUND[3:], "d.parquet": []}
    message = refusal(write_meds(*whole(shards, TRAIN)), unit_rows=unit_rows)
    assert "two files, data/a.parquet and data/b/c.parquet" in message


def test_a_subject_in_two_files_is_refused_while_reading_one_unit(write_meds):
    root = write_meds(*whole({"a.parquet": SOUND[:6], "b.parquet": SOUND[3:]}, TRAIN))
    dataset = open_dataset(root)
    (unit,) = plan_units(dataset, 100)
    with pytest.raises(ValueError, match=r"two files, data/a.parquet and data/b.parquet"):
        read_unit(dataset, unit, lambda codes: np.zeros(len(codes), np.int32), "train")


@pytest.mark.parametrize("column", ["subject_id", "code"])
def test_a_row_without_subject_or_code(write_meds, column):
    rows = [list(row) for row in SOUND]
    rows[4][["subject_id", "time", "code"].index(column)] = None
    root = write_meds(*whole({"a.parquet": rows}, TRAIN))
    message = refusal(root)
    assert f"data/a.parquet: row 4 (from 0) has no {column}" in message


def test_rows_without_any_subject(write_meds):
    root = write_meds(*whole({"a.parquet": [(None, *row[1:]) for row in SOUND]}, TRAIN))
    assert "data/a.parquet: row 0 (from 0) has no subject_id" in refusal(root)


@pytest.mark.parametrize("time", [-(2**62), 2**62], ids=["far past", "far future"])
@pytest.mark.parametrize("row_group_size", [2, 100])
def test_a_time_that_no_calendar_has(write_meds, time, row_group_size):
    # Differences of such times leave 64 bits, and would come out as other times without a word.
    rows = [*SOUND, (THREE + 10, min(time, 0), "LAB//A", VALUE)]
    rows += [(THREE + 10, max(time, 0), "LAB//A", VALUE)]
    splits = {**TRAIN, THREE + 10: "train"}
    root = write_meds(*whole({"a.parquet": rows}, splits), row_group_size=row_group_size)
    row = 9 if time < 0 else 10
    assert f"data/a.parquet: row {row} (from 0) has a time" in refusal(root)


@pytest.mark.parametrize(("unit", "ticks"), [("s", 1_500_000_000_000_000), ("ms", 2**62)])
def test_a_time_that_is_too_large_for_microseconds(root, unit, ticks):
    # Microseconds since 1970 under the name of seconds: a cast would wrap them around.
    time = pa.array([None, 1, 2, None, 3, 4, None, 5, ticks], pa.timestamp(unit))
    change(f"{root}/data/a.parquet", with_column("time", time))
    assert "data/a.parquet: row 8 (from 0) has a time" in refusal(root)


@pytest.mark.parametrize("split", ["train", "tuning"])
def test_an_empty_split(root, split):
    to_another = with_column(
        "split", lambda names: pc.replace_substring(names, split, "validation")
    )
    change(f"{root}/{SPLITS_FILE}", to_another)
    message = refusal(root)
    assert f"no subject in split {split!r}" in message
    assert "subject_splits.parquet" in message


def test_a_single_subject(write_meds):
    message = refusal(write_meds({"a.parquet": rows_of(ONE)}, {ONE: "train"}))
    assert "no subject in split 'tuning'" in message


@pytest.mark.parametrize("split", ["train", "tuning"])
def test_a_split_whose_subjects_have_one_measurement_each(write_meds, split):
    rows = rows_of(*TRAIN, *REST)
    of_split = [subject for subject, name in {**TRAIN, **REST}.items() if name == split]
    # Subjects of the split keep one value each, and not the same one: the code is not constant.
    dropped = {(subject, (-9, -5)[place % 2]) for place, subject in enumerate(of_split)}
    kept = [row for row in rows if row[:2] not in dropped]
    root = write_meds({"a.parquet": kept}, {**TRAIN, **REST})
    assert f"no subject of {split} has two measurements" in refusal(root)


def test_missing_table_of_splits(root):
    Path(root, SPLITS_FILE).unlink()
    assert f"{SPLITS_FILE} is missing" in refusal(root, FileNotFoundError)


def test_subject_in_two_splits(root):
    rows = {"subject_id": [ONE, TWO, ONE], "split": ["train", "tuning", "held_out"]}
    pq.write_table(pa.table(rows), Path(root, SPLITS_FILE))
    message = refusal(root)
    assert "rows 0 and 2 (from 0) put one subject in two splits ('train' and 'held_out')" in message


def test_subject_twice_in_one_split_is_harmless(root):
    change(f"{root}/{SPLITS_FILE}", lambda table: pa.concat_tables([table, table]))
    fitted, _ = accepted(root)
    assert fitted.report["splits"]["train"]["num_listed"] == 3


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
def test_unsound_table_of_splits(root, table, expected):
    pq.write_table(pa.table(table), Path(root, SPLITS_FILE))
    message = refusal(root)
    assert SPLITS_FILE in message
    assert expected in message


@pytest.mark.parametrize("place", ["data/a.parquet", SPLITS_FILE])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda whole: whole[: len(whole) // 2], id="cut short"),
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: b"subject_id,time,code,numeric_value\n", id="csv"),
    ],
)
def test_file_that_is_not_whole_parquet(root, place, damage):
    path = Path(root) / place
    path.write_bytes(damage(path.read_bytes()))
    assert f"{place} cannot be read as parquet" in refusal(root)


def test_file_with_damaged_pages(write_meds):
    # Footer and schema are sound, so the damage shows only when rows are decoded.
    root = write_meds(*whole({"a.parquet": SOUND}, TRAIN), compression="zstd")
    path = Path(root) / "data" / "a.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[4:200] = bytes(196)
    path.write_bytes(damaged)
    assert "data/a.parquet cannot be read as parquet" in refusal(root)


@pytest.mark.parametrize("gone", ["gone", "fewer row groups", "other columns"])
def test_file_that_changed_after_the_data_set_was_listed(write_meds, gone):
    root = write_meds(*whole({"a.parquet": SOUND}, TRAIN), row_group_size=2)
    dataset = open_dataset(root)
    (unit,) = plan_units(dataset, 10**6)
    path = Path(root) / "data" / "a.parquet"
    if gone == "gone":
        path.unlink()
    elif gone == "fewer row groups":
        change(path, lambda table: table)
    else:
        change(path, lambda table: table.drop_columns(["code"]), row_group_size=2)
    with pytest.raises(ValueError, match=r"data/a\.parquet (is gone|has changed|has no column)"):
        scan_subjects(root, unit)
    with pytest.raises(ValueError, match=r"data/a\.parquet (is gone|has changed|has no column)"):
        read_unit(dataset, unit, lambda codes: np.zeros(len(codes), np.int32), "train")


def test_data_folder_without_parquet_files(write_meds):
    root = write_meds({}, TRAIN)
    (Path(root) / "data" / "notes.txt").write_text("nothing here")
    assert "has no .parquet file below data/" in refusal(root)


def test_shards_without_rows(write_meds):
    assert "has no rows" in refusal(write_meds({"a.parquet": [], "b.parquet": []}, TRAIN))


def test_root_that_does_not_exist(tmp_path):
    message = refusal(str(tmp_path / "nowhere"), FileNotFoundError)
    assert "data.root=" in message
    assert "nowhere" in message


def test_empty_root():
    with pytest.raises(ValueError, match=r"data\.root is empty"):
        open_dataset("")


def test_root_that_is_not_the_folder_of_a_data_set(root):
    message = refusal(str(Path(root) / "data"), FileNotFoundError)
    assert "holds no folder data/" in message


def test_root_that_is_a_file(root):
    assert "is no folder" in refusal(f"{root}/data/a.parquet", FileNotFoundError)


def test_a_folder_named_like_a_shard_is_not_one(write_meds):
    root = write_meds({"x.parquet/0.parquet": SOUND}, TRAIN)
    assert [shard.path for shard in open_dataset(root).shards] == ["data/x.parquet/0.parquet"]


def test_hidden_files_are_not_shards(root):
    # Copies from other systems leave such files, and writers their unfinished ones.
    for name in ("._0.parquet", "_0.parquet", ".0.parquet"):
        Path(root, "data", name).write_text("no parquet")
    assert [shard.path for shard in open_dataset(root).shards] == [
        "data/a.parquet",
        "data/z.parquet",
    ]
    accepted(root)


def test_a_data_set_without_any_value(root):
    for name in ("a", "z"):
        change(
            f"{root}/data/{name}.parquet",
            with_column(
                "numeric_value", pa.nulls(9, pa.float32()).slice(0, 9 if name == "a" else 6)
            ),
        )
    assert "on train has a value: write what was measured into" in refusal(root)


def test_only_constant_codes(write_meds):
    rows = [(subject, time, code, VALUE) for subject, time, code, _ in rows_of(*TRAIN, *REST)]
    message = refusal(write_meds({"a.parquet": rows}, {**TRAIN, **REST}))
    assert "all values on train are equal once clipped" in message


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"code_pattern": "^NONE"}, "matches no code"),
        ({"code_pattern": "("}, "is not a regular expression"),
        ({"min_count": 99}, "6 values on train (data.min_count=99)"),
    ],
)
def test_settings_that_leave_no_code(root, settings, expected):
    assert expected in refusal(root, **settings)


def test_codes_file_that_does_not_exist(root, tmp_path):
    message = refusal(root, FileNotFoundError, codes_file=str(tmp_path / "codes.txt"))
    assert "codes.txt does not exist" in message
