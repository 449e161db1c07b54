"""``ray job submit --working-dir .`` on a cluster, as users type it."""

import subprocess
from pathlib import Path

import pytest

from cvmae.checkpoint import find_checkpoint, load_state
from tests.ray_head import BIN, RayHead, await_job_agent, outside

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ray

REPOSITORY = Path(__file__).parents[2]


def submit(head: RayHead, *entrypoint: str) -> "subprocess.CompletedProcess[str]":
    await_job_agent(head)
    return subprocess.run(
        [str(BIN / "ray"), "job", "submit", "--address", head.jobs, "--working-dir", ".", "--",
         *entrypoint],
        cwd=REPOSITORY,
        env=outside(),
        capture_output=True,
        text=True,
        timeout=400,
    )  # fmt: skip


def test_a_submitted_pretrain_leaves_a_checkpoint_and_an_mlflow_run(ray_head, hospital, tmp_path):
    out = tmp_path / "run"
    done = submit(
        ray_head,
        "python", "jobs/pretrain.py", "--base", "tiny", "--data.root", hospital,
        "--data.min_count", "2", "--scaling.num_workers", "2", "--output_dir", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    progress, _, _ = load_state(find_checkpoint(out))
    assert progress.epoch == 2

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{out}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'cvmae'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["mask.policy"] == "cv"
    logged = client.get_metric_history(run.info.run_id, "tuning_mse")
    assert [point.value for point in logged] == [e["tuning_mse"] for e in progress.history]


def test_a_submitted_job_does_not_write_into_the_copy_of_its_folder(ray_head, hospital):
    for flags in (["--output_dir", "runs/cv"], ["--resume", "runs/cv"]):
        done = submit(ray_head, "python", "jobs/pretrain.py", "--data.root", hospital, *flags)
        assert done.returncode != 0
        assert "=runs/cv is relative, and this job runs in Ray's copy" in done.stdout


def test_a_submitted_job_with_bad_input_fails_with_one_line(ray_head, tmp_path):
    done = submit(
        ray_head,
        "python", "jobs/pretrain.py", "--data.root", str(tmp_path / "none"),
        "--output_dir", str(tmp_path / "run"),
    )  # fmt: skip
    assert done.returncode != 0
    assert "cvmae: " in done.stdout
    assert "Traceback" not in done.stdout
