"""Copies of a hospital: the same rows in other files, whole subjects, nothing half written."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.hospitals import labs_only, multiply, regroup, reshard, synthetic_hospital
from cvmae.meds.dataset import open_dataset
from cvmae.meds.splits import load_splits


def tables(root):
    return [pq.read_table(f"{root}/{shard.path}") for shard in open_dataset(root).shards]


def sorted_rows(root):
    columns = ["subject_id", "time", "code", "numeric_value"]
    return pa.concat_tables(tables(root)).sort_by([(name, "ascending") for name in columns])


@pytest.mark.parametrize("num_shards", [12, 40])
def test_resharding_keeps_every_row_and_every_subject_in_one_file(
    small_hospital, tmp_path, num_shards
):
    copy = reshard(small_hospital, tmp_path / "copy", num_shards)
    assert abs(len(tables(copy)) - num_shards) <= 2
    assert sorted_rows(copy) == sorted_rows(small_hospital)
    subjects = [set(table["subject_id"].to_pylist()) for table in tables(copy)]
    assert sum(map(len, subjects)) == len(set().union(*subjects))


def test_regrouping_keeps_the_files_and_changes_their_row_groups(small_hospital, tmp_path):
    copy = regroup(small_hospital, tmp_path / "copy", 500)
    assert tables(copy) == tables(small_hospital)
    sizes = [group.num_rows for shard in open_dataset(copy).shards for group in shard.row_groups]
    assert max(sizes) == 500


def test_multiplying_gives_every_copy_subjects_of_its_own_in_the_same_splits(
    small_hospital, tmp_path
):
    copy = multiply(small_hospital, tmp_path / "copy", 3)
    assert sorted_rows(copy).num_rows == 3 * sorted_rows(small_hospital).num_rows
    members, before = load_splits(copy), load_splits(small_hospital)
    for split, member_S in before.items():
        assert len(members[split]) == 3 * len(member_S)
    in_files = [set(table["subject_id"].to_pylist()) for table in tables(copy)]
    assert sum(map(len, in_files)) == len(
        set().union(*in_files) & set(np.concatenate([*members.values()]).tolist())
    )
    groups = [len(shard.row_groups) for shard in open_dataset(copy).shards]
    assert sum(groups) == 3 * sum(len(s.row_groups) for s in open_dataset(small_hospital).shards)


def test_labs_only_keeps_measurements_of_the_codes_and_nothing_else(small_hospital, tmp_path):
    rows = sorted_rows(small_hospital)
    code = next(code for code in rows["code"].to_pylist() if code.startswith("LAB//5"))
    copy = labs_only(small_hospital, tmp_path / "copy", (code,))
    wanted = rows.filter((pc.field("code") == code) & pc.field("numeric_value").is_valid())
    assert sorted_rows(copy) == wanted
    assert 0 < wanted.num_rows < rows.filter(pc.field("code") == code).num_rows


def test_what_is_there_is_taken_and_what_is_half_written_is_not(tmp_path, monkeypatch):
    root = Path(synthetic_hospital(tmp_path, 10_000))
    written = (root / "metadata" / "subject_splits.parquet").stat().st_mtime_ns
    monkeypatch.setattr("benchmarks.hospitals.write_hospital", fail)
    assert synthetic_hospital(tmp_path, 10_000) == str(root)
    assert (root / "metadata" / "subject_splits.parquet").stat().st_mtime_ns == written
    with pytest.raises(RuntimeError, match="disk full"):
        synthetic_hospital(tmp_path, 20_000)
    monkeypatch.undo()
    assert open_dataset(synthetic_hospital(tmp_path, 20_000)).num_subjects["train"] > 0


def fail(config):
    (Path(config.root) / "data").mkdir(parents=True)
    raise RuntimeError("disk full")
