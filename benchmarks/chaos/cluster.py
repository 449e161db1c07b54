"""A Ray cluster of several nodes on one machine, in a process of its own, whose nodes get lost."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import cvmae

__all__ = ["ClusterProcess", "environment", "serve"]

MARK = "cvmae-chaos "
# Loopback: whoever reaches a Ray runs what he likes on its machine. Not 127.0.0.1, in place of
# which Ray's clients take the machine's address in the network.
COMMON: dict[str, Any] = {"object_store_memory": 256 << 20, "node_ip_address": "127.0.0.2"}

# Others on the machine reach loopback, too, and some of Ray's ports are open to the network
# whatever address it is given: the token keeps them out.
CLOSED = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

# A node that is lost is missed after seconds.
QUICK = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that shall find this package, and this cluster alone."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    places = [str(Path(cvmae.__file__).parents[1]), kept.get("PYTHONPATH", "")]
    return kept | QUICK | CLOSED | {"PYTHONPATH": os.pathsep.join(filter(None, places))} | more


class ClusterProcess:
    """The process that holds the cluster, from outside; it ends when its input is closed."""

    def __init__(self, num_nodes: int, cpus_a_node: int) -> None:
        code = "from benchmarks.chaos.cluster import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(num_nodes), str(cpus_a_node)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
            start_new_session=True,  # Ctrl-C is for us
        )
        self.address = str(self._answer()["address"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._pipe(self._process.stdin).close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def lose(self, number: int) -> None:
        """Kill all processes of a node."""
        self._ask(f"lose {number}")

    def warn(self, number: int, seconds: int) -> None:
        """Tell Ray that a node will be taken away, as a cloud does; `lose` it then."""
        self._ask(f"warn {number} {seconds}")

    def add(self) -> None:
        """Add a node, as a replacement."""
        self._ask("add")

    def _ask(self, line: str) -> None:
        pipe = self._pipe(self._process.stdin)
        pipe.write(f"{line}\n")
        pipe.flush()
        self._answer()

    def _answer(self) -> dict[str, Any]:
        for line in self._pipe(self._process.stdout):
            if line.startswith(MARK):  # Ray writes there, too
                answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return answer
        raise ChildProcessError("the Ray cluster of the suite chaos ended by itself")

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def serve() -> None:
    """Start a head without CPUs and some nodes, then do with them what the input says."""
    from ray.cluster_utils import Cluster

    from cvmae.runtime.ray_hooks import drain_node

    num_nodes, cpus = map(int, sys.argv[1:])
    head = {"num_cpus": 0, "include_dashboard": False, **COMMON}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [_add_node(cluster, cpus) for _ in range(num_nodes)]
        _say({"address": cluster.address})
        for line in sys.stdin:
            match line.split():
                case ["lose", number]:
                    cluster.remove_node(nodes.pop(int(number)), allow_graceful=False)
                case ["warn", number, seconds]:
                    drain_node(cluster.address, nodes[int(number)].node_id, int(seconds))
                case ["add"]:
                    nodes.append(_add_node(cluster, cpus))
            _say({})
    finally:
        cluster.shutdown()


def _add_node(cluster: Any, cpus: int) -> Any:
    return cluster.add_node(num_cpus=cpus, **COMMON)


def _say(answer: dict[str, Any]) -> None:
    print(f"{MARK}{json.dumps(answer)}", flush=True)
