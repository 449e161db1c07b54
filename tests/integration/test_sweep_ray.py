"""A sweep through Ray Tune: trials side by side, one that fails, an MLflow run for each."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cvmae.sweep.driver import sweep
from tests.integration.interrupts import ctrl_c_once_there_is

pytestmark = pytest.mark.ray


@pytest.fixture
def config(tiny, tmp_path, monkeypatch, shared_ray):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return replace(
        tiny,
        output_dir=str(tmp_path / "out"),
        scaling=replace(tiny.scaling, num_workers=2),
        sweep=replace(tiny.sweep, policies=("random", "variance", "cv"), max_concurrent=2),
    )


def read_rows(config):
    return pq.read_table(Path(config.output_dir) / "trials.parquet").to_pylist()


def test_trials_run_side_by_side_and_a_failed_one_is_all_that_a_resumed_sweep_repeats(config):
    """One test, because a trial on Ray takes half a minute of starting up."""
    from mlflow import MlflowClient

    # A file where the third trial's folder should be: it fails at once, and again.
    trials = Path(config.output_dir) / "trials"
    trials.mkdir(parents=True)
    (trials / "cv_epochs2_seed0").write_text("in the way")
    (Path(config.output_dir) / "config.yaml").touch()
    alone = replace(config.scaling, num_workers=1)  # each worker takes seconds of starting up
    config = replace(config, resume=config.output_dir, scaling=alone)
    with pytest.raises(ValueError, match="1 of 3 trials failed"):
        sweep(config)
    assert [row["status"] for row in read_rows(config)] == ["finished", "finished", "failed"]

    written = sorted(trials.glob("*/checkpoints/*/*"))
    with pytest.raises(ValueError, match=r"cv_epochs2_seed0: ValueError: output_dir=.* is a file"):
        sweep(config)
    assert [row["status"] for row in read_rows(config)] == ["finished", "finished", "failed"]
    assert sorted(trials.glob("*/checkpoints/*/*")) == written  # skipped, not repeated

    client = MlflowClient(f"sqlite:///{config.output_dir}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("cvmae").experiment_id])
    children = {r.info.run_name: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    (parent,) = [r for r in runs if r.info.run_id not in {c.info.run_id for c in children.values()}]
    assert set(children) == {"random_epochs2_seed0", "variance_epochs2_seed0"}
    assert parent.info.status == "FAILED"
    for run in children.values():
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        history = client.get_metric_history(run.info.run_id, "tuning_mse")
        assert [point.step for point in history] == [1, 2]


@pytest.mark.survival
def test_ctrl_c_ends_a_sweep_as_interrupted_and_a_resumed_one_finishes_its_trials(config):
    import ray

    grid = replace(config.sweep, policies=("random",), epochs=(12,))
    config = replace(config, sweep=grid)
    trials = Path(config.output_dir) / "trials"
    with (
        ctrl_c_once_there_is(trials, "*/checkpoints/step_*"),
        pytest.raises(KeyboardInterrupt),
    ):
        sweep(config)
    ray.shutdown()  # as when the process ends
    assert not (trials.parent / "trials.parquet").exists()
    sweep(replace(config, resume=config.output_dir))
    assert [row["status"] for row in read_rows(config)] == ["finished"]


@pytest.mark.survival  # minutes
def test_a_trial_that_asha_stops_is_stopped_with_its_run_closed_and_the_sweep_succeeds(config):
    from mlflow import MlflowClient

    asha = replace(
        config.sweep,
        policies=("cv",),
        epochs=(12,),
        axes=("optim.lr=1e-3,1e-9",),  # the second learns nothing
        scheduler="asha",
        max_concurrent=1,
    )
    config = replace(config, sweep=asha, scaling=replace(config.scaling, num_workers=1))
    told = sweep(config)
    assert "asha has stopped trials early" in told
    rows = read_rows(config)
    assert [row["status"] for row in rows] == ["finished", "stopped"]
    stopped = Path(config.output_dir) / "trials" / "cv_epochs12_seed0_lr1e-09"
    assert "by sweep.scheduler asha after epoch 3" in (stopped / "stopped.txt").read_text()
    written = sorted(stopped.glob("checkpoints/*/*"))
    assert written

    client = MlflowClient(f"sqlite:///{config.output_dir}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("cvmae").experiment_id])
    ended = {run.info.run_name: run.info.status for run in runs}
    assert ended[stopped.name] == "KILLED"
    assert sorted(ended.values()) == ["FINISHED", "FINISHED", "KILLED"]

    sweep(replace(config, resume=config.output_dir))
    assert [row["status"] for row in read_rows(config)] == ["finished", "stopped"]
    assert sorted(stopped.glob("checkpoints/*/*")) == written
