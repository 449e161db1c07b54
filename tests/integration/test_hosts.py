"""Ray on two hosts, and jobs that are submitted from a third: each has a network of its own.

The cluster asks for a token, as those of `cluster/` do.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.chaos.cluster import CLOSED, QUICK
from cvmae.checkpoint import Progress, find_checkpoint, load_state
from cvmae.command_line import load
from tests.evaluate.trained import train_models
from tests.integration.by_ranks import (
    CPUS,
    EVERY,
    assert_same_run,
    short_run,
    step_of,
    train_on_ranks,
)
from tests.integration.hosts import Host, Network, lay_hosts, require_hosts, wait_until
from tests.ray_head import BIN, outside

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.survival]

REPOSITORY = Path(__file__).parents[2]
SERVER = "http://head:8265"


@dataclass(frozen=True)
class Cluster:
    """A head, a node that joins it, and a desk from which jobs are submitted."""

    network: Network
    folder: Path  # with a short name: sockets lie in it

    @property
    def desk(self) -> Host:
        return self.network.hosts[0]

    @property
    def head(self) -> Host:
        return self.network.hosts[1]

    @property
    def node(self) -> Host:
        return self.network.hosts[2]

    def start(self, host: Host, *flags: str) -> None:
        """Start Ray on a host, and again if it fails, as what looks after a host does.

        On a busy machine Ray gives up when one of its processes has not come up within 15 s.
        """
        host.enter(
            [
                *("bash", "-c", 'until "$@"; do sleep 1; done', "bash"),
                *(str(BIN / "ray"), "start", "--block", f"--num-cpus={CPUS}"),
                *(f"--node-ip-address={host.address}", f"--temp-dir={self.folder / host.name}"),
                *(f"--object-store-memory={256 << 20}", *flags),
            ],
            env=outside() | QUICK | CLOSED | {"RAY_JOB_STOP_WAIT_TIME_S": "120"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def join(self) -> None:
        """Let the node join, and wait until it has."""
        self.start(self.node, f"--address={self.head.address}:6379")
        wait_until(lambda: self.is_alive(self.node), "the node joins", every_s=0.5)

    def is_alive(self, host: Host) -> bool:
        """Tell whether the head counts a host among its nodes; those it had before are dead."""
        listed = self.ask("v0/nodes")
        nodes = listed["data"]["result"]["result"] if listed else []
        return any(n["node_ip"] == host.address and n["state"] == "ALIVE" for n in nodes)

    def submit(self, name: str, log: Path, verb: str, *flags: str) -> "subprocess.Popen[str]":
        """Submit a job from the desk and follow what it says into a file."""
        line = ["env", f"--chdir={REPOSITORY}", str(BIN / "ray"), "job", "submit"]
        where = ["--address", SERVER, "--submission-id", name, "--working-dir", "."]
        with log.open("w") as out:
            return self.desk.enter(
                [*line, *where, "--", "python", f"jobs/{verb}.py", *flags],
                env=outside() | CLOSED,
                stdout=out,
                stderr=out,
            )

    def stop(self, name: str) -> None:
        """Stop a job from the desk, as `ray job stop` does, which takes seconds to start."""
        assert self.ask(f"jobs/{name}/stop", {}) == {"stopped": True}

    def ask(self, path: str, body: Any = None) -> Any:
        """Return what the head says to the desk, which shows the token; None if it does not."""
        return self.desk.fetch(f"{SERVER}/api/{path}", body, CLOSED["RAY_AUTH_TOKEN"])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    if reason := require_hosts():
        pytest.skip(reason)
    laid = lay_hosts(tmp_path_factory.mktemp("hosts"), "desk", "head", "node")
    with tempfile.TemporaryDirectory(prefix="ray") as folder, laid as network:
        cluster = Cluster(network, Path(folder))
        cluster.start(cluster.head, "--head", "--dashboard-host=0.0.0.0")
        wait_until(lambda: cluster.is_alive(cluster.head), "the head is there", every_s=0.5)
        cluster.join()
        try_job = {"entrypoint": "true"}
        wait_until(lambda: cluster.ask("jobs/", try_job), "the head takes jobs", every_s=1)
        assert cluster.desk.fetch(f"{SERVER}/api/jobs/") is None  # without the token
        yield cluster


def progress_of(run: Path) -> Progress:
    return load_state(find_checkpoint(run))[0]


def test_a_run_is_stopped_and_goes_on_loses_a_host_and_ends_as_if_undisturbed(
    cluster, hospital, tmp_path
):
    flags = short_run(hospital)
    run, log, log_2 = tmp_path / "run", tmp_path / "log", tmp_path / "log_2"
    line = ("pretrain", *flags, "--output_dir", str(run), "--resume", str(run))
    config = load(flags)

    first = cluster.submit("first", log, *line)
    wait_until(
        lambda: "step " in log.read_text(),
        f"it is followed: {log}",
        unless=lambda: first.poll() is not None,
    )
    for host in (cluster.head, cluster.node):
        assert "TrainWorker" in host.run("ps", "axww")
    cluster.stop("first")
    first.wait(300)
    stopped = progress_of(run)
    assert not stopped.is_finished(config)
    assert f"it goes on with --resume {run}" in log.read_text()

    second = cluster.submit("second", log_2, *line)
    wait_until(
        lambda: step_of(run) >= stopped.global_step + 2 * EVERY,
        f"two more checkpoints: {log_2}",
        unless=lambda: second.poll() is not None,
    )
    cluster.network.cut(cluster.node)
    reached = progress_of(run)
    assert not reached.is_finished(config)
    wait_until(lambda: not cluster.is_alive(cluster.node), "the head misses the node")
    cluster.node.kill_all()
    cluster.network.mend(cluster.node)
    cluster.join()
    assert second.wait(900) == 0, log_2.read_text()[-4000:]
    said = log_2.read_text()
    assert "of the workers failed or were lost: the run goes on from its last checkpoint" in said
    steps = [int(step) for step in re.findall(r"step (\d+)/", said)]
    assert min(steps) > stopped.global_step

    assert_same_run(run, train_on_ranks(2, flags, tmp_path / "calm"))


def test_the_verbs_around_a_run_are_submitted_from_another_host(cluster, hospital, tmp_path):
    data = {"min_count": 2, "unit_rows": 500, "lanes": 4, "sequence_length": 32}
    models = {name: {"mask.policy": name} for name in ("random", "cv")}
    changes = {f"data.{name}": value for name, value in data.items()}
    train_models(hospital, tmp_path, models, **changes)
    flags = [token for name, value in changes.items() for token in (f"--{name}", str(value))]
    lines = {
        "fit_statistics": (),
        "sweep": ("--train.epochs", "1", "--sweep.policies", "random", "cv"),
        "evaluate": (
            *("--evaluate.checkpoints", *(f"{name}={tmp_path / name}" for name in models)),
            *("--evaluate.bootstrap_samples", "20", "--evaluate.min_scored", "10"),
        ),
        "embed": ("--infer.checkpoint", str(tmp_path / "cv")),
    }
    outs = {verb: tmp_path / "out" / verb for verb in lines}
    jobs = {
        verb: cluster.submit(
            verb,
            tmp_path / f"{verb}.log",
            verb,
            *("--base", "tiny", "--data.root", hospital, *flags),
            *("--scaling.num_workers", "2" if verb != "sweep" else "1"),
            *("--output_dir", str(outs[verb])),
            *own,
        )
        for verb, own in lines.items()
    }
    for verb, job in jobs.items():
        assert job.wait(900) == 0, (tmp_path / f"{verb}.log").read_text()[-4000:]

    table = "code_statistics.parquet"
    assert (outs["fit_statistics"] / table).read_bytes() == (
        tmp_path / "statistics" / table
    ).read_bytes()
    trials = pq.read_table(outs["sweep"] / "trials.parquet").to_pylist()
    assert [trial["status"] for trial in trials] == ["finished"] * 2
    results = json.loads((outs["evaluate"] / "results.json").read_text(encoding="utf-8"))
    assert set(models) <= {method["name"] for method in results["methods"]}
    files = (outs["embed"] / "embeddings").glob("*.parquet")
    embedded = sum(pq.read_metadata(path).num_rows for path in files)
    assert embedded == 60
