"""``ray job submit --working-dir .`` on a cluster that asks for a token, as users type it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from benchmarks.chaos.cluster import CLOSED
from cvmae.checkpoint import find_checkpoint, load_state
from tests.cluster.definitions import document
from tests.ray_head import BIN, RayHead, await_job_agent, outside, start_head

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ray

REPOSITORY = Path(__file__).parents[2]
# A file of jobs/ has that folder on its path, not the one above with the package.
WHERE = """
import cvmae, ray

@ray.remote
def imported():
    import cvmae
    return cvmae.__file__

ray.init(log_to_driver=False)
print("driver:", cvmae.__file__)
print("worker:", ray.get(imported.remote()))
"""


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with start_head(**CLOSED) as head:
        await_job_agent(head)
        yield head


def submit(head: RayHead, *entrypoint: str, folder: Path = REPOSITORY) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(BIN / "ray"), "job", "submit", "--address", head.jobs, "--working-dir", ".", "--",
         *entrypoint],
        cwd=folder,
        env=outside() | head.own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def test_a_head_with_a_token_turns_away_who_has_none_and_answers_the_probes_of_a_pod(head):
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"{head.jobs}/api/jobs/", timeout=30)
    pods = document("kubernetes/raycluster.yaml")["spec"]["headGroupSpec"]["template"]["spec"]
    (container,) = pods["containers"]
    for kind in ("readinessProbe", "livenessProbe"):
        line = container[kind]["exec"]["command"][-1]
        port, path, word = re.search(r"http://localhost:(\d+)(\S+) \| grep (\w+)$", line).groups()
        assert int(port) == ray._private.ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
        with urlopen(f"{head.agent}{path}", timeout=30) as answer:
            assert word in answer.read().decode()


def test_a_job_without_the_token_is_not_taken(head):
    poor = RayHead(
        head.address, head.jobs, head.agent, head.logs, own={"RAY_AUTH_MODE": "disabled"}
    )
    job = submit(poor, "true")
    said, _ = job.communicate(timeout=400)
    assert job.returncode != 0
    assert "Unauthorized: Missing authentication token" in said


def test_a_submitted_pretrain_leaves_a_checkpoint_and_an_mlflow_run(head, hospital, tmp_path):
    out = tmp_path / "run"
    job = submit(
        head,
        "python", str(REPOSITORY / "cluster" / "await_nodes.py"), "1",
        "python", "jobs/pretrain.py", "--base", "tiny", "--data.root", hospital,
        "--data.min_count", "2", "--scaling.num_workers", "2", "--output_dir", str(out),
    )  # fmt: skip
    said, _ = job.communicate(timeout=400)
    assert job.returncode == 0, said[-6000:]
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


def test_submitted_jobs_that_cannot_begin_fail_with_one_line(head, hospital, tmp_path):
    """One test, because each takes seconds of starting up: side by side they take them once."""
    in_the_copy = "=runs/cv is relative, and this job runs in Ray's copy"
    wanted = {
        ("--data.root", hospital, "--output_dir", "runs/cv"): in_the_copy,
        ("--data.root", hospital, "--resume", "runs/cv"): in_the_copy,
        ("--data.root", str(tmp_path / "none"), "--output_dir", str(tmp_path / "run")): "cvmae: ",
    }
    jobs = [submit(head, "python", "jobs/pretrain.py", *flags) for flags in wanted]
    for job, line in zip(jobs, wanted.values(), strict=True):
        said, _ = job.communicate(timeout=400)
        assert job.returncode != 0
        assert line in said
        assert "Traceback" not in said


def test_driver_and_workers_import_the_package_that_was_submitted(head, tmp_path):
    shutil.copytree(REPOSITORY / "cvmae", tmp_path / "cvmae")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "where.py").write_text(WHERE, encoding="utf-8")
    said, _ = submit(head, "python", "jobs/where.py", folder=tmp_path).communicate(timeout=400)
    # Not the one that is installed here: nodes of an older image run what is submitted.
    copy = r"\S*/working_dir_files/_ray_pkg_\w+/cvmae/__init__\.py"
    assert re.findall(rf"^(driver|worker): {copy}$", said, re.M) == ["driver", "worker"], said
