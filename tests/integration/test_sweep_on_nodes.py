"""A sweep of twelve trials, submitted to two nodes, that loses its driver and goes on."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.ray_head import BIN, RayHead, await_job_agent, outside, start_head, start_node

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.survival]

REPOSITORY = Path(__file__).parents[2]
# What Ray's processes print is preceded by their name and number.
FROM_RAY = re.compile(r"^\x1b?\S*\((\w+ )?pid=\d+|^\((autoscaler|raylet)")


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[RayHead]:
    with start_head(num_cpus=4) as head, start_node(head, num_cpus=4):
        await_job_agent(head)
        yield head


def submit(head: RayHead, *flags: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(BIN / "ray"), "job", "submit", "--address", head.jobs, "--working-dir", ".", "--",
         "python", "jobs/sweep.py", *flags],
        cwd=REPOSITORY,
        env=outside(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def driver_of(folder: Path) -> psutil.Process:
    """Return the process that runs the sweep, on whichever node."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if str(folder) in line and line[1:2] == ["jobs/sweep.py"]:
            return process
    raise AssertionError("no process runs the sweep")


def finished(folder: Path) -> set[str]:
    """Return the trials whose table of codes is kept: the last file that a trial writes."""
    return {path.parents[1].name for path in folder.glob("trials/*/tables/code_metrics.json")}


def without_exits(said: str) -> list[str]:
    """Return lines but for tracebacks of processes that a signal of Ray met on their way out.

    On a starved machine that may be any of them, and Python says that it ignores it.
    """
    kept, leaving = [], ""
    for line in said.splitlines():
        process = line.partition(")")[0]
        if "Exception ignored in" in line:
            leaving = process
        if not leaving or process != leaving:
            kept.append(line)
        elif "SystemExit" in line:
            leaving = ""
    return kept


def test_a_submitted_sweep_whose_driver_is_killed_resumes_on_two_nodes(
    two_nodes, hospital, tmp_path
):
    import ray

    out = tmp_path / "sweep"
    first = submit(
        two_nodes,
        "--base", "tiny", "--data.root", hospital, "--data.min_count", "2",
        "--data.unit_rows", "500", "--sweep.policies", "random", "cv",
        "--sweep.axes", "optim.lr=1e-3,5e-4", "--sweep.seeds", "0", "1", "2",
        "--scaling.num_workers", "1", "--sweep.max_concurrent", "2", "--output_dir", str(out),
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while len(finished(out)) < 3:
        assert first.poll() is None, first.communicate()[0][-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    driver_of(out).kill()
    assert first.wait(120) != 0
    done = finished(out)
    assert 3 <= len(done) < 12
    written = {path for name in done for path in out.glob(f"trials/{name}/checkpoints/*/*")}
    stamps = {path: path.stat().st_mtime_ns for path in written}

    second = submit(two_nodes, "--resume", str(out))
    said, _ = second.communicate(timeout=900)
    assert second.returncode == 0, said[-4000:]
    assert "12 trials, " in said
    rows = pq.read_table(out / "trials.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["finished"] * 12
    assert {path: path.stat().st_mtime_ns for path in written} == stamps  # not repeated
    assert "cv lr 0.0005" in said
    assert re.search(r"\d+ of 12 done, \d running, ETA \d\d:\d\d:\d\d", said)
    assert [line for line in without_exits(said) if FROM_RAY.search(line)] == []
    ray.init(address=two_nodes.address, logging_level="error", log_to_driver=False)
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    ray.shutdown()
