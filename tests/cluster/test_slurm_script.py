"""What the job script of Slurm does on its nodes, with stand-ins for Slurm and for Ray."""

import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.cluster.definitions import CLUSTER

SCRIPT = CLUSTER / "pretrain.slurm"
MOST = 107  # letters of a socket's path that Linux takes
# Below a folder that Ray is given.
SOCKET = "/session_2026-11-30_00-00-00_000000_4194304/sockets/plasma_store"
RAY = """
while [[ $1 != --temp-dir=* ]]; do shift; done
folder=${1#--temp-dir=}
echo "$folder" > "$NOTES/folder"
trap 'sleep 0.5; ls "$folder" > "$NOTES/left"; exit 0' TERM
touch "$folder/log"
echo ready
while [[ -n $STAYS ]]; do sleep 0.1; done
"""


def stand_ins(folder: Path, **programs: str) -> dict[str, str]:
    """Return an environment in which some programs are scripts."""
    for name, text in programs.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "NOTES": str(folder)}


def start_node(environment: dict[str, str], **more: str) -> "subprocess.Popen[str]":
    """Run what the step of a node runs, in a group of processes of its own."""
    text = SCRIPT.read_text(encoding="utf-8")
    start = re.search(r"^ray_start='\n(.*?)'$", text, re.S | re.M)[1]
    own = {"SLURM_JOB_ID": "12345678", "SLURMD_NODENAME": "gpu-node-0123", "STAYS": ""}
    return subprocess.Popen(
        ["bash", "-c", start, "ray", "--head"],
        env=environment | own | {"SLURM_CPUS_ON_NODE": "2"} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_folder_of_ray_is_short_enough_for_sockets_and_removed(tmp_path):
    temporary = tmp_path / "scratch/slurm_tmpdir/job_12345678"
    temporary.mkdir(parents=True)
    node = start_node(stand_ins(tmp_path, ray=RAY), TMPDIR=str(temporary))
    assert node.wait(30) == 0
    folder = Path((tmp_path / "folder").read_text().strip())
    assert len(f"{folder}{SOCKET}") <= MOST
    assert not folder.exists()


def test_the_folder_of_ray_lies_where_the_site_wants_it_if_there_is_room(tmp_path):
    with tempfile.TemporaryDirectory(prefix="site") as short:
        node = start_node(stand_ins(tmp_path, ray=RAY), TMPDIR=short)
        assert node.wait(30) == 0
        folder = Path((tmp_path / "folder").read_text().strip())
        assert folder.parent == Path(short)
        assert folder.name.startswith("ray_12345678_")
        assert list(Path(short).iterdir()) == []


def test_a_step_that_is_ended_waits_for_ray_before_it_removes_its_folder(tmp_path):
    node = start_node(stand_ins(tmp_path, ray=RAY), STAYS="yes")
    assert node.stdout.readline() == "ready\n"
    os.killpg(node.pid, signal.SIGTERM)  # all processes of the step, as Slurm does
    assert node.wait(30) == 143
    assert (tmp_path / "left").read_text() == "log\n"
    assert not Path((tmp_path / "folder").read_text().strip()).exists()


@pytest.mark.parametrize(
    ("codes", "num_calls", "ends_with"),
    [([1, 1, 0], 3, 0), ([0], 1, 0), ([1, 1, 1, 0], 3, 1), ([143], 1, 143)],
)
def test_a_node_on_which_ray_does_not_start_is_tried_three_times(
    codes, num_calls, ends_with, tmp_path
):
    (tmp_path / "codes").write_text("\n".join(map(str, codes)))
    tried = (
        'echo "$1" >> $NOTES/calls\nexit "$(sed -n "$(grep -c start $NOTES/calls)p" $NOTES/codes)"'
    )
    node = start_node(stand_ins(tmp_path, ray=tried, sleep=""))
    _, said = node.communicate(timeout=30)
    assert node.returncode == ends_with
    assert (tmp_path / "calls").read_text().split() == ["start"] * num_calls
    assert said.splitlines() == [
        f"Ray did not start on gpu-node-0123: it ended with 1, try {number} of 3"
        for number in range(1, codes[:num_calls].count(1) + 1)
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [({}, []), ({"SLURM_MEM_PER_NODE": "0"}, []), ({"SLURM_MEM_PER_NODE": "1000"}, ["314572800"])],
)
def test_rays_objects_take_a_share_of_the_memory_that_slurm_gives(given, told, tmp_path):
    node = start_node(stand_ins(tmp_path, ray='echo "$*"'), **given)
    words, _ = node.communicate(timeout=30)
    assert re.findall(r"--object-store-memory=(\d+) --head", words) == told
    assert node.returncode == 0


@pytest.fixture
def slurm(tmp_path) -> dict[str, str]:
    """A job of one node with two addresses, whose driver tells where it looks for Ray."""
    return stand_ins(
        tmp_path,
        scontrol="echo one",
        hostname='echo "172.17.0.1 10.1.0.7 "',
        srun="",
        python='[[ $1 == cluster/await_nodes.py ]] || echo "$1, Ray at $RAY_ADDRESS"',
        squeue="echo RUNNING",
    )


def run_script(environment: dict[str, str], **more: str) -> "subprocess.CompletedProcess[str]":
    own = {"ROOT": "/data", "OUT": "/out", "SLURM_JOB_ID": "3001", "SLURM_JOB_NODELIST": "one"}
    return subprocess.run(
        ["bash", SCRIPT],
        cwd=CLUSTER.parent,
        env=environment | own | more,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("network", "address"), [("", "172.17.0.1"), ("10.1.", "10.1.0.7"), ("10.1.0.7", "10.1.0.7")]
)
def test_the_address_of_the_first_node_is_the_first_or_one_of_a_network(slurm, network, address):
    done = run_script(slurm, NETWORK=network)
    assert f"Ray at {address}:20004\n" in done.stdout, done.stderr
    assert done.returncode == 0


def test_a_network_without_an_address_of_the_first_node_is_refused(slurm):
    done = run_script(slurm, NETWORK="10.2.")
    assert done.returncode == 1
    assert "none of 172.17.0.1 10.1.0.7 begins with NETWORK=10.2.: give" in done.stderr


@pytest.mark.parametrize(
    ("given", "file"), [({}, "jobs/pretrain.py"), ({"VERB": "sweep"}, "jobs/sweep.py")]
)
def test_the_job_is_pretrain_or_another_by_its_verb(slurm, given, file):
    done = run_script(slurm, **given)
    assert f"{file}, Ray at " in done.stdout, done.stderr


def test_a_verb_without_a_job_is_refused(slurm):
    done = run_script(slurm, VERB="train")
    assert done.returncode == 1
    assert done.stderr.startswith("no jobs/train.py in ")
