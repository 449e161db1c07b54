from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cvmae.meds.labels import read_labels, read_tasks
from cvmae.meds.refused import RefusedDataError

SCHEMA = {
    "subject_id": pa.int64(),
    "prediction_time": pa.timestamp("us"),
    "boolean_value": pa.bool_(),
    "integer_value": pa.int64(),
    "float_value": pa.float32(),
    "categorical_value": pa.string(),
}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes rows (subject, time in microseconds, value) to a file."""

    def write(path, rows, column="boolean_value", *, types=None, aces=False):
        types = SCHEMA | (types or {})
        subjects, times, values = zip(*rows, strict=True) if rows else ([], [], [])
        columns = {
            "subject_id": pa.array(subjects, types["subject_id"]),
            "prediction_time": pa.array(times, types["prediction_time"]),
            column: pa.array(values).cast(types[column]),
        }
        if aces:  # writes every column, whatever the label is
            columns = {n: columns.get(n, pa.nulls(len(rows), t)) for n, t in SCHEMA.items()}
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), target)
        return str(target)

    return write


def test_files_at_any_depth_are_one_set_ascending_by_subject_and_time(write, tmp_path):
    write("dies/train/0.parquet", [(9, 5, True), (2, 7, False)], aces=True)
    write("dies/b.parquet", [(2, 3, True), (-4, 8, False)])
    write("dies/train/.old/0.parquet", [(1, 1, True)])
    write("dies/empty/0.parquet", [], aces=True)
    labels = read_labels(str(tmp_path / "dies"))
    assert (labels.name, labels.kind, labels.num_labels) == ("dies", "boolean", 4)
    assert labels.subject_id_L.tolist() == [-4, 2, 2, 9]
    assert labels.time_us_L.tolist() == [8, 3, 7, 5]
    assert labels.value_L.tolist() == [0, 1, 0, 1]


def test_labels_show_no_subject_and_no_value(write):
    path = write("stay.parquet", [(123456, 5, 98765)], "integer_value")
    assert repr(read_labels(path)) == "Labels(name='stay', kind='number')"


@pytest.mark.parametrize("column", ["integer_value", "float_value"])
def test_numbers_are_labels_too(write, column):
    path = write("stay.parquet", [(1, 5, 3), (2, 6, 10)], column, aces=True)
    labels = read_labels(path)
    assert (labels.name, labels.kind, labels.value_L.tolist()) == ("stay", "number", [3, 10])


def test_nanoseconds_are_rounded_down_and_seconds_kept(write):
    types = {"prediction_time": pa.timestamp("ns")}
    path = write("ns.parquet", [(1, 5_999, True), (2, -1, True)], types=types)
    assert read_labels(path).time_us_L.tolist() == [5, -1]
    path = write("s.parquet", [(1, 5, True)], types={"prediction_time": pa.timestamp("s")})
    assert read_labels(path).time_us_L.tolist() == [5_000_000]


@pytest.mark.parametrize("ticks", [-(2**63) // 1000, 2**63 // 1000 + 1])
def test_a_time_that_microseconds_do_not_hold_is_refused(write, ticks):
    path = write("ms.parquet", [(1, ticks, True)], types={"prediction_time": pa.timestamp("ms")})
    with pytest.raises(RefusedDataError, match="outside of what microseconds since 1970 hold"):
        read_labels(path)


def test_a_folder_of_folders_is_a_task_each_and_folders_named_like_splits_are_one(write, tmp_path):
    for name in ("b", "a"):
        for split in ("train", "held_out"):
            write(f"labels/{name}/{split}/0.parquet", [(1, 5 + len(split), True)])
    write("labels/c/0.parquet", [(1, 5, False)])
    (tmp_path / "labels" / "_notes").mkdir()
    tasks = read_tasks(str(tmp_path / "labels"))
    assert [(task.name, task.num_labels) for task in tasks] == [("a", 2), ("b", 2), ("c", 1)]
    for single in ("labels/a", "labels/c", "labels/c/0.parquet"):
        assert len(read_tasks(str(tmp_path / single))) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": ([(1, 5, "sepsis")], "categorical_value")}, r"a\.parquet has labels in column 'cat"),
        ({"a": ([(1, 5, None)],)}, "has no label: 1 row in 1 file,"),
        ({"a": ([],)}, "has no label: 0 rows"),
        ({"a": ([(1, 5, True), (2, 5, None)],)}, r"row 1 \(from 0\) has no boolean_value"),
        ({"a": ([(1, None, True)],)}, r"row 0 \(from 0\) has no prediction_time"),
        ({"a": ([(1, 5, float("nan"))], "float_value")}, "no finite number"),
        ({"a": ([(1, 5, 1)], "integer_value"), "b": ([(1, 5, True)],)}, "in several columns"),
        ({"a": ([(1, 5, True), (3, 5, True), (1, 5, True)],)}, r"has 1 label .*\(0 with another"),
        ({"a": ([(1, 5, True)],), "b": ([(1, 5, False)],)}, r"has 1 label .*\(1 with another"),
    ],
)
def test_what_is_no_sound_label_set_is_refused(write, tmp_path, files, message):
    for name, arguments in files.items():
        write(f"task/{name}.parquet", *arguments)
    with pytest.raises(RefusedDataError, match=message):
        read_labels(str(tmp_path / "task"))


def test_what_is_refused_names_the_folder_too(write, tmp_path):
    for task, value in (("dies", True), ("returns", None)):
        write(f"{task}/0.parquet", [(1, 5, True), (2, 5, value)])
    write("twice/0.parquet", [(1, 5, True), (1, 5, True)])
    for task, where in (("returns", "returns/0.parquet: row 1"), ("twice", "label set {}/twice")):
        with pytest.raises(RefusedDataError) as refused:
            read_tasks(str(tmp_path / task))
        assert (where if "{" in where else f"{{}}/{where}").format(tmp_path) in str(refused.value)


@pytest.mark.parametrize(
    "types",
    [
        {"prediction_time": pa.timestamp("us", "UTC")},
        {"prediction_time": pa.date64()},
        {"subject_id": pa.float64()},
        {"boolean_value": pa.int8()},
    ],
)
def test_columns_of_other_types_are_refused(write, types):
    path = write("a.parquet", [(1, 86_400_000, 1)], types=types)
    name = next(iter(types))
    with pytest.raises(RefusedDataError, match=rf"a\.parquet has a column '{name}' of type"):
        read_labels(path)


def test_a_column_that_is_missing_is_refused(tmp_path):
    pq.write_table(pa.table({"subject_id": [1], "boolean_value": [True]}), tmp_path / "a.parquet")
    with pytest.raises(RefusedDataError, match="no column 'prediction_time'"):
        read_labels(str(tmp_path / "a.parquet"))


def test_a_folder_without_labels_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    for root in (tmp_path, tmp_path / "nowhere"):
        for read in (read_labels, read_tasks):
            with pytest.raises(FileNotFoundError, match="holds no label set"):
                read(str(root))


@pytest.mark.real
def test_the_label_sets_of_real_data_are_read_as_they_are(real_data: Path):
    tasks = {
        labels.name: labels for labels in read_tasks(str(real_data / "mimic4_demo_full/labels"))
    }
    found = {name: (task.num_labels, int(task.value_L.sum())) for name, task in tasks.items()}
    assert found == {
        "in_hospital_mortality_24h": (245, 14),
        "in_hospital_mortality_48h": (220, 13),
        "in_icu_mortality_24h": (117, 10),
        "in_icu_mortality_48h": (74, 9),
        "readmission_30d": (260, 53),
    }
    for task in tasks.values():
        assert (np.diff(task.subject_id_L) >= 0).all()


def test_a_file_without_labels_and_a_folder_that_is_not_there_are_told_apart(tmp_path):
    times = pa.array([5], pa.timestamp("us"))
    pq.write_table(pa.table({"subject_id": [1], "prediction_time": times}), tmp_path / "a.parquet")
    message = "no column of labels: it has subject_id, prediction_time; name it boolean_value"
    with pytest.raises(RefusedDataError, match=message):
        read_labels(str(tmp_path / "a.parquet"))
    (tmp_path / "empty").mkdir()
    for name, why in (("nowhere", "there is no such file or folder"), ("empty", "it is empty")):
        with pytest.raises(FileNotFoundError, match=why):
            read_labels(str(tmp_path / name))
