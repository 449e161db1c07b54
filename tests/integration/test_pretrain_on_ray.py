"""Pretraining on Ray: the same data and losses as without it; killed workers; the Jobs API."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from cvmae.batches.bricks import iterate_steps, stream_bricks
from cvmae.checkpoint import Progress, find_checkpoint, load_state
from cvmae.config import Config, write_config
from cvmae.runtime.preemption import PreemptedError
from cvmae.train.pretrain import pretrain
from cvmae.train.streams import make_plan
from tests.integration.interrupts import ctrl_c_once_there_is
from tests.prepared import fit, training_data

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


@pytest.fixture
def on_ray(tiny: Config) -> Config:
    return replace(
        tiny,
        train=replace(tiny.train, epochs=2, batch_sequences=8),
        scaling=replace(tiny.scaling, num_workers=2),
    )


@pytest.fixture
def long(on_ray: Config) -> Config:
    """Settings of a run that lasts until it is disturbed."""
    return replace(
        on_ray,
        train=replace(on_ray.train, epochs=8),
        checkpoint=replace(on_ray.checkpoint, every_steps=3),
    )


@pytest.fixture(scope="module")
def calm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calm") / "run"


@pytest.fixture
def calm(long: Config, calm_folder: Path) -> str:
    """The same run, undisturbed: once for all tests that compare with it."""
    if not calm_folder.exists():
        pretrain(replace(long, output_dir=str(calm_folder)))
    return str(calm_folder)


def progress_of(run: str | Path) -> Progress:
    return load_state(find_checkpoint(run))[0]


def test_ray_data_delivers_the_bricks_of_the_plain_generator(on_ray):
    from cvmae.batches.on_ray import Cursor, brick_dataset, ray_bricks

    for rows in (500, 60):
        config = replace(on_ray, data=replace(on_ray.data, unit_rows=rows, lanes=2))
        plan = make_plan(config, training_data(config))
        dataset = brick_dataset(plan.train_reader, plan.train_order, plan.units)
        dataset.context.execution_options.preserve_order = True
        for epoch, rank in ((0, 0), (1, 1)):
            weight_C = plan.train_reader.weight_C
            cursor = Cursor(epoch=epoch, step=0, rank=rank, world=2, weight_C=weight_C)
            ours = list(ray_bricks(dataset.iterator(), cursor))
            plain = list(
                stream_bricks(
                    plan.train_reader, plan.train_order, plan.units, epoch=epoch, rank=rank, world=2
                )
            )
            assert len(ours) == len(plain) > 0
            for a, b in zip(ours, plain, strict=True):
                for name, value in vars(b).items():
                    found = getattr(a, name)
                    np.testing.assert_array_equal(found, value)
                    assert np.asarray(found).dtype == np.asarray(value).dtype


def test_broken_data_is_refused_in_one_line_as_without_ray(on_ray, tmp_path, capfd):
    root = Path(shutil.copytree(on_ray.data.root, tmp_path / "broken"))
    shard = sorted((root / "data").rglob("*.parquet"))[0]
    table = pq.read_table(shard)
    pq.write_table(table.take(list(range(table.num_rows - 1, -1, -1))), shard)
    with pytest.raises(ValueError, match="row ") as caught:
        fit(replace(on_ray, data=replace(on_ray.data, root=str(root))))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_two_workers_lose_what_one_process_loses(by_two, by_two_done):
    alone = pretrain(replace(by_two, scaling=replace(by_two.scaling, num_workers=0)))
    ours, theirs = progress_of(by_two_done).history, progress_of(alone).history
    assert len(ours) == 3
    assert [e["step"] for e in ours] == [e["step"] for e in theirs]
    for name in ("train_loss", "tuning_mse"):
        # The same gradients, summed over two ranks in another order: about 1e-6 a step,
        # amplified by AdamW's division by small second moments.
        np.testing.assert_allclose(
            [e[name] for e in ours], [e[name] for e in theirs], rtol=1e-3, err_msg=name
        )


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("deepspeed", marks=pytest.mark.survival)])
def test_a_loss_that_explodes_ends_all_workers_with_step_and_batch(on_ray, strategy):
    optim = replace(on_ray.optim, lr=1e30, schedule="constant", warmup_steps=0)
    config = replace(
        on_ray,
        optim=optim,
        train=replace(on_ray.train, strategy=strategy),
        checkpoint=replace(on_ray.checkpoint, every_steps=1),
    )
    plan = make_plan(config, training_data(config))
    digests = []
    for rank in range(2):
        bricks = stream_bricks(
            plan.train_reader, plan.train_order, plan.units, epoch=0, rank=rank, world=2
        )
        _, (batch,), *_ = iterate_steps(bricks, lanes=2)
        digests.append(int(batch.digest()[:10], 16))
    said = rf"at step 2 of the run \(batch {sum(digests):x}, 2 ranks\).* last good checkpoint"
    with pytest.raises(FloatingPointError, match=said):
        pretrain(config)
    # The first update is as large as can be; its weights were still finite.
    assert progress_of(config.output_dir).global_step == 1


@pytest.mark.survival
@pytest.mark.slow
def test_deepspeed_trains_on_ray_and_hands_over_to_ddp(on_ray, tmp_path):
    """Its checkpoint is like any other: evaluated, resumed under DDP, by one process."""
    alone = replace(
        on_ray,
        output_dir=str(tmp_path / "alone"),
        scaling=replace(on_ray.scaling, num_workers=0),
    )
    pretrain(alone)
    config = replace(
        on_ray,
        train=replace(on_ray.train, strategy="deepspeed"),
        deepspeed=replace(on_ray.deepspeed, stage=2),
        checkpoint=replace(on_ray.checkpoint, keep=10),
    )
    pretrain(config)
    ours, theirs = progress_of(config.output_dir), progress_of(alone.output_dir)
    for name in ("train_loss", "tuning_mse"):
        np.testing.assert_allclose(
            [entry[name] for entry in ours.history],
            [entry[name] for entry in theirs.history],
            rtol=1e-4,  # sums in another order, over tens of steps
        )
    newest = find_checkpoint(config.output_dir)
    shutil.rmtree(newest)
    shutil.rmtree(newest.with_name("best"), ignore_errors=True)
    resumed = replace(
        alone, resume=config.output_dir, output_dir=config.output_dir, data=config.data
    )
    pretrain(resumed)
    again = progress_of(config.output_dir)
    assert again.global_step == ours.global_step
    assert again.history[-1]["tuning_mse"] == pytest.approx(
        ours.history[-1]["tuning_mse"], rel=1e-3
    )


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.survival
def test_a_killed_worker_is_replaced_and_the_weights_are_those_of_an_undisturbed_run(
    long, calm, tmp_path, capfd
):
    disturbed = str(tmp_path / "disturbed")
    killed = threading.Event()

    def kill_a_worker() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            steps = sorted(Path(disturbed, "checkpoints").glob("step_*"))
            workers = [
                p
                for p in psutil.Process().children(recursive=True)  # not of another Ray here
                if "RayTrainWorker" in name_of(p)
            ]
            if len(steps) and len(workers) == 2:
                os.kill(workers[-1].pid, signal.SIGKILL)
                killed.set()
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    pretrain(replace(long, output_dir=disturbed))
    killer.join()
    assert killed.is_set()
    said = r"[12] of the workers failed or were lost: .* when there is room for 2, up to"
    assert re.search(said, "".join(capfd.readouterr()))
    ours, theirs = (
        load_file(find_checkpoint(run) / "model.safetensors") for run in (calm, disturbed)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [e["train_loss"] for e in progress_of(calm).history] == [
        e["train_loss"] for e in progress_of(disturbed).history
    ]


@pytest.mark.survival
def test_ctrl_c_ends_a_run_on_ray_after_a_checkpoint(on_ray):
    config = replace(on_ray, train=replace(on_ray.train, epochs=500))
    run = Path(config.output_dir)
    with (
        ctrl_c_once_there_is(run, "checkpoints/step_*"),
        pytest.raises(PreemptedError, match=r"checkpoint at step (\d+) of ") as stopped,
    ):
        pretrain(config)
    assert f"at step {progress_of(run).global_step} of" in str(stopped.value)


def wait_for_checkpoint(run: Path, process: "subprocess.Popen[bytes]", step: int) -> None:
    """Wait until a run has written a checkpoint at a global step or later."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        steps = [int(p.name.removeprefix("step_")) for p in run.glob("checkpoints/step_*")]
        if max(steps, default=0) >= step:
            return
        time.sleep(0.02)
    raise AssertionError("no checkpoint in 240 s")


@pytest.mark.survival
def test_a_killed_driver_resumes_exactly_also_with_another_number_of_workers(long, calm, tmp_path):
    config = replace(long, output_dir="")
    write_config(config, tmp_path / "base.yaml")
    killed = tmp_path / "killed"
    driver = subprocess.Popen(
        [sys.executable, "jobs/pretrain.py", "--base", str(tmp_path / "base.yaml"),
         "--output_dir", str(killed)],
        cwd=Path(__file__).parents[2],
        # A Ray of its own, as without a cluster, which ends with it.
        env={k: v for k, v in os.environ.items() if k not in {"RAY_ADDRESS", "RAY_AUTH_MODE"}},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_checkpoint(killed, driver, step=20)
    finally:
        driver.kill()
        driver.wait()
    time.sleep(3)  # its workers notice that the driver is gone
    begun = progress_of(killed)
    assert begun.epoch < 8
    other = Path(shutil.copytree(killed, tmp_path / "other"))

    same = replace(config, output_dir=str(killed), resume=str(killed))
    pretrain(same)
    ours, theirs = (load_file(find_checkpoint(r) / "model.safetensors") for r in (calm, killed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    four = replace(same.scaling, num_workers=4)
    pretrain(replace(same, output_dir=str(other), resume=str(other), scaling=four))
    losses = [[e["train_loss"] for e in progress_of(run).history] for run in (calm, other)]
    # The same steps of data; only the order of float32 sums over ranks differs.
    np.testing.assert_allclose(losses[0], losses[1], rtol=5e-3)
