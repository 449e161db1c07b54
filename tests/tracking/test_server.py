"""A real MLflow server on loopback: several trials write to it at once, and it is killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from cvmae.config import override
from cvmae.tracking import mlflow_mirror
from cvmae.tracking import store as tracking
from tests.tracking.runs import (
    STEPS,
    assert_all_is_there,
    read_files,
    read_points,
    read_run,
    write_trials_at_once,
)

pytestmark = pytest.mark.slow

START_S = 120.0


class Server:
    """A server whose runs lie in a folder, and outlive it."""

    def __init__(self, folder, port):
        self._folder, self._port = folder, port
        self.uri = f"http://127.0.0.1:{port}"
        self._process = None

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        quiet = {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | quiet, start_new_session=True
            )
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            assert time.monotonic() < deadline_s, (self._folder / "server.log").read_text()
            time.sleep(0.2)

    def kill(self):
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return True
        except OSError:
            return False


@pytest.fixture
def server(tmp_path, migrated, free_port):
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(migrated, folder / "mlflow.db")
    server = Server(folder, free_port)
    server.start()
    yield server
    server.kill()


def test_a_server_to_which_trials_write_at_once_and_one_that_is_killed_have_all_in_the_end(
    server, on_mlflow, tmp_path, monkeypatch
):
    """One test, because each start of a server takes seconds."""
    config = override(on_mlflow, {"tracking.uri": server.uri})
    tracking.prepare_store(config)
    parent = tracking.open_tracker(config, run_name="sweep")
    write_trials_at_once(config, parent.run_id)
    assert_all_is_there(config, parent.mlflow_id)

    monkeypatch.setattr(mlflow_mirror, "FIRST_WAIT_S", 0.0)
    own = override(config, {"output_dir": str(tmp_path / "own")})
    tracker = tracking.open_tracker(own, run_name="own", parent_run_id=parent.run_id)
    for step in range(STEPS):
        if step == 5:
            server.kill()
            tracker.log_table({"code": ["a"]}, "codes")
        if step == 9:
            server.start()
        tracker.log_metrics({"loss": float(step)}, step=step)
    tracker.close("FINISHED")
    points = [(step, float(step)) for step in range(STEPS)]
    assert read_points(server.uri, tracker.mlflow_id) == points
    assert read_files(server.uri, tracker.mlflow_id, "tables") == ["tables/codes.json"]
    assert read_run(server.uri, tracker.mlflow_id).info.status == "FINISHED"
