"""The hosts that other tests stand on: cables are pulled, and nothing outlives a run."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos.processes import is_alive
from tests.integration.hosts import lay_hosts, require_hosts, wait_until

pytestmark = pytest.mark.survival

REPOSITORY = Path(__file__).parents[2]
LAY = """
import sys, time
from pathlib import Path
from tests.integration.hosts import lay_hosts
with lay_hosts(Path(sys.argv[1]), "one", "two") as network:
    network.hosts[0].enter(["sleep", "infinity"])
    print(*(host.pid for host in network.hosts), flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _hosts() -> None:
    if reason := require_hosts():
        pytest.skip(reason)


def test_hosts_reach_each_other_by_their_cables_alone(tmp_path):
    (tmp_path / "said").write_text('"hello"')
    serve = [sys.executable, "-m", "http.server", "8000", "--directory", str(tmp_path)]
    with lay_hosts(tmp_path, "one", "two") as network:
        one, two = network.hosts
        assert one.run("hostname").strip() == "one"
        one.enter(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: two.fetch("http://one:8000/said") == "hello", "an answer", within_s=30)
        network.cut(two)
        assert two.fetch("http://one:8000/said") is None
        network.mend(two)
        assert two.fetch("http://one:8000/said") == "hello"
        one.kill_all()
        assert two.fetch("http://one:8000/said") is None
        assert one.run("ps", "-A", "-o", "pid=").split()[0] == "1"


def test_nothing_is_left_of_hosts_whose_tests_are_killed_and_others_do_not_meet_them(tmp_path):
    folder = tmp_path / "killed"
    folder.mkdir()
    command = [sys.executable, "-c", LAY, str(folder)]
    with (
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as tests,
        lay_hosts(tmp_path, "one", "two") as network,  # of the same names and addresses
    ):
        try:
            pids = [int(pid) for pid in tests.stdout.readline().split()]
            assert len(pids) == 2
            assert network.hosts[0].run("ps", "axww").count("sleep infinity") == 1  # its own
        finally:
            tests.kill()
        tests.wait()
        wait_until(lambda: not any(map(is_alive, pids)), "the killed ones' hosts end", within_s=30)
        assert all(is_alive(host.pid) for host in network.hosts)
