"""Which store is named, shown and refused; databases that are moved; nothing shows a password."""

import multiprocessing
import shutil
import sys
from pathlib import Path

import pytest

from cvmae.command_line import load
from cvmae.config import PRESETS, flatten, override, without_password, write_config
from cvmae.tracking import store as tracking
from cvmae.tracking.origin import first_line
from cvmae.tracking.params import describe_run, told_params
from tests.tracking.runs import draw_line, read_run


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
    (tmp_path / "a b").mkdir()
    assert name("sqlite:///own.db") == f"sqlite:///{tmp_path}/own.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite+pysqlite:///a b/x.db?timeout=60")
    assert name() == f"sqlite+pysqlite:///{tmp_path}/a b/x.db?timeout=60"


def test_a_relative_database_of_a_submitted_job_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(tracking, "runs_in_a_copy", lambda: True)
    with pytest.raises(ValueError, match=r"tracking\.uri='sqlite:///own\.db' is relative"):
        name("sqlite:///own.db")
    assert name(f"sqlite:///{tmp_path}/own.db") == f"sqlite:///{tmp_path}/own.db"


@pytest.mark.parametrize("setting", ["tracking.uri", "MLFLOW_TRACKING_URI"])
def test_a_database_in_a_folder_that_is_not_there_is_refused_and_not_made(
    setting, tmp_path, monkeypatch
):
    wrong, right = (f"sqlite:///{tmp_path}/{folder}/own.db" for folder in ("rusn", "runs"))
    (tmp_path / "runs").mkdir()
    message = rf"^{setting}='{wrong}': there is no folder {tmp_path}/rusn, where .*: create it, or"
    if setting == "tracking.uri":
        with pytest.raises(ValueError, match=message):
            name(wrong)
        assert name(right) == right
    else:
        monkeypatch.setenv(setting, wrong)
        with pytest.raises(ValueError, match=message):
            name()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    # The folder of the run itself is made with the run.
    own = f"sqlite:///{tmp_path}/new/tracking/own.db"
    assert name(own, output_dir=tmp_path / "new") == own
    # In one process MLflow is not written.
    assert name(wrong, **{"scaling.num_workers": 0}) == wrong


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


def test_a_password_on_the_command_line_is_warned_of_and_one_in_the_environment_is_not(
    monkeypatch, caplog
):
    uri = "https://me:secret@host/mlflow"
    assert name(uri) == uri
    assert "list of processes" in caplog.text
    assert "MLFLOW_TRACKING_PASSWORD" in caplog.text
    caplog.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert name() == name(without_password(uri)) == uri
    assert caplog.text == ""


def test_no_file_of_a_run_and_no_line_holds_the_password_of_its_store(
    dead_server, tmp_path, monkeypatch, caplog
):
    """Settings, parameters, tags, description and warnings, where the server is away as well."""
    uri = dead_server.replace("://", "://me:s3cr3t-w0rd@")
    run = str(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--tracking.uri", uri])
    config = tracking.name_store(load(["--output_dir", run, "--tracking.uri", uri]))
    assert config.tracking.uri == uri
    tracking.prepare_store(config)
    tracker = tracking.open_tracker(
        config, run_name="run", description=describe_run(config, {"name": "meds"})
    )
    tracker.log_params(flatten(config) | told_params(config))
    tracker.log_metrics({"loss": 1.0}, step=1)
    tracker.close("FINISHED")
    write_config(config, f"{run}/config.yaml")
    files = [path for path in Path(run).rglob("*") if path.is_file()]
    assert {"config.yaml", "metrics.parquet", "tracking.json"} <= {path.name for path in files}
    assert [path.name for path in files if b"s3cr3t" in path.read_bytes()] == []
    assert "does not answer" in caplog.text
    assert "s3cr3t" not in caplog.text


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
    with pytest.raises(ValueError, match=rf"the folder {tmp_path}/sweep of that database is gone"):
        tracking.name_store(override(PRESETS["tiny"], changes))
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
    kept = MlflowClient(resumed.tracking.uri).list_artifacts(again.mlflow_id, "figures")
    assert [item.path for item in kept] == ["figures/first.png", "figures/second.png"]
    for item in kept:
        download_artifacts(
            run_id=again.mlflow_id,
            artifact_path=item.path,
            tracking_uri=resumed.tracking.uri,
            dst_path=str(tmp_path),
        )
    assert len(list((new / "mlartifacts").rglob("*.png"))) == 2
    run = read_run(resumed.tracking.uri, again.mlflow_id)
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
    experiment, place, follows, tmp_path, migrated
):
    from mlflow import MlflowClient

    shutil.copy(migrated, tmp_path / "mlflow.db")
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
