"""MLflow shows a run as its journal has it, from whatever it has of it already."""

import json
import shutil
import time

import pytest

from cvmae.config import flatten, override
from cvmae.tracking import mlflow_mirror, mlflow_page
from cvmae.tracking import store as tracking
from cvmae.tracking.params import told_params
from tests.tracking.runs import (
    assert_all_is_there,
    draw_line,
    read_files,
    read_points,
    read_run,
    write_trials_at_once,
)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(mlflow_mirror, "PATIENCE_S", 0.0)
    monkeypatch.setattr(mlflow_mirror, "FIRST_WAIT_S", 0.0)


def test_a_child_points_to_its_parent_and_holds_everything_logged(on_mlflow, store, tmp_path):
    parent = tracking.open_tracker(on_mlflow, run_name="sweep")
    child = override(on_mlflow, {"output_dir": str(tmp_path / "child")})
    tracker = tracking.open_tracker(child, run_name="child", parent_run_id=parent.run_id)
    tracker.log_params(flatten(on_mlflow) | {f"extra_{i}": i for i in range(100)})
    tracker.log_metrics({"loss": 2.0}, step=1)
    tracker.log_figure(draw_line(), "curve")
    tracker.close("FINISHED")
    run = read_run(store, tracker.mlflow_id)
    assert run.data.tags["mlflow.parentRunId"] == parent.mlflow_id
    assert run.data.params["mask.policy"] == "cv"
    assert run.data.params["extra_99"] == "99"  # beyond MLflow's 100 a call
    assert read_points(store, tracker.mlflow_id) == [(1, 2.0)]
    assert run.info.status == "FINISHED"
    assert read_files(store, tracker.mlflow_id, "figures") == ["figures/curve.png"]


def test_worker_and_resumed_run_continue_the_same_run_without_duplicates(on_mlflow, store):
    driver = tracking.open_tracker(on_mlflow, run_name="run")
    worker = tracking.join_tracker(on_mlflow, run_name="run", key=driver.key, parent_run_id="")
    worker.log_metrics({"loss": 2.0}, step=5)
    worker.leave()
    assert worker.mlflow_id == driver.mlflow_id
    driver.log_params({"a": 1})
    driver.close("FAILED")
    resumed = tracking.open_tracker(on_mlflow, run_name="run")
    assert resumed.mlflow_id == driver.mlflow_id
    assert read_run(store, resumed.mlflow_id).info.status == "RUNNING"
    resumed.log_params({"a": 2, "b": 3})
    resumed.log_metrics({"loss": 99.0, "new": 7.0}, step=5)
    resumed.log_metrics({"loss": 1.0}, step=6)
    assert read_points(store, resumed.mlflow_id) == [(5, 2.0), (6, 1.0)]
    assert read_points(store, resumed.mlflow_id, "new") == [(5, 7.0)]
    assert read_run(store, resumed.mlflow_id).data.params == {"a": "1", "b": "3"}


def test_a_new_folder_is_a_new_run(on_mlflow, tmp_path):
    first = tracking.open_tracker(on_mlflow, run_name="run")
    elsewhere = override(on_mlflow, {"output_dir": str(tmp_path / "other")})
    assert tracking.open_tracker(elsewhere, run_name="run").mlflow_id != first.mlflow_id


@pytest.mark.slow  # three processes import MLflow
def test_trials_that_write_to_one_database_at_once_lose_nothing(on_mlflow):
    parent = tracking.open_tracker(on_mlflow, run_name="sweep")
    write_trials_at_once(on_mlflow, parent.run_id)
    assert_all_is_there(on_mlflow, parent.mlflow_id)


def test_a_dead_server_is_asked_seldom_and_complained_of_once(
    on_mlflow, dead_server, monkeypatch, caplog
):
    monkeypatch.setattr(mlflow_mirror, "PATIENCE_S", 0.0)
    monkeypatch.setattr(mlflow_mirror, "FIRST_WAIT_S", 60.0)
    connections = []
    make_client = mlflow_mirror.MlflowClient

    def count_client(**kwargs):
        connections.append(kwargs)
        return make_client(**kwargs)

    monkeypatch.setattr(mlflow_mirror, "MlflowClient", count_client)
    with_password = dead_server.replace("//", "//me:secret@")
    config = override(on_mlflow, {"tracking.uri": with_password})
    start = time.monotonic()
    tracker = tracking.open_tracker(config, run_name="run")
    assert tracker.mlflow_id == ""
    num_connections = len(connections)
    for step in range(20):
        tracker.log_metrics({"loss": 1.0}, step=step)
    assert len(connections) == num_connections
    tracker.close("FAILED")
    assert len(connections) > num_connections
    # Two attempts with one retry each; MLflow's own defaults take minutes.
    assert time.monotonic() - start < 15
    assert caplog.text.count("does not answer") == 1
    assert f"MLflow at {dead_server} lacks something of this run" in caplog.text
    assert "secret" not in caplog.text


def test_a_server_that_was_down_for_a_whole_sweep_gets_all_of_it_from_the_folders(
    on_mlflow, dead_server, store, tmp_path, impatient
):
    down = override(on_mlflow, {"tracking.uri": dead_server})
    child = override(down, {"output_dir": str(tmp_path / "child")})
    parent = tracking.open_tracker(down, run_name="sweep")
    tracker = tracking.open_tracker(child, run_name="child", parent_run_id=parent.run_id)
    tracker.log_params({"a": 1})
    for step in range(3):
        tracker.log_metrics({"loss": float(step)}, step=step)
    tracker.log_figure(draw_line(), "curve")
    tracker.close("FINISHED")
    back = tracking.open_tracker(on_mlflow, run_name="sweep")
    child = override(child, {"tracking.uri": store})
    tracking.close_run(child, "KILLED")
    tracker = tracking.open_tracker(child, run_name="child")
    run = read_run(store, tracker.mlflow_id)
    assert run.data.tags["mlflow.parentRunId"] == back.mlflow_id
    assert read_points(store, tracker.mlflow_id) == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert run.data.params == {"a": "1"}
    assert read_files(store, tracker.mlflow_id, "figures") == ["figures/curve.png"]


def test_a_finished_trial_stays_below_its_sweep_in_another_store(
    on_mlflow, store, tmp_path, migrated
):
    shutil.copy(migrated, tmp_path / "other.db")
    other = f"sqlite:///{tmp_path}/other.db"
    child = override(on_mlflow, {"output_dir": str(tmp_path / "child")})
    parent = tracking.open_tracker(on_mlflow, run_name="sweep")
    trial = tracking.open_tracker(child, run_name="child", parent_run_id=parent.run_id)
    trial.close("FINISHED")
    there = tracking.open_tracker(override(on_mlflow, {"tracking.uri": other}), run_name="sweep")
    child = override(child, {"tracking.uri": other})
    tracking.close_run(child, "FAILED")
    moved = tracking.open_tracker(child, run_name="child")
    tags = read_run(other, moved.mlflow_id).data.tags
    assert tags["mlflow.parentRunId"] == there.mlflow_id


def test_a_run_resumed_elsewhere_brings_its_history_to_another_store(
    on_mlflow, dead_server, store, tmp_path, impatient
):
    config = override(on_mlflow, {"tracking.uri": dead_server})
    tracker = tracking.open_tracker(config, run_name="run")
    tracker.log_metrics({"loss": 2.0}, step=1)
    tracker.log_figure(draw_line(), "curve")
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = override(on_mlflow, {"output_dir": str(tmp_path / "moved")})
    again = tracking.open_tracker(moved, run_name="run")
    again.log_metrics({"loss": 99.0}, step=1)
    again.log_metrics({"loss": 1.0}, step=2)
    assert read_points(store, again.mlflow_id) == [(1, 2.0), (2, 1.0)]
    assert read_files(store, again.mlflow_id, "figures") == ["figures/curve.png"]
    assert read_run(store, again.mlflow_id).data.tags["cvmae.output_dir"] == str(tmp_path / "moved")


def test_a_store_that_returns_gets_everything_once_even_after_a_lost_reply(
    on_mlflow, store, monkeypatch, impatient
):
    client = mlflow_mirror.MlflowClient
    log_batch = client.log_batch

    def fail(self, *args, **kwargs):
        raise ConnectionError("down")

    def log_and_lose_the_reply(self, *args, **kwargs):
        log_batch(self, *args, **kwargs)
        raise ConnectionError("reply lost")

    tracker = tracking.open_tracker(on_mlflow, run_name="run")
    monkeypatch.setattr(client, "log_batch", fail)
    tracker.log_metrics({"loss": 3.0}, step=1)
    monkeypatch.setattr(client, "log_batch", log_and_lose_the_reply)
    tracker.log_metrics({"loss": 2.0}, step=2)
    monkeypatch.setattr(client, "log_batch", log_batch)
    tracker.log_metrics({"loss": 1.0}, step=3)
    tracker.close("FINISHED")
    assert read_points(store, tracker.mlflow_id) == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert read_run(store, tracker.mlflow_id).info.status == "FINISHED"


def test_what_the_store_refuses_does_not_keep_it_from_the_rest(on_mlflow, store, caplog):
    tracker = tracking.open_tracker(on_mlflow, run_name="run")
    for step in range(3):
        tracker.log_metrics({"a name with : and ?": 1.0, "loss": 1.0, "other": 2.0}, step=step)
    assert len(read_points(store, tracker.mlflow_id)) == 3
    assert len(read_points(store, tracker.mlflow_id, "other")) == 3
    assert caplog.text.count("refused a name with : and ?") == 1


def test_a_figure_that_is_drawn_again_takes_the_place_of_the_former(on_mlflow, store, tmp_path):
    from mlflow import MlflowClient

    tracker = tracking.open_tracker(on_mlflow, run_name="run")
    tracker.log_figure(draw_line(), "curve")
    tracker.log_figure(draw_line(-3), "curve")
    ours = tmp_path / "run/figures/curve.png"
    (kept,) = MlflowClient(store).list_artifacts(tracker.mlflow_id, "figures")
    assert kept.file_size == ours.stat().st_size


def test_a_figure_of_the_same_size_drawn_while_the_store_was_down_is_sent(
    on_mlflow, store, tmp_path, monkeypatch, impatient
):
    from mlflow.artifacts import load_text

    def fail(self, *args, **kwargs):
        raise ConnectionError("down")

    tracker = tracking.open_tracker(on_mlflow, run_name="run")
    tracker.log_table({"code": ["a"]}, "codes")
    with monkeypatch.context() as down:
        down.setattr(mlflow_mirror.MlflowClient, "log_batch", fail)
        tracker.log_metrics({"loss": 1.0}, step=1)
        tracker.log_table({"code": ["b"]}, "codes")
    tracker.close("FINISHED")
    place = read_run(store, tracker.mlflow_id).info.artifact_uri
    assert load_text(f"{place}/tables/codes.json") == '{"columns": ["code"], "data": [["b"]]}'


def test_runs_are_closed_fast_where_the_store_has_just_failed_or_the_run_was_killed(
    on_mlflow, dead_server, monkeypatch
):
    monkeypatch.setattr(mlflow_mirror, "PAUSE_S", 60.0)
    monkeypatch.setattr(mlflow_mirror, "PATIENCE_S", 600.0)
    down = override(on_mlflow, {"tracking.uri": dead_server})
    assert tracking.close_run(down, "KILLED")  # no run, so nothing is lacking
    tracking.open_tracker(down, run_name="run")
    monkeypatch.setattr(mlflow_mirror, "JUST_S", 0.0)
    start = time.monotonic()
    assert not tracking.close_run(down, "KILLED")
    monkeypatch.setattr(mlflow_mirror, "JUST_S", 60.0)
    assert not tracking.close_run(down, "FAILED")
    assert time.monotonic() - start < 30
    assert tracking.close_run(on_mlflow, "FAILED")


def test_files_that_no_store_takes_keep_nothing_else_back(on_mlflow, store, monkeypatch, caplog):
    monkeypatch.setattr(mlflow_mirror, "PATIENCE_S", 0.0)

    def fail(self, *args, **kwargs):
        raise ConnectionError("no credentials for s3://bucket")

    monkeypatch.setattr(mlflow_mirror.MlflowClient, "log_artifact", fail)
    tracker = tracking.open_tracker(on_mlflow, run_name="run")
    tracker.log_figure(draw_line(), "curve")
    tracker.log_metrics({"loss": 1.0}, step=1)
    tracker.close("FINISHED")
    assert read_points(store, tracker.mlflow_id) == [(1, 1.0)]
    assert read_run(store, tracker.mlflow_id).info.status == "FINISHED"
    assert "takes no files (no credentials for s3://bucket)" in caplog.text
    assert "lacks something of this run" in caplog.text


def test_tables_are_marked_as_such_for_the_page(on_mlflow, store):
    tracker = tracking.open_tracker(on_mlflow, run_name="run")
    tracker.log_table({"code": ["a"]}, "first")
    tracker.log_table({"code": ["b"]}, "second")
    told = json.loads(read_run(store, tracker.mlflow_id).data.tags["mlflow.loggedArtifacts"])
    assert told == [{"path": f"tables/{n}.json", "type": "table"} for n in ("first", "second")]


def test_a_run_that_has_grown_is_called_and_described_anew_and_keeps_first_values_as_params(
    on_mlflow, store
):
    for number in (3, 5):
        name = f"cv x {number} seeds"
        tracker = tracking.open_tracker(on_mlflow, run_name=name, description=f"A sweep: {name}")
        tracker.log_params({"sweep.seeds": number})
        tracker.close("FINISHED")
    run = read_run(store, tracker.mlflow_id)
    assert run.info.run_name == "cv x 5 seeds"
    assert run.data.tags["mlflow.note.content"] == "A sweep: cv x 5 seeds"
    assert (run.data.params["sweep.seeds"], run.data.tags["sweep.seeds"]) == ("3", "5")


def test_a_name_that_a_person_gave_stays_when_a_run_grows(on_mlflow, store):
    from mlflow import MlflowClient

    tracker = tracking.open_tracker(on_mlflow, run_name="3 seeds")
    MlflowClient(store).update_run(tracker.mlflow_id, name="theirs")
    tracker = tracking.open_tracker(on_mlflow, run_name="5 seeds")
    assert read_run(store, tracker.mlflow_id).info.run_name == "theirs"


def test_what_a_person_wrote_on_the_page_stays(on_mlflow, store):
    from mlflow import MlflowClient

    tracker = tracking.open_tracker(on_mlflow, run_name="run", description="ours")
    assert read_run(store, tracker.mlflow_id).data.tags["mlflow.note.content"] == "ours"
    MlflowClient(store).set_tag(tracker.mlflow_id, "mlflow.note.content", "theirs")
    tracking.open_tracker(on_mlflow, run_name="run", description="ours").close("FINISHED")
    assert read_run(store, tracker.mlflow_id).data.tags["mlflow.note.content"] == "theirs"


def test_a_child_has_from_its_parent_what_ray_keeps_from_it(
    on_mlflow, store, tmp_path, monkeypatch
):
    monkeypatch.setattr("sys.argv", ["jobs/sweep.py", "--tracking.uri", "http://me:secret@host"])
    parent = tracking.open_tracker(on_mlflow, run_name="sweep")
    monkeypatch.setattr("sys.argv", ["/site-packages/ray/_private/workers/default_worker.py"])
    child = override(on_mlflow, {"output_dir": str(tmp_path / "child")})
    tracker = tracking.open_tracker(child, run_name="child", parent_run_id=parent.run_id)
    tags = read_run(store, tracker.mlflow_id).data.tags
    assert tags["cvmae.command"] == "python jobs/sweep.py --tracking.uri http://host"
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("sweep.py", "LOCAL")


def test_a_resumed_run_keeps_the_command_that_began_it_and_a_trial_has_that_which_began_the_trial(
    on_mlflow, store, tmp_path, monkeypatch
):
    for number in (1, 2):
        monkeypatch.setattr("sys.argv", ["jobs/sweep.py", str(number)])
        parent = tracking.open_tracker(on_mlflow, run_name="sweep")
    monkeypatch.setattr("sys.argv", ["/site-packages/ray/_private/workers/default_worker.py"])
    child = override(on_mlflow, {"output_dir": str(tmp_path / "child")})
    for _ in range(2):
        tracker = tracking.open_tracker(child, run_name="child", parent_run_id=parent.run_id)
    tags = read_run(store, parent.mlflow_id).data.tags
    assert tags["cvmae.command"] == "python jobs/sweep.py 1"
    assert tags["cvmae.resumed.command"] == "python jobs/sweep.py 2"
    assert "cvmae.resumed.versions" not in tags  # the same
    assert read_run(store, tracker.mlflow_id).data.tags["cvmae.command"] == "python jobs/sweep.py 2"


def test_the_page_opens_with_the_mean_error_of_each_group_of_trials(on_mlflow, store):
    from mlflow import MlflowClient

    tracker = tracking.open_tracker(on_mlflow, run_name="run")
    experiment = MlflowClient(store).get_experiment_by_name("cvmae")
    view = json.loads(experiment.tags["mlflow.sharedViewState.cvmae"])
    assert view["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "cvmae.group"}]
    assert view["searchFilter"] == "attributes.status = 'FINISHED'"
    assert [chart["metricKey"] for chart in view["compareRunCharts"]] == ["tuning_mse", "tuning_r2"]
    number = experiment.experiment_id
    assert tracker.page == (
        f"http://127.0.0.1:5000/#/experiments/{number}/runs?workflowType=machine_learning"
        "&compareRunsMode=CHART&viewStateShareKey=cvmae"
    )


def test_runs_are_of_one_group_within_a_sweep_or_on_one_data_set(on_mlflow, store, tmp_path):
    sweep = tracking.open_tracker(on_mlflow, run_name="sweep")
    groups = []
    for parent in (sweep.run_id, ""):
        config = override(on_mlflow, {"output_dir": str(tmp_path / f"under {parent}")})
        tracker = tracking.open_tracker(config, run_name="cv", parent_run_id=parent)
        tracker.log_params(told_params(config))
        tracker.log_dataset({"name": "d", "digest": "1", "source_type": "local", "source": "{}"})
        tracker.close("FINISHED")
        groups.append(read_run(store, tracker.mlflow_id).data.tags["cvmae.group"])
    assert groups == [f"cv, run {sweep.key[:6]}", "cv, d 1"]


def test_an_experiment_of_another_origin_gets_the_view_that_the_page_asks_for(on_mlflow, store):
    from mlflow import MlflowClient

    client, tag = MlflowClient(store), "mlflow.sharedViewState.cvmae"
    for name, tags in (("theirs", {}), ("of an earlier version", {tag: "{}"})):
        number = client.create_experiment(name, tags=tags)
        tracking.open_tracker(override(on_mlflow, {"tracking.experiment": name}), run_name="run")
        assert client.get_experiment(number).tags == {tag: mlflow_page.view()}
