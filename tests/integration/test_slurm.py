"""The job script for Slurm, run by a Slurm of two hosts: preempted, queued again, finished."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cvmae.checkpoint import find_checkpoint, load_state
from cvmae.command_line import load
from tests.integration.by_ranks import (
    CPUS,
    EVERY,
    assert_same_run,
    short_run,
    step_of,
    train_on_ranks,
)
from tests.integration.hosts import Host, Network, lay_hosts, require_hosts, wait_until
from tests.ray_head import outside

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.survival]

REPOSITORY = Path(__file__).parents[2]
TOOLS = ("munged", "sbatch", "slurmctld", "slurmd")
# Credentials that expire soon: a job that is queued again waits until the old ones have.
CONFIGURATION = """
ClusterName=test
SlurmctldHost=desk({desk})
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=10
JobRequeue=1
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A queue on a desk, and two hosts that work it off."""

    network: Network
    folder: Path

    @property
    def desk(self) -> Host:
        return self.network.hosts[0]

    def run(self, *command: str, **more: str) -> str:
        """Run a command of Slurm on the desk; return what it prints."""
        own = {"SLURM_CONF": str(self.folder / "slurm.conf"), "TMPDIR": str(self.folder)}
        return self.desk.run("env", f"--chdir={REPOSITORY}", *command, env=outside() | own | more)

    def start(self) -> None:
        """Start Slurm's daemons, and wait until both hosts can be given jobs."""
        desk, *hosts = self.network.hosts
        nodes = [
            f"NodeName={host.name} NodeAddr={host.address} CPUs={CPUS + 1} RealMemory=4000"
            for host in hosts
        ]
        facts = {"desk": desk.address, "folder": self.folder, "nodes": "\n".join(nodes)}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**facts), encoding="ascii")
        (self.folder / "state").mkdir()
        (self.folder / "munge.key").write_bytes(os.urandom(64))
        (self.folder / "munge.key").chmod(0o600)
        own = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
        files = [f"--{flag}={self.folder}/munge.{end}" for flag, end in own.items()]
        self._serve(desk, "munged", "--foreground", "--force", *files)
        wait_until((self.folder / "munge.socket").exists, "munged takes calls")
        self._serve(desk, "slurmctld", "-D")
        for host in hosts:
            (self.folder / f"spool_{host.name}").mkdir()
            self._serve(host, "slurmd", "-D", "-N", host.name)
        idle = "sinfo --noheader --Node --format=%T || true"
        wait_until(
            lambda: self.run("bash", "-c", idle).split() == ["idle"] * len(hosts),
            f"both hosts are idle: {self.folder}",
            every_s=0.5,
        )

    def _serve(self, host: Host, *command: str) -> None:
        environment = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}
        with (self.folder / f"{host.name}_{command[0]}.out").open("w") as out:
            host.enter(command, env=environment, stdout=out, stderr=out)

    def told(self, job: str) -> dict[str, Any]:
        """Return what the queue says of a job."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    if reason := require_hosts():
        pytest.skip(reason)
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"needs {', '.join(absent)} (Debian: slurm-wlm, munge)")
    laid = lay_hosts(tmp_path_factory.mktemp("hosts"), "desk", "one", "two")
    # Short: Ray's sockets lie in it, too.
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, laid as network:
        slurm = Slurm(network, Path(folder))
        slurm.start()
        yield slurm


def test_a_job_on_two_hosts_is_preempted_queued_again_and_ends_as_if_undisturbed(
    slurm, hospital, tmp_path
):
    run, log = tmp_path / "run", tmp_path / "log"
    flags = short_run(hospital)
    job = slurm.run(
        *("sbatch", "--parsable", f"--cpus-per-task={CPUS}", "--mem=3000", f"--output={log}"),
        *("cluster/pretrain.slurm", *flags),
        ROOT=hospital,
        OUT=str(run),
        NETWORK="198.18.",  # of the cables, as a site names it
    ).strip()

    def is_over() -> bool:
        return slurm.told(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL")

    wait_until(lambda: step_of(run) >= 2 * EVERY, f"two checkpoints: {log}", unless=is_over)
    _, *hosts = slurm.network.hosts
    for host in hosts:
        processes = host.run("ps", "axww")
        assert "TrainWorker" in processes
        assert "--object-store-memory=943718400" in processes  # 0.3 of --mem
    assert len(list(slurm.folder.glob("ray_*"))) == len(hosts)
    slurm.run("scancel", "--batch", "--signal=TERM", job)  # as before a preemption
    wait_until(
        lambda: slurm.told(job)["JobState"] == "PENDING", f"queued again: {log}", unless=is_over
    )
    stopped = load_state(find_checkpoint(run))[0]
    assert not stopped.is_finished(load(flags))
    assert "the driver ended with 75" in log.read_text()

    wait_until(is_over, f"it ends: {log}", every_s=1)
    told = slurm.told(job)
    assert (told["JobState"], told["Restarts"]) == ("COMPLETED", "1"), log.read_text()[-4000:]
    wait_until(lambda: not list(slurm.folder.glob("ray_*")), "Ray's folders are removed")
    assert_same_run(run, train_on_ranks(2, flags, tmp_path / "calm"))
