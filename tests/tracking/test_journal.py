"""A run's journal: in its folder, once and in order, whatever becomes of the process."""

import json

import pyarrow.parquet as pq
import pytest

from cvmae.config import override
from cvmae.storage.folders import local_copy
from cvmae.tracking import store as tracking
from tests.tracking.runs import draw_line


def read_points(path):
    table = pq.read_table(path)
    assert str(table.schema.field("time").type) == "timestamp[ms, tz=UTC]"
    return [(row["step"], row["name"], row["value"]) for row in table.to_pylist()]


def read_about(folder):
    return json.loads((folder / "tracking.json").read_text())


def test_metrics_are_a_long_table(in_process):
    tracker = tracking.open_tracker(in_process, run_name="alone")
    tracker.log_metrics({"loss": 2.0, "tuning_mse": 1.0}, step=0)
    tracker.log_metrics({"loss": 1.5}, step=10)
    points = [(0, "loss", 2.0), (0, "tuning_mse", 1.0), (10, "loss", 1.5)]
    assert read_points(tracker.location) == points


def test_the_first_value_of_a_step_stays_also_in_a_resumed_run(in_process):
    tracking.open_tracker(in_process, run_name="alone").log_metrics({"loss": 2.0}, step=5)
    resumed = tracking.open_tracker(in_process, run_name="alone")
    resumed.log_metrics({"loss": 99.0}, step=5)
    resumed.log_metrics({"loss": 1.0}, step=6)
    assert read_points(resumed.location) == [(5, "loss", 2.0), (6, "loss", 1.0)]


def test_the_driver_and_the_worker_write_in_turn(in_process):
    driver = tracking.open_tracker(in_process, run_name="alone")
    driver.log_metrics({"loss": 2.0}, step=1)
    worker = tracking.join_tracker(in_process, run_name="alone", key=driver.key, parent_run_id="")
    worker.log_metrics({"loss": 1.0}, step=2)
    driver.log_metrics({"loss": 99.0, "other": 0.0}, step=2)
    points = [(1, "loss", 2.0), (2, "loss", 1.0), (2, "other", 0.0)]
    assert read_points(driver.location) == points


def test_a_worker_that_does_not_see_the_journal_yet_writes_to_the_same_run(in_process, tmp_path):
    worker = tracking.join_tracker(in_process, run_name="alone", key="abc", parent_run_id="")
    worker.log_metrics({"loss": 1.0}, step=1)
    assert worker.key == "abc"
    assert not (tmp_path / "run/tracking.json").exists()


def test_parameters_status_and_files_are_json(in_process, tmp_path, drawn):
    tracker = tracking.open_tracker(in_process, run_name="alone", parent_run_id="sweep")
    tracker.log_params({"model.width": 32})
    tracker.log_params({"model.width": 64, "seed": 1})
    tracker.log_figure(draw_line(), "curve")
    tracker.close("FINISHED")
    about = read_about(tmp_path / "run")
    assert about["params"] == {"model.width": "32", "seed": "1"}
    assert (about["run_name"], about["parent_run_id"]) == ("alone", "sweep")
    assert about["status"] == "FINISHED"
    assert about["begun_ms"] <= about["ended_ms"]
    assert about["artifacts"] == {"figures/curve.png": "figures"}
    assert (tmp_path / "run/figures/curve.png").stat().st_size > 0


def test_a_table_is_written_as_mlflow_reads_one(in_process, tmp_path):
    tracker = tracking.open_tracker(in_process, run_name="alone")
    tracker.log_table({"code": ["a", "b"], "r2": [0.123456, float("nan")]}, "codes")
    table = json.loads((tmp_path / "run/tables/codes.json").read_text())
    assert table == {"columns": ["code", "r2"], "data": [["a", 0.1235], ["b", None]]}


def test_an_artifact_that_does_not_exist_is_refused(in_process):
    tracker = tracking.open_tracker(in_process, run_name="alone")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png cannot be kept"):
        tracker.log_artifact("nowhere.png")


def test_metrics_of_an_earlier_version_are_gone_on_with(in_process, tmp_path):
    tracker = tracking.open_tracker(in_process, run_name="alone")
    tracker.log_metrics({"loss": 2.0}, step=1)
    pq.write_table(pq.read_table(tracker.location).drop_columns(["time"]), tracker.location)
    tracker.log_metrics({"loss": 1.0}, step=2)
    assert read_points(tracker.location) == [(1, "loss", 2.0), (2, "loss", 1.0)]


def test_a_run_of_a_version_without_a_journal_keeps_its_name_and_loses_its_queue(
    in_process, tmp_path
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/tracking_key.txt").write_text("abc")
    (tmp_path / "run/tracking_pending.jsonl").write_text("{}\n")
    assert tracking.open_tracker(in_process, run_name="alone").key == "abc"
    assert read_about(tmp_path / "run")["key"] == "abc"
    assert not (tmp_path / "run/tracking_pending.jsonl").exists()


def test_a_run_whose_process_is_gone_is_closed_and_one_that_ended_stays(in_process, tmp_path):
    tracking.close_run(in_process, "KILLED")  # no run yet: nothing to close
    assert not (tmp_path / "run").exists()
    tracking.open_tracker(in_process, run_name="alone")
    tracking.close_run(in_process, "KILLED")
    ended = read_about(tmp_path / "run")
    assert ended["status"] == "KILLED"
    tracking.close_run(in_process, "FINISHED")
    assert read_about(tmp_path / "run") == ended


def test_a_journal_lies_on_object_storage_as_elsewhere(in_process):
    config = override(in_process, {"output_dir": "memory://bucket/run"})
    tracker = tracking.open_tracker(config, run_name="alone")
    tracker.log_metrics({"loss": 2.0}, step=1)
    tracker.log_table({"code": ["a"]}, "codes")
    again = tracking.open_tracker(config, run_name="alone")
    again.log_metrics({"loss": 99.0}, step=1)
    again.log_metrics({"loss": 1.0}, step=2)
    assert again.key == tracker.key
    with local_copy(again.location) as path:
        assert read_points(path) == [(1, "loss", 2.0), (2, "loss", 1.0)]
