"""Hosts on this machine: each has a network, a name and processes of its own, and a cable.

A host is a process that sleeps in namespaces of its own; what runs there has entered them. Nothing
of it has a name outside: it ends with the tests, however they end, and two runs never meet.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPACES = ("--net", "--uts", "--mount", "--pid")
TOOLS = ("ip", "nsenter", "setpriv", "unshare")
# A name of one's own that leads to loopback, as many an image of a cloud has it; and no DNS.
BEGIN = """
hostname "$1"
ip link set lo up
mount --bind "$2" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
echo ready
exec env --ignore-signal=CHLD sleep infinity  # so the orphans of this host are waited for
"""
FETCH = """
import sys, urllib.request as web
url, body, *token = sys.argv[1:]
head = {"Content-Type": "application/json"} | {"Authorization": f"Bearer {t}" for t in token}
print(web.urlopen(web.Request(url, body.encode() or None, head), timeout=10).read().decode())
"""


def require_hosts() -> str:
    """Return why hosts cannot be laid here, '' where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root, for namespaces"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(absent)} (Debian: iproute2, util-linux)"
    trial = "ip link add name v0 type veth peer name v1 && ip link add name b0 type bridge"
    tried = subprocess.run(
        ["unshare", *SPACES, "--fork", "--mount-proc", "sh", "-c", trial],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces can be made: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass(frozen=True)
class Host:
    """A host; its processes are those that `enter` starts, and theirs."""

    name: str
    address: str
    sleeper: "subprocess.Popen[str]"

    @property
    def pid(self) -> int:
        """Return the number, outside, of its first process."""
        children = Path(f"/proc/{self.sleeper.pid}/task/{self.sleeper.pid}/children")
        return int(children.read_text(encoding="ascii"))

    def enter(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        """Start a process there; a signal to what is returned does not reach it."""
        return subprocess.Popen(
            ["nsenter", "--target", str(self.pid), *SPACES, *command], text=True, **options
        )

    def run(self, *command: str, **options: Any) -> str:
        """Run a command there to its end; return what it prints.

        Raises:
            AssertionError: It failed; with what it has printed.
        """
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = self.enter(command, **piped, **options)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"{command}: {said[-4000:]}"
        return said

    def fetch(self, url: str, body: Any = None, *token: str) -> Any:
        """Return what a server says to this host; None if it does not answer or refuses."""
        text = json.dumps(body) if body is not None else ""
        asked = [sys.executable, "-S", "-c", FETCH, url, text, *token]
        process = self.enter(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        said, _ = process.communicate(timeout=60)
        return json.loads(said) if process.returncode == 0 else None

    def kill_all(self) -> None:
        """Kill every process of the host at once, as a loss of power does."""
        self.enter(["kill", "-KILL", "-1"]).wait(60)


@dataclass(frozen=True)
class Network:
    """Hosts joined by a switch."""

    hosts: tuple[Host, ...]
    switch: Host

    def cut(self, host: Host) -> None:
        """Pull a host's cable."""
        _ip(self.switch, "link", "set", host.name, "down")

    def mend(self, host: Host) -> None:
        """Put it back."""
        _ip(self.switch, "link", "set", host.name, "up")


@contextmanager
def lay_hosts(folder: Path, *names: str) -> Iterator[Network]:
    """Lay hosts of these names, which know each other by name; in the end nothing is left.

    Args:
        folder: For their files.
        *names: Of at most 15 letters, that of the switch is taken.
    """
    addresses = {name: f"198.18.0.{number}" for number, name in enumerate(names, start=1)}
    known = [f"{address} {name}" for name, address in addresses.items()]
    begun: list[Host] = []
    try:
        for name in ("switch", *names):
            own = ["127.0.0.1 localhost", f"127.0.1.1 {name}"]
            table = folder / f"hosts_{name}"
            table.write_text("\n".join([*own, *known]) + "\n", encoding="ascii")
            begun.append(Host(name, addresses.get(name, ""), _sleeper(name, table)))
            assert begun[-1].sleeper.stdout.readline() == "ready\n"
        switch, *hosts = begun
        _ip(switch, "link", "add", "name", "bridge", "type", "bridge")
        _ip(switch, "link", "set", "bridge", "up")
        for host in hosts:
            _join(host, switch)
        yield Network(tuple(hosts), switch)
    finally:
        for host in begun:
            host.sleeper.kill()
            host.sleeper.wait()


def _sleeper(name: str, table: Path) -> "subprocess.Popen[str]":
    # Each ends with the one before: the first with the tests, the last with all of the host.
    spaces = ["unshare", *SPACES, "--fork", "--kill-child", "--mount-proc"]
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *spaces, "sh", "-c", BEGIN, "sh", name, str(table)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the tests
    )


def _join(host: Host, switch: Host) -> None:
    cable = ["type", "veth", "peer", "name", "eth0", "netns", str(host.pid)]
    _ip(switch, "link", "add", "name", host.name, *cable)
    _ip(switch, "link", "set", host.name, "master", "bridge", "up")
    _ip(host, "address", "add", f"{host.address}/24", "dev", "eth0")
    _ip(host, "link", "set", "eth0", "up")
    _ip(host, "route", "add", "default", "dev", "eth0")


def _ip(host: Host, *command: str) -> None:
    """Change a host's network, from where the processes of all hosts have numbers."""
    enter = ["nsenter", "--target", str(host.pid), "--net"]
    subprocess.run([*enter, "ip", *command], check=True)


def wait_until(
    happens: Callable[[], bool],
    what: str,
    *,
    unless: Callable[[], bool] = lambda: False,
    within_s: float = 900,
    every_s: float = 0.05,
) -> None:
    """Wait for something, or say what did not happen, at once if it cannot any more."""
    deadline = time.monotonic() + within_s
    while not happens():
        assert not unless(), f"over before: {what}"
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(every_s)
