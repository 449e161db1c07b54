"""What an evaluation shows goes to the runs that it has read, and never into their folders."""

import pytest

from cvmae.config import override, write_config
from cvmae.tracking import store as tracking
from cvmae.tracking.results import RunResult, give_to_runs
from tests.tracking.runs import read_files, read_points, read_run


@pytest.fixture
def evaluation(tmp_path):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "report.html").write_text("<p>")
    for name in ("figures/a.png", "predictions/task/names_subjects.parquet"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("")
    return str(folder)


def begin(config, folder, parent=""):
    config = override(config, {"output_dir": str(folder)})
    tracker = tracking.open_tracker(config, run_name=folder.name, parent_run_id=parent)
    write_config(config, folder / "config.yaml")
    return tracker


def test_scores_go_to_each_run_and_files_once_to_the_sweep_above(
    on_mlflow, store, tmp_path, evaluation
):
    sweep = begin(on_mlflow, tmp_path / "sweep")
    runs = [begin(on_mlflow, tmp_path / name, sweep.run_id) for name in ("a", "b")]
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    results = [
        RunResult(path=str(tmp_path / "a"), metrics={"held_out_r2_pooled": 0.5}, epoch=3),
        RunResult(
            path=str(tmp_path / "b/checkpoints/step_00000010"),
            metrics={"held_out_r2_pooled": 0.25},
            epoch=2,
        ),
    ]
    give_to_runs(results, evaluation)
    points = [read_points(store, run.mlflow_id, "held_out_r2_pooled") for run in runs]
    assert points == [[(3, 0.5)], [(2, 0.25)]]
    folder = "evaluations/evaluation"
    # Predictions name subjects.
    assert read_files(store, sweep.mlflow_id, folder) == [
        f"{folder}/figures",
        f"{folder}/report.html",
    ]
    assert read_files(store, sweep.mlflow_id, f"{folder}/figures") == [f"{folder}/figures/a.png"]
    assert read_files(store, runs[0].mlflow_id, folder) == []
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


def test_a_later_evaluation_is_what_the_page_shows_of_a_run_alone(
    on_mlflow, store, tmp_path, evaluation
):
    run = begin(on_mlflow, tmp_path / "alone")
    for score in (0.75, 0.5):
        metrics = {"held_out_r2_pooled": score}
        give_to_runs(
            [RunResult(path=str(tmp_path / "alone"), metrics=metrics, epoch=3)], evaluation
        )
    assert read_run(store, run.mlflow_id).data.metrics["held_out_r2_pooled"] == 0.5
    assert read_files(store, run.mlflow_id, "evaluations/evaluation")


def test_a_store_that_is_down_costs_one_warning_and_no_password(
    on_mlflow, dead_server, tmp_path, evaluation, caplog, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead_server.replace("//", "//me:secret@"))
    config = override(on_mlflow, {"tracking.uri": dead_server})
    for name in ("a", "b"):
        begin(config, tmp_path / name)
    caplog.clear()
    results = [
        RunResult(path=str(tmp_path / name), metrics={"r2": 0.5}, epoch=3) for name in ("a", "b")
    ]
    give_to_runs(results, evaluation)
    assert caplog.text.count("MLflow is not told what the evaluation shows") == 1
    assert "secret" not in caplog.text


def test_a_database_that_is_gone_is_said_and_not_created_anew(
    on_mlflow, store, tmp_path, evaluation, caplog
):
    folder = tmp_path / "alone"
    begin(on_mlflow, folder)
    gone = override(on_mlflow, {"tracking.uri": f"sqlite:///{tmp_path}/gone.db"})
    write_config(override(gone, {"output_dir": str(folder)}), folder / "config.yaml")
    give_to_runs([RunResult(path=str(folder), metrics={"r2": 0.5}, epoch=3)], evaluation)
    assert f"there is no {tmp_path}/gone.db" in caplog.text
    assert not (tmp_path / "gone.db").exists()


def test_runs_without_mlflow_are_passed_over(in_process, tmp_path, evaluation, caplog):
    begin(in_process, tmp_path / "alone")
    paths = [tmp_path / "alone", tmp_path / "nothing"]
    results = [RunResult(path=str(path), metrics={"r2": 0.5}, epoch=3) for path in paths]
    give_to_runs(results, evaluation)
    assert caplog.text == ""
