"""Runs on several nodes that are told to stop, lose a node for good, or are warned of its loss."""

import signal
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cvmae.checkpoint import Progress, find_checkpoint, load_state
from cvmae.command_line import load
from cvmae.synthetic.hospital import SyntheticConfig, write_hospital

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.survival,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc"),
]

from benchmarks.chaos.cluster import ClusterProcess  # noqa: E402
from benchmarks.chaos.processes import leaving_no_process  # noqa: E402
from benchmarks.chaos.runs import Watched, expected_steps, lineage  # noqa: E402

NUM_NODES, CPUS_A_NODE = 2, 3
EVERY = 7  # steps between checkpoints


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterProcess]:
    """Two nodes, each of which holds one worker and the reads beside it."""
    with leaving_no_process(), ClusterProcess(NUM_NODES, CPUS_A_NODE) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    root = write_hospital(
        SyntheticConfig(
            root=str(tmp_path_factory.mktemp("survival") / "meds"), num_subjects=400, num_codes=8
        )
    )
    return [
        *("--base", "tiny", "--data.root", root, "--data.unit_rows", "2000"),
        *("--data.lanes", "4", "--data.min_count", "2", "--train.epochs", "8"),
        *("--scaling.num_workers", "2", "--scaling.cpus_per_worker", str(CPUS_A_NODE - 1)),
        *("--checkpoint.every_steps", str(EVERY)),
    ]


@pytest.fixture(scope="module")
def calm(cluster, flags, tmp_path_factory) -> Watched:
    """The same run, undisturbed."""
    run = Watched(tmp_path_factory.mktemp("runs") / "calm", flags, cluster, NUM_NODES)
    run.finish()
    return run


@pytest.fixture
def start(cluster, flags, calm, tmp_path):
    """Start a run on the statistics of the calm one."""

    def started(*more: str) -> Watched:
        fitted = ["--data.statistics", str(calm.folder / "statistics")]
        return Watched(tmp_path / "run", [*flags, *fitted, *more], cluster, NUM_NODES)

    return started


def progress_of(run: Watched) -> Progress:
    return load_state(find_checkpoint(run.folder))[0]


def assert_same_state(ours: Watched, theirs: Watched) -> None:
    (_, *a), (_, *b) = (load_state(find_checkpoint(run.folder)) for run in (ours, theirs))
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)


def assert_same_losses(ours: Watched, theirs: Watched) -> None:
    our, their = progress_of(ours).history, progress_of(theirs).history
    assert [epoch["step"] for epoch in our] == [epoch["step"] for epoch in their]
    for name in ("train_loss", "tuning_mse"):
        # The same gradients, summed over ranks in another order: about 1e-7 a step, amplified by
        # AdamW's division by small second moments.
        np.testing.assert_allclose(
            [epoch[name] for epoch in our], [epoch[name] for epoch in their], rtol=2e-3
        )


def seen_by(run: Watched, flags: list[str], calm: Watched):
    return lineage(run.logs(), expected_steps(load(flags), calm.folder / "statistics"))


def worlds(run: Watched) -> list[int]:
    """Return the number of workers of each group that the run has had."""
    return [log.world for log in run.logs() if log.rank == 0]


def test_sigterm_to_the_driver_costs_no_step(calm, start, flags):
    run = start()
    run.wait_until(lambda: run.step() >= 10)
    run.driver.send_signal(signal.SIGTERM)
    told_s = time.time()
    assert run.driver.wait(120) == 75
    # Ranks are asked about once a second; the rest is for a busy machine.
    assert find_checkpoint(run.folder).stat().st_mtime - told_s < 20
    assert f"--resume {run.folder}" in run.said()
    stopped = progress_of(run)
    assert not stopped.is_finished(load(flags))
    assert stopped.global_step == run.step() + 1  # notes are taken when a step begins
    run.resume()
    run.finish()
    assert_same_state(calm, run)
    seen = seen_by(run, flags, calm)
    assert (seen.num_repeated, seen.num_lost, seen.num_duplicated) == (0, 0, 0)
    assert worlds(run) == [2, 2]


def test_a_run_shrinks_when_a_node_is_lost_for_good_and_grows_when_one_comes(
    cluster, calm, start, flags
):
    run = start("--scaling.min_workers", "1", "--train.epochs", "8")
    with run.held_at(20):
        run.wait_until(lambda: run.step() >= 10)
        cluster.lose(0)
        run.wait_until(lambda: worlds(run)[-1] == 1 and run.step() >= 20)
        cluster.add()
        run.wait_until(lambda: worlds(run)[-1] == 2)
    run.finish()
    assert worlds(run) == [2, 1, 2]
    seen = seen_by(run, flags, calm)
    assert (seen.num_lost, seen.num_duplicated) == (0, 0)
    assert seen.num_repeated <= 2 * (EVERY + 1)  # for the loss and for the growth
    assert_same_losses(run, calm)


def test_deepspeed_says_that_a_node_is_missing_and_goes_on_with_fewer_as_it_says(
    cluster, calm, start, flags
):
    run = start("--train.strategy", "deepspeed", "--deepspeed.stage", "2")
    with run.held_at(20):  # it must not end before the node is lost
        run.wait_until(lambda: run.step() >= 10)
        cluster.lose(0)
    try:
        way_out = f"--resume {run.folder} --scaling.num_workers 1"
        run.wait_until(lambda: way_out in run.said())
        said = run.said()
        assert "train.strategy=deepspeed and scaling.num_workers=2 it needs 2 workers" in said
        assert "have room for 1" in said
        run.driver.kill()
        run.resume(*way_out.split()[2:])
        run.finish()
    finally:
        cluster.add()
    assert worlds(run) == [2, 1]
    seen = seen_by(run, flags, calm)
    assert (seen.num_lost, seen.num_duplicated) == (0, 0)
    assert_same_losses(run, calm)


def test_a_warning_that_a_node_will_be_lost_brings_a_checkpoint_at_once(
    cluster, calm, start, flags
):
    run = start("--checkpoint.every_steps", "0")
    run.wait_until(lambda: run.step() >= 10)
    cluster.warn(0, 60)
    epochs = {epoch["step"] for epoch in progress_of(calm).history}

    def saved() -> list[int]:
        """Return the steps of checkpoints that are not those of an epoch's end."""
        names = [path.name for path in run.folder.glob("checkpoints/step_*")]
        return [step for name in names if (step := int(name.removeprefix("step_"))) not in epochs]

    run.wait_until(lambda: bool(saved()))
    (step,) = saved()
    cluster.lose(0)
    cluster.add()
    run.finish()
    assert_same_state(calm, run)
    assert worlds(run) == [2, 2]
    assert next(run.group()[0].steps())[0] >= step
    seen = seen_by(run, flags, calm)
    assert (seen.num_lost, seen.num_duplicated) == (0, 0)
