"""Fixtures that every room of the tests may use."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

# Before torch is imported, which reads it then: several lanes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    # Kernels are then run by Triton's interpreter, which it decides on where they are defined.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from cvmae.config import PRESETS, Config
from cvmae.settings import ScalingConfig
from cvmae.synthetic.hospital import SyntheticConfig, write_hospital
from tests.blank_figures import blank, drawing
from tests.meds_writer import write_meds
from tests.ray_head import RayHead, start_head

__all__ = ["write_meds"]

# Said to the shared Ray and to who joins it: left alone, one side turns tokens on, one does not.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Ray's processes would else give way to those of other lanes, and theirs would be the longest.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(autouse=True)
def _interruptible() -> None:
    """Let Ctrl-C act as usual: tests send it to themselves.

    A shell lets what it starts in the background ignore it, and Ray Tune leaves a handler behind.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _blank_figures() -> Iterator[None]:
    with blank():
        yield


@pytest.fixture(scope="module")
def drawn() -> Iterator[None]:
    """Draw figures in a module whose tests are about them."""
    with drawing():
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """Randomness of a test: any value of CVMAE_TEST_SEED must pass."""
    return np.random.default_rng(int(os.environ.get("CVMAE_TEST_SEED", "0")))


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A synthetic hospital of 60 subjects and 8 codes."""
    root = tmp_path_factory.mktemp("hospital") / "meds"
    return write_hospital(
        SyntheticConfig(
            root=str(root), num_subjects=60, num_codes=8, median_measurements=60, num_shards=3
        )
    )


@pytest.fixture(scope="session")
def ray_head() -> Iterator[RayHead]:
    """The Ray of all tests that neither take nodes away nor ask how a local Ray is started."""
    ray = pytest.importorskip("ray")
    with start_head() as head:
        yield head
        ray.shutdown()


@pytest.fixture(scope="module")
def shared_ray(ray_head: RayHead) -> Iterator[None]:
    """Join the shared Ray as the jobs join a cluster; also what is started meanwhile joins it.

    Who has joined stays for the modules that follow, whose tasks then find processes that have
    imported what they need, unless something of the module before is still held.
    """
    import ray

    from cvmae.runtime.start_ray import start_ray

    if not _is_free(ray_head):
        ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", ray_head.address)
        start_ray(ScalingConfig(num_workers=2))
        yield


def _is_free(head: RayHead) -> bool:
    """Tell whether this process has joined a head and holds none of its CPUs."""
    import ray

    if not ray.is_initialized() or ray.get_runtime_context().gcs_address != head.address:
        return False
    total = ray.cluster_resources()["CPU"]
    deadline_s = time.monotonic() + 5
    while ray.available_resources().get("CPU", 0.0) < total:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.2)
    return True


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real MEDS data sets that CVMAE_REAL_DATA names."""
    folder = os.environ.get("CVMAE_REAL_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data not found: set CVMAE_REAL_DATA to the folder of the MEDS data sets")
    return Path(folder)


@pytest.fixture
def tiny(hospital: str, tmp_path: Path) -> Config:
    """Settings of a run of seconds, in this process."""
    base = PRESETS["tiny"]
    return replace(
        base,
        output_dir=str(tmp_path / "run"),
        data=replace(
            base.data, root=hospital, min_count=2, unit_rows=500, sequence_length=32, lanes=4
        ),
        train=replace(base.train, batch_sequences=16),
        scaling=replace(base.scaling, num_workers=0),
    )
