"""Ray Data and Ray Train go on exactly when a node is lost.

The nodes are started here, since a lost one is missed by all who share a Ray.
"""

import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cvmae.batches.bricks import iterate_steps
from cvmae.checkpoint import find_checkpoint, load_state
from cvmae.train.pretrain import pretrain

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.survival]

from tests.integration.ray_cluster import add_node, cluster_of, start_processes  # noqa: E402
from tests.integration.streams import (  # noqa: E402
    digests,
    middle_of,
    on_ray,
    plain_digests,
    planned,
)


@pytest.fixture(scope="module")
def cluster():
    with cluster_of(1) as nodes:
        yield nodes


def test_a_node_lost_in_mid_epoch_costs_only_what_it_still_held(cluster, data, watch):
    lost = add_node(cluster)
    start_processes(lost)  # may take longer than the epoch
    bricks = on_ray(data)
    received = [next(bricks) for _ in range(6)]

    def held() -> set[tuple[int, tuple[int, ...]]]:
        on_lost = {(r.number, r.lanes) for r in watch.reads() if r.node_id == lost.node_id}
        return on_lost - {(brick.number, (brick.lane,)) for brick in received}

    while not held():
        received.append(next(bricks))
        time.sleep(0.5)
    delivered = {(brick.number, (brick.lane,)) for brick in received}
    cluster.remove_node(lost, allow_graceful=False)
    received += bricks
    assert digests(data, iter(received)) == plain_digests(data)
    repeated = Counter((read.number, read.lanes) for read in watch.reads())
    repeated.subtract(planned(data))
    on_lost = {(r.number, r.lanes) for r in watch.reads() if r.node_id == lost.node_id}
    # None where another node has a copy of what was lost: bricks are fetched ahead.
    assert set(+repeated) <= on_lost - delivered
    assert set((+repeated).values()) <= {1}


@pytest.mark.parametrize("world", [1, 2])
def test_after_a_node_is_lost_any_number_of_workers_takes_the_epoch_up(cluster, data, watch, world):
    lost = add_node(cluster)
    bricks = on_ray(data)
    steps = iterate_steps(bricks, lanes=4)
    step = middle_of(data)
    before = [next(steps)[0].digest() for _ in range(step)]
    cluster.remove_node(lost, allow_graceful=False)
    bricks.close()  # the rank is gone, too
    assert before == plain_digests(data)[:step]
    for rank in range(world):
        resumed = on_ray(data, step=step, rank=rank, world=world)
        assert digests(data, resumed, step=step, world=world) == plain_digests(
            data, step=step, rank=rank, world=world
        )


def test_training_goes_on_exactly_after_its_node_is_lost(tiny, tmp_path):
    config = replace(
        tiny,
        train=replace(tiny.train, epochs=8, batch_sequences=8),
        checkpoint=replace(tiny.checkpoint, every_steps=3),
        scaling=replace(tiny.scaling, num_workers=2),
    )
    with cluster_of(1, num_cpus=4) as nodes:
        calm = pretrain(replace(config, output_dir=str(tmp_path / "calm")))
        disturbed = tmp_path / "disturbed"
        errors: list[BaseException] = []

        def train() -> None:
            try:
                pretrain(replace(config, output_dir=str(disturbed)))
            except BaseException as error:
                errors.append(error)

        training = threading.Thread(target=train)
        training.start()
        wait_for_steps(disturbed, 20, training)
        (lost,) = nodes.worker_nodes  # all workers and all readers are there
        add_node(nodes, num_cpus=4)
        nodes.remove_node(lost, allow_graceful=False)
        assert load_state(find_checkpoint(disturbed))[0].epoch < 7
        training.join(240)
        assert not training.is_alive()
        assert errors == []
    ours, theirs = (
        load_file(find_checkpoint(run) / "model.safetensors") for run in (calm, disturbed)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    losses = [
        [epoch["train_loss"] for epoch in load_state(find_checkpoint(run))[0].history]
        for run in (calm, disturbed)
    ]
    assert losses[0] == losses[1]


def wait_for_steps(run: Path, step: int, training: threading.Thread) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and training.is_alive():
        steps = [int(p.name.removeprefix("step_")) for p in run.glob("checkpoints/step_*")]
        if max(steps, default=0) >= step:
            return
        time.sleep(0.02)
    raise AssertionError("no checkpoint in 240 s, or the run ended before its node was lost")
