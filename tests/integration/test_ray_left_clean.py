"""What a run or a sweep that ends badly leaves in a Ray that lives on, beside another Ray."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cvmae.config import Config
from cvmae.sweep.driver import sweep
from cvmae.train.pretrain import pretrain

ray = pytest.importorskip("ray")
from cvmae.train import workers  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.survival]

OTHER_RAY = """
import ray, sys
ray.init(address="local", num_cpus=1, logging_level="error")
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def two_rays() -> Iterator[None]:
    """A local Ray as the jobs start it, and another that is not to be taken for it."""
    from cvmae.runtime.start_ray import start_ray
    from cvmae.settings import ScalingConfig

    ray.shutdown()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER_RAY],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline()
        start_ray(ScalingConfig(num_workers=2))
        yield
    finally:
        ray.shutdown()
        other.communicate(timeout=60)


@pytest.fixture
def long_run(tiny: Config) -> Config:
    """A run that does not end by itself, and that a worker's loss ends."""
    return replace(
        tiny,
        train=replace(tiny.train, epochs=500, batch_sequences=8),
        scaling=replace(tiny.scaling, num_workers=2, max_failures=0),
    )


def own_processes(name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if name in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


@contextmanager
def once_there_is(folder: Path, pattern: str, act: Callable[[], object]) -> Iterator[None]:
    """Act in another thread when a path of the pattern appears."""
    ended = threading.Event()

    def wait() -> None:
        while not ended.wait(0.05):
            if list(folder.glob(pattern)):
                act()
                return

    hand = threading.Thread(target=wait)
    hand.start()
    try:
        yield
    finally:
        ended.set()
        hand.join()


def assert_all_is_given_back() -> None:
    total = ray.cluster_resources()["CPU"]
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        left = own_processes("RayTrainWorker")
        free = ray.available_resources().get("CPU", 0.0)
        # Tune keeps the hundredth of a CPU that an interrupted trial's driver had.
        if not left and free > total - 0.1:
            return
        time.sleep(0.5)
    raise AssertionError(f"{len(left)} workers live, {free:g} of {total:g} CPUs are free")


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def ctrl_c_twice() -> None:
    ctrl_c()
    while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        time.sleep(0.05)  # until the first has been seen: two at once are one
    ctrl_c()


def test_a_second_ctrl_c_stops_the_workers_of_a_process_that_lives_on(long_run, monkeypatch):
    monkeypatch.setattr(workers, "put_note", lambda name: None)  # they do not see the first
    with (
        once_there_is(Path(long_run.output_dir), "checkpoints/step_*", ctrl_c_twice),
        pytest.raises(KeyboardInterrupt) as interrupted,
    ):
        pretrain(long_run)
    assert interrupted.traceback  # held, as a notebook holds the last one
    assert_all_is_given_back()


def test_ctrl_c_stops_the_trials_of_a_sweep_in_a_process_that_lives_on(long_run):
    config = replace(long_run, sweep=replace(long_run.sweep, policies=("random",)))
    trials = Path(config.output_dir) / "trials"
    with (
        once_there_is(trials, "*/checkpoints/step_*", ctrl_c),
        pytest.raises(KeyboardInterrupt) as interrupted,
    ):
        sweep(config)
    assert interrupted.traceback
    assert_all_is_given_back()


def test_what_a_lost_controller_held_is_given_back_though_another_ray_is_there(long_run):
    def lose_controller() -> None:
        (controller,) = own_processes("TrainController")
        controller.kill()

    with (
        once_there_is(Path(long_run.output_dir), "checkpoints/step_*", lose_controller),
        pytest.raises(ChildProcessError, match="--resume"),
    ):
        pretrain(long_run)
    assert_all_is_given_back()
