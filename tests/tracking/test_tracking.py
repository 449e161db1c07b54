"""Both trackers keep a run's numbers once and in order, and MLflow's outlives a dead server."""

import json
import multiprocessing
import socket
import time
import warnings

import matplotlib.figure
import pyarrow.parquet as pq
import pytest

from cvmae.command_line import load
from cvmae.config import PRESETS, flatten, override, without_password, write_config
from cvmae.tracking import store as tracking
from cvmae.tracking.mlflow_store import first_line


@pytest.fixture(autouse=True)
def _no_ambient_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def in_process(tmp_path):
    return override(
        PRESETS["tiny"], {"scaling.num_workers": 0, "output_dir": str(tmp_path / "run")}
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One SQLite store for all tests: creating one takes seconds of migrations."""
    folder = tmp_path_factory.mktemp("store")
    config = override(PRESETS["tiny"], {"tracking.uri": f"sqlite:///{folder}/mlflow.db"})
    config = tracking.name_store(override(config, {"output_dir": str(folder)}))
    tracking.prepare_store(config)
    return config.tracking.uri


@pytest.fixture
def on_mlflow(tmp_path, store):
    return override(PRESETS["tiny"], {"output_dir": str(tmp_path / "run"), "tracking.uri": store})


@pytest.fixture
def dead_server():
    """Address of a loopback port that refuses connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def read_points(store, run_id, name="loss"):
    from mlflow import MlflowClient

    return [(m.step, m.value) for m in MlflowClient(store).get_metric_history(run_id, name)]


def read_run(store, run_id):
    from mlflow import MlflowClient

    return MlflowClient(store).get_run(run_id)


def draw_line():
    figure = matplotlib.figure.Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, 1])
    return figure


def test_in_process_metrics_are_a_long_table(in_process):
    tracker = tracking.open_tracker(in_process, run_name="alone")
    tracker.log_metrics({"loss": 2.0, "tuning_mse": 1.0}, step=0)
    tracker.log_metrics({"loss": 1.5}, step=10)
    assert pq.read_table(tracker.location).to_pylist() == [
        {"step": 0, "name": "loss", "value": 2.0},
        {"step": 0, "name": "tuning_mse", "value": 1.0},
        {"step": 10, "name": "loss", "value": 1.5},
    ]


def test_in_process_resume_keeps_each_point_once(in_process):
    tracking.open_tracker(in_process, run_name="alone").log_metrics({"loss": 2.0}, step=5)
    resumed = tracking.open_tracker(in_process, run_name="alone")
    resumed.log_metrics({"loss": 99.0}, step=5)
    resumed.log_metrics({"loss": 1.0}, step=6)
    table = pq.read_table(resumed.location).to_pydict()
    assert (table["step"], table["value"]) == ([5, 6], [2.0, 1.0])


def test_in_process_parameters_and_status_are_json(in_process, tmp_path):
    tracker = tracking.open_tracker(in_process, run_name="alone", parent_run_id="sweep")
    tracker.log_params(flatten(in_process))
    tracker.log_figure(draw_line(), "curve")
    tracker.close("FINISHED")
    about = json.loads((tmp_path / "run/params.json").read_text())
    assert about["params"]["model.width"] == "32"
    assert (about["run_name"], about["parent_run_id"]) == ("alone", "sweep")
    assert about["status"] == "FINISHED"
    assert (tmp_path / "run/figures/curve.png").stat().st_size > 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_artifact_that_does_not_exist_is_refused(num_workers, on_mlflow):
    config = override(on_mlflow, {"scaling.num_workers": num_workers})
    tracker = tracking.open_tracker(config, run_name="alone")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png cannot be kept"):
        tracker.log_artifact("nowhere.png")


def name(uri: str = "", **changes: object) -> str:
    """Return the URI that settings come to."""
    config = override(PRESETS["tiny"], {"output_dir": "/out", "tracking.uri": uri, **changes})
    return tracking.name_store(config).tracking.uri


def test_store_is_named_by_setting_then_environment_then_folder(monkeypatch):
    assert name() == "sqlite:////out/mlflow.db"
    assert name(output_dir="s3://bucket/run") == ""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert name() == name(output_dir="s3://bucket/run") == "http://server:5000"
    assert name("sqlite:////other.db") == "sqlite:////other.db"


def test_a_relative_database_is_the_same_one_in_every_process(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert name("sqlite:///own.db") == f"sqlite:///{tmp_path}/own.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite+pysqlite:///a b/x.db?timeout=60")
    assert name() == f"sqlite+pysqlite:///{tmp_path}/a b/x.db?timeout=60"


def test_a_relative_database_of_a_submitted_job_is_refused(monkeypatch):
    monkeypatch.setattr(tracking, "runs_in_a_copy", lambda: True)
    with pytest.raises(ValueError, match=r"tracking\.uri='sqlite:///own\.db' is relative"):
        name("sqlite:///own.db")
    assert name("sqlite:////runs/own.db") == "sqlite:////runs/own.db"


@pytest.mark.parametrize("uri", ["file:///runs/mlruns", "file:mlruns", "./mlruns", "runs.db"])
def test_a_path_is_refused_with_the_database_that_would_do(uri, monkeypatch):
    with pytest.raises(ValueError, match=r"tracking\.uri='.*is a path.*give sqlite:////.*\.db, or"):
        name(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ValueError, match=r"MLFLOW_TRACKING_URI='.*is a path"):
        name()


@pytest.mark.parametrize(
    ("uri", "database"),
    [
        ("runs//x", "{here}/runs/x/mlflow.db"),
        ("file:mlruns", "{here}/mlruns/mlflow.db"),
        ("file://mlruns", "{here}/mlruns/mlflow.db"),
        ("file://host/a%20b", "/a b/mlflow.db"),
        ("file:///runs//own.db", "/runs/own.db"),
    ],
)
def test_the_database_that_would_do_lies_where_the_path_says(uri, database, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is a path") as refused:
        name(uri)
    assert f"give sqlite:///{database.format(here=tmp_path)}, or" in str(refused.value)


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///:memory:", "sqlite://own.db", "sqlite:///"]
)
def test_a_database_that_only_one_process_could_open_is_refused(uri):
    with pytest.raises(ValueError, match=r"no file that all processes of a run could open"):
        name(uri)


def test_a_resumed_run_keeps_its_store_and_finds_the_password_in_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host/mlflow")
    assert name("https://host/mlflow") == "https://me:secret@host/mlflow"
    assert name("https://other/mlflow") == "https://other/mlflow"


@pytest.mark.parametrize("setting", ["tracking.uri", "MLFLOW_TRACKING_URI"])
def test_a_store_that_is_not_used_is_said_to_be_so_without_its_password(
    setting, in_process, monkeypatch, caplog
):
    uri = "http://me:secret@server:5000"
    if setting == "tracking.uri":
        in_process = override(in_process, {setting: uri})
    else:
        monkeypatch.setenv(setting, uri)
    config = tracking.name_store(in_process)
    tracking.prepare_store(config)
    assert f"{setting}=http://server:5000 is not used" in caplog.text
    assert "metrics.parquet" in tracking.open_tracker(config, run_name="run").location


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:5", "http://host:5"),
        ("http://me:p@secret@host:5", "http://host:5"),
        ("postgresql+psycopg2://me:sec/ret@host/db", "postgresql+psycopg2://host/db"),
        ("postgresql://me:x@sec/ret@host/db", "postgresql://host/db"),
        ("http://host/?password=secret", "http://host/"),
        ("postgresql://host:5/db?password=p@secret", "postgresql://"),
        ("postgresql://me:p?secret@host/db", "postgresql://"),
        ("postgresql:///db?password=secret", "postgresql:///db"),
        ("me:secret@host:5000", "host:5000"),
        ("sqlite+pysqlcipher://:secret@/x.db", "sqlite+pysqlcipher:///x.db"),
        ("sqlite+pysqlite:////me@host/x@y.db?timeout=60",) * 2,
        ("file:///me@host/runs",) * 2,
        ("runs/me@host",) * 2,
        ("databricks://profile",) * 2,
        ("https://host:5/mlflow",) * 2,
        ("", ""),
    ],
)
def test_a_uri_is_shown_and_written_without_what_may_be_secret(uri, shown):
    assert without_password(uri) == shown
    assert flatten(override(PRESETS["tiny"], {"tracking.uri": uri}))["tracking.uri"] == shown
    said = first_line(ConnectionError(f"cannot reach {uri} now, perhaps: is it up? me@home"))
    assert said == f"cannot reach {shown} now, perhaps: is it up? me@home" or "://" not in uri


@pytest.mark.parametrize(
    "uri", ["file://me:secret@host/runs", "file://me:secret@host", "sqlite+x://me:secret@host"]
)
def test_a_store_is_refused_without_its_password(uri):
    with pytest.raises(ValueError, match=r"tracking\.uri") as refused:
        name(uri)
    assert "secret" not in str(refused.value)


def test_a_store_that_cannot_exist_is_refused_by_setting(on_mlflow):
    config = override(on_mlflow, {"tracking.uri": "nonsense://store"})
    with pytest.raises(ValueError, match=r"tracking\.uri='nonsense://store' .*cannot be opened"):
        tracking.prepare_store(config)


def test_an_experiment_that_was_deleted_is_refused_with_the_way_back(on_mlflow, store):
    from mlflow import MlflowClient

    config = override(on_mlflow, {"tracking.experiment": "gone"})
    tracking.prepare_store(config)
    client = MlflowClient(store)
    number = client.get_experiment_by_name("gone").experiment_id
    client.delete_experiment(number)
    with pytest.raises(ValueError, match=rf"experiment='gone' was deleted.* restore -x {number}"):
        tracking.prepare_store(config)


def test_a_resumed_run_does_not_begin_another_database_where_its_own_has_gone(tmp_path):
    gone = f"sqlite:///{tmp_path}/sweep/mlflow.db"
    run = str(tmp_path / "run")
    changes = {"tracking.uri": gone, "output_dir": run, "resume": run}
    with pytest.raises(ValueError, match="folder of that database is gone"):
        tracking.prepare_store(override(PRESETS["tiny"], changes))
    assert not (tmp_path / "sweep").exists()


def begin_run(folder: str) -> None:
    config = tracking.name_store(override(PRESETS["tiny"], {"output_dir": folder}))
    tracking.prepare_store(config)
    tracker = tracking.open_tracker(config, run_name="run")
    tracker.log_figure(draw_line(), "first")
    tracker.close("FAILED")
    write_config(config, f"{folder}/config.yaml")


def test_a_moved_run_keeps_its_artifacts_and_writes_the_next_below_its_present_folder(tmp_path):
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    # Characters that a URL or a pattern would read as something else.
    old, new = tmp_path / "old", tmp_path / "a b?c%20#[d]é"
    # A process of its own: MLflow remembers where a run's artifacts were.
    begin = multiprocessing.get_context("spawn").Process(target=begin_run, args=(str(old),))
    begin.start()
    begin.join()
    old.rename(new)

    resumed = tracking.name_store(load(["--resume", str(new)]))
    assert (new / "mlflow.db").is_file()
    tracking.prepare_store(resumed)
    again = tracking.open_tracker(resumed, run_name="run")
    again.log_figure(draw_line(), "second")
    assert not old.exists()
    kept = MlflowClient(resumed.tracking.uri).list_artifacts(again.run_id, "figures")
    assert [item.path for item in kept] == ["figures/first.png", "figures/second.png"]
    for item in kept:
        download_artifacts(
            run_id=again.run_id,
            artifact_path=item.path,
            tracking_uri=resumed.tracking.uri,
            dst_path=str(tmp_path),
        )
    assert len(list((new / "mlartifacts").rglob("*.png"))) == 2
    run = read_run(resumed.tracking.uri, again.run_id)
    assert run.data.tags["cvmae.output_dir"] == str(new)


@pytest.mark.parametrize(
    ("experiment", "place", "follows"),
    [
        ("ours", "file:///gone/mlartifacts", True),
        ("theirs", "file:///gone/mlartifacts", False),
        ("ours", "s3://bucket/mlartifacts", False),
        ("ours", "file://{tmp_path}/kept/mlartifacts", False),
        ("ours", "file:///gone/artifacts", False),
    ],
)
def test_only_our_own_artifacts_that_were_moved_are_looked_for_elsewhere(
    experiment, place, follows, tmp_path
):
    from mlflow import MlflowClient

    (tmp_path / "kept" / "mlartifacts").mkdir(parents=True)
    uri, place = f"sqlite:///{tmp_path}/mlflow.db", place.format(tmp_path=tmp_path)
    changes = {"output_dir": str(tmp_path), "tracking.uri": uri, "tracking.experiment": "first"}
    config = override(PRESETS["tiny"], changes)
    tracking.prepare_store(config)
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment(experiment, artifact_location=place))
    tracking.prepare_store(override(config, {"tracking.experiment": "ours"}))
    expected = f"file://{tmp_path}/mlartifacts" if follows else place
    assert client.get_experiment_by_name(experiment).artifact_location == expected
    own = client.get_run(run.info.run_id).info.artifact_uri
    assert own == f"{expected}/{run.info.run_id}/artifacts"


def test_what_waits_for_a_dead_server_is_sent_from_where_the_folder_lies_then(
    on_mlflow, dead_server, store, tmp_path
):
    from mlflow import MlflowClient

    config = override(on_mlflow, {"tracking.uri": dead_server})
    with pytest.warns(RuntimeWarning, match="does not answer"):
        tracking.open_tracker(config, run_name="run").log_figure(draw_line(), "curve")
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = override(on_mlflow, {"output_dir": str(tmp_path / "moved")})
    tracker = tracking.open_tracker(moved, run_name="run")
    kept = MlflowClient(store).list_artifacts(tracker.run_id, "figures")
    assert [item.path for item in kept] == ["figures/curve.png"]


def test_child_run_points_to_its_parent_and_holds_everything_logged(on_mlflow, store):
    tracker = tracking.open_tracker(on_mlflow, run_name="child", parent_run_id="abc")
    tracker.log_params(flatten(on_mlflow) | {f"extra_{i}": i for i in range(100)})
    tracker.log_metrics({"loss": 2.0}, step=1)
    tracker.log_figure(draw_line(), "curve")
    tracker.close("FINISHED")
    run = read_run(store, tracker.run_id)
    assert run.data.tags["mlflow.parentRunId"] == "abc"
    assert run.data.params["mask.policy"] == "cv"
    assert run.data.params["extra_99"] == "99"  # beyond MLflow's 100 a call
    assert read_points(store, tracker.run_id) == [(1, 2.0)]
    assert run.info.status == "FINISHED"
    from mlflow import MlflowClient

    kept = MlflowClient(store).list_artifacts(tracker.run_id, "figures")
    assert [item.path for item in kept] == ["figures/curve.png"]


def test_worker_and_resumed_run_continue_the_same_run_without_duplicates(on_mlflow, store):
    driver = tracking.open_tracker(on_mlflow, run_name="run")
    worker = tracking.open_tracker(on_mlflow, run_name="run", run_id=driver.run_id)
    worker.log_params({"a": 1})
    worker.log_metrics({"loss": 2.0}, step=5)
    driver.close("FAILED")
    resumed = tracking.open_tracker(on_mlflow, run_name="run")
    assert resumed.run_id == driver.run_id
    assert read_run(store, resumed.run_id).info.status == "RUNNING"
    resumed.log_params({"a": 2, "b": 3})
    resumed.log_metrics({"loss": 99.0, "new": 7.0}, step=5)
    resumed.log_metrics({"loss": 1.0}, step=6)
    assert read_points(store, resumed.run_id) == [(5, 2.0), (6, 1.0)]
    assert read_points(store, resumed.run_id, "new") == [(5, 7.0)]
    assert read_run(store, resumed.run_id).data.params == {"a": "1", "b": "3"}


def test_a_new_folder_is_a_new_run(on_mlflow, tmp_path):
    first = tracking.open_tracker(on_mlflow, run_name="run")
    elsewhere = override(on_mlflow, {"output_dir": str(tmp_path / "other")})
    assert tracking.open_tracker(elsewhere, run_name="run").run_id != first.run_id


def test_dead_server_is_asked_seldom_and_complained_of_once(on_mlflow, dead_server, monkeypatch):
    from cvmae.tracking import mlflow_tracker as tracking_mlflow

    connections = []
    make_client = tracking_mlflow.MlflowClient

    def count_client(**kwargs):
        connections.append(kwargs)
        return make_client(**kwargs)

    monkeypatch.setattr(tracking_mlflow, "MlflowClient", count_client)
    with_password = dead_server.replace("//", "//me:secret@")
    config = override(on_mlflow, {"tracking.uri": with_password})
    start = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracker = tracking.open_tracker(config, run_name="run")
        num_connections = len(connections)
        for step in range(20):
            tracker.log_metrics({"loss": 1.0}, step=step)
        assert len(connections) == num_connections
        tracker.close("FAILED")
    assert len(connections) > num_connections
    # Two attempts with one retry each; MLflow's own defaults take minutes.
    assert time.monotonic() - start < 15
    messages = [str(w.message) for w in caught if "does not answer" in str(w.message)]
    assert len(messages) == 1
    assert dead_server in messages[0]
    assert not any("secret" in str(w.message) for w in caught)


def test_what_a_dead_server_missed_is_replayed_by_the_resumed_run(on_mlflow, dead_server, store):
    config = override(on_mlflow, {"tracking.uri": dead_server})
    with pytest.warns(RuntimeWarning, match="does not answer"):
        dead = tracking.open_tracker(config, run_name="run")
    dead.log_params({"a": 1})
    for step in range(3):
        dead.log_metrics({"loss": float(step)}, step=step)
    with pytest.warns(RuntimeWarning, match="did not come back"):
        dead.close("FAILED")
    back = tracking.open_tracker(on_mlflow, run_name="run")
    assert read_points(store, back.run_id) == [(0, 0.0), (1, 1.0), (2, 2.0)]
    run = read_run(store, back.run_id)
    assert run.data.params == {"a": "1"}
    assert run.info.status == "RUNNING"  # the kept end belongs to the interrupted attempt


def test_store_that_returns_gets_everything_once_even_after_a_lost_reply(
    on_mlflow, store, monkeypatch
):
    from cvmae.tracking import mlflow_tracker as tracking_mlflow

    client = tracking_mlflow.MlflowClient
    log_batch = client.log_batch

    def fail(self, *args, **kwargs):
        raise ConnectionError("down")

    def log_and_lose_the_reply(self, *args, **kwargs):
        log_batch(self, *args, **kwargs)
        raise ConnectionError("reply lost")

    monkeypatch.setattr(tracking_mlflow, "RETRY_AFTER_S", 0.0)
    tracker = tracking.open_tracker(on_mlflow, run_name="run")
    monkeypatch.setattr(client, "log_batch", fail)
    with pytest.warns(RuntimeWarning, match="does not answer"):
        tracker.log_metrics({"loss": 3.0}, step=1)
    monkeypatch.setattr(client, "log_batch", log_and_lose_the_reply)
    tracker.log_metrics({"loss": 2.0}, step=2)
    monkeypatch.setattr(client, "log_batch", log_batch)
    tracker.log_metrics({"loss": 1.0}, step=3)
    tracker.close("FINISHED")
    assert read_points(store, tracker.run_id) == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert read_run(store, tracker.run_id).info.status == "FINISHED"


def test_an_entry_the_store_refuses_does_not_block_those_behind_it(on_mlflow, store):
    tracker = tracking.open_tracker(on_mlflow, run_name="run")
    with pytest.warns(RuntimeWarning, match="refused metrics"):
        tracker.log_metrics({"a name with : and ?": 1.0}, step=1)
    tracker.log_metrics({"loss": 1.0}, step=1)
    assert read_points(store, tracker.run_id) == [(1, 1.0)]
