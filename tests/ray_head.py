"""The Ray that tests share: a head of its own on this machine, which they join and leave."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class RayHead:
    """Where it is found."""

    address: str  # for `RAY_ADDRESS`
    jobs: str  # for `ray job submit --address`
    agent: str  # of its node
    logs: Path  # of all its processes
    own: Mapping[str, str]  # what it has in its environment, and who talks to it needs in his


@contextmanager
def start_head(num_cpus: int = 8, **own: str) -> Iterator[RayHead]:
    """Start a head with as many logical CPUs as the jobs give a local Ray, and end it.

    Its job agent listens on a port of its own: one of another Ray of this machine, or of another
    node, would keep it from taking jobs.

    Args:
        num_cpus: Logical ones.
        **own: Variables of its environment, such as a token.
    """
    port, dashboard_port, agent_port = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # short: sockets live in it
        head = subprocess.Popen(
            [
                str(BIN / "ray"), "start", "--head", "--block", f"--num-cpus={num_cpus}",
                f"--port={port}", f"--dashboard-port={dashboard_port}", f"--temp-dir={folder}",
                "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
                f"--dashboard-agent-listen-port={agent_port}",
                f"--object-store-memory={512 << 20}",
            ],
            env=outside() | own,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_for(dashboard_port, head)
            yield RayHead(
                address=f"127.0.0.1:{port}",
                jobs=f"http://127.0.0.1:{dashboard_port}",
                agent=f"http://127.0.0.1:{agent_port}",
                logs=Path(folder, "session_latest", "logs"),
                own=own,
            )
        finally:
            _end(head)


@contextmanager
def start_node(head: RayHead, num_cpus: int) -> Iterator[None]:
    """Let another node of this machine join a head, and end it.

    It has a folder of its own: each node unpacks what is submitted, in the place of what is there.
    """
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        node = subprocess.Popen(
            [
                str(BIN / "ray"), "start", f"--address={head.address}", "--block",
                f"--num-cpus={num_cpus}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}",
                f"--dashboard-agent-listen-port={free_port()}",
                f"--object-store-memory={256 << 20}",
            ],
            env=outside(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield
        finally:
            _end(node)


def await_job_agent(head: RayHead) -> None:
    """Wait until a head takes jobs: the dashboard answers some seconds before the job agent."""
    from ray.job_submission import JobSubmissionClient

    token = head.own.get("RAY_AUTH_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else None
    deadline = time.monotonic() + 120
    while True:
        try:
            JobSubmissionClient(head.jobs, headers=headers).submit_job(entrypoint="true")
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1)


def outside() -> dict[str, str]:
    """Return the environment of a shell beside the tests, in which Ray behaves as under the jobs.

    What `start_ray` sets reaches the workers of a local Ray alone, whose processes inherit it.
    """
    environment = {k: v for k, v in os.environ.items() if k not in {"RAY_ADDRESS", "PYTHONPATH"}}
    return environment | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # 30: nothing has to move elsewhere first
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _end(node: "subprocess.Popen[bytes]") -> None:
    node.send_signal(signal.SIGTERM)
    try:
        node.wait(timeout=60)
    except subprocess.TimeoutExpired:
        node.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for(port: int, head: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert head.poll() is None, "ray start ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("the dashboard did not come up in 300 s")
