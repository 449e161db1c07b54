"""``ray job submit --working-dir .`` on a cluster, as users type it."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmae.checkpoint import find_checkpoint, load_state

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ray

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if k not in {"RAY_ADDRESS", "PYTHONPATH"}}
    return environment | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        # Said on both sides: left alone, one side turns tokens on and the other does not.
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.fixture(scope="module")
def address(environment: dict[str, str]) -> Iterator[str]:
    """A Ray head of its own on this machine; yields the address for jobs."""
    ray.shutdown()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # short: sockets live in it
        head = subprocess.Popen(
            [
                str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=8",
                f"--port={free_port()}", f"--dashboard-port={port}", f"--temp-dir={folder}",
                "--dashboard-host=127.0.0.1", f"--object-store-memory={512 << 20}",
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for(port, head)
            yield f"http://127.0.0.1:{port}"
        finally:
            head.send_signal(signal.SIGTERM)
            try:
                head.wait(timeout=60)
            except subprocess.TimeoutExpired:
                head.kill()


def wait_for(port: int, head: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert head.poll() is None, "ray start ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("the dashboard did not come up in 120 s")


def submit(
    address: str, environment: dict[str, str], *entrypoint: str
) -> "subprocess.CompletedProcess[str]":
    deadline = time.monotonic() + 120
    while True:
        done = _submit_once(address, environment, *entrypoint)
        # The dashboard answers some seconds before the head's job agent does.
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(2)


def _submit_once(
    address: str, environment: dict[str, str], *entrypoint: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN / "ray"), "job", "submit", "--address", address, "--working-dir", ".", "--",
         *entrypoint],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )  # fmt: skip


def test_a_submitted_pretrain_leaves_a_checkpoint_and_an_mlflow_run(
    address, environment, hospital, tmp_path
):
    out = tmp_path / "run"
    done = submit(
        address, environment,
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


def test_a_submitted_job_does_not_write_into_the_copy_of_its_folder(address, environment, hospital):
    for flags in (["--output_dir", "runs/cv"], ["--resume", "runs/cv"]):
        done = submit(
            address, environment, "python", "jobs/pretrain.py", "--data.root", hospital, *flags
        )
        assert done.returncode != 0
        assert "=runs/cv is relative, and this job runs in Ray's copy" in done.stdout


def test_a_submitted_job_with_bad_input_fails_with_one_line(address, environment, tmp_path):
    done = submit(
        address, environment,
        "python", "jobs/pretrain.py", "--data.root", str(tmp_path / "none"),
        "--output_dir", str(tmp_path / "run"),
    )  # fmt: skip
    assert done.returncode != 0
    assert "cvmae: " in done.stdout
    assert "Traceback" not in done.stdout
