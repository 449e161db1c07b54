"""Ray Data loses nothing, repeats nothing and changes nothing: processes and nodes may die."""

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cvmae.batches.bricks import Brick, iterate_steps, plan_tasks, stream_bricks
from cvmae.checkpoint import find_checkpoint, load_state
from cvmae.train.pretrain import pretrain
from tests.batches.numbered_rows import Case, Written, write_many

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.slow]

from cvmae.batches import on_ray as stream  # noqa: E402
from cvmae.batches.on_ray import Cursor, brick_dataset, ray_bricks  # noqa: E402
from cvmae.runtime.ray_tasks import map_on_ray  # noqa: E402
from tests.integration.ray_cluster import (  # noqa: E402
    Watch,
    add_node,
    cluster_of,
    start_processes,
)

EPOCH = 1


@pytest.fixture(scope="module")
def cluster():
    with cluster_of(1) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Written:
    """24 bricks of 200 kB: Ray keeps them in the object store of the node that has read them."""
    case = Case(
        num_rows=1_000_000,
        row_group_size=5000,
        unit_rows=5000,
        lanes=4,
        batch_sequences=64,
        sequence_length=256,
    )
    return write_many(case, tmp_path_factory.mktemp("many"))[0]


@pytest.fixture
def watch(tmp_path, monkeypatch) -> Watch:
    return Watch(tmp_path / "reads", monkeypatch, pause_s=0.2)


def on_ray(data: Written, *, step: int = 0, rank: int = 0, world: int = 1) -> Iterator[Brick]:
    dataset = brick_dataset(data.reader, data.order, data.units)
    weight_C = data.reader.weight_C
    cursor = Cursor(epoch=EPOCH, step=step, rank=rank, world=world, weight_C=weight_C)
    return ray_bricks(dataset.iterator(), cursor)


def digests(data: Written, bricks: Iterator[Brick], *, step: int = 0, world: int = 1) -> list[str]:
    steps = iterate_steps(bricks, lanes=data.order.lanes // world, step=step)
    return [batch.digest() for (batch,) in steps]


def plain_digests(data: Written, *, step: int = 0, rank: int = 0, world: int = 1) -> list[str]:
    bricks = stream_bricks(
        data.reader, data.order, data.units, epoch=EPOCH, step=step, rank=rank, world=world
    )
    return digests(data, bricks, step=step, world=world)


def planned(data: Written, *, step: int = 0, rank: int = 0, world: int = 1):
    tasks = plan_tasks(data.order, data.units, EPOCH, step, rank, world)
    return sorted((task.number, task.lanes) for task in tasks)


def middle_of(data: Written) -> int:
    """Return a step in the middle of the epoch and of its superstep."""
    superstep = list(data.order.supersteps(EPOCH))[3]
    return superstep.first_step + superstep.num_steps // 2


def test_the_bricks_live_in_the_object_store(data):
    """Ray would keep smaller ones with the rank, and a lost node would lose nothing."""
    bricks = list(stream_bricks(data.reader, data.order, data.units, epoch=EPOCH))
    assert len(bricks) == 24
    assert min(brick.value_N.nbytes for brick in bricks) > 50_000  # of about 11/4 times as much


@pytest.mark.parametrize("world", [1, 2, 4])
def test_resuming_gives_the_tail_and_reads_nothing_that_lies_before_it(cluster, data, watch, world):
    step = middle_of(data)
    for rank in range(world):
        bricks = on_ray(data, step=step, rank=rank, world=world)
        assert digests(data, bricks, step=step, world=world) == plain_digests(
            data, step=step, rank=rank, world=world
        )
    reads = [(read.number, read.lanes) for read in watch.reads()]
    assert reads == sorted(
        task for rank in range(world) for task in planned(data, step=step, rank=rank, world=world)
    )
    assert 0 < len(reads) < 16  # of 24


def test_a_reader_killed_in_mid_epoch_costs_only_the_read_it_was_at(cluster, data, watch):
    bricks = on_ray(data)
    received = [next(bricks) for _ in range(6)]
    # Where enough is read ahead, the next read begins when a brick is taken.
    while not (open_reads := [read for read in watch.reads() if not read.is_finished]):
        received.append(next(bricks))
        time.sleep(0.1)  # half of what a read takes at least
    killed = open_reads[0]
    os.kill(killed.pid, signal.SIGKILL)
    received += bricks
    assert digests(data, iter(received)) == plain_digests(data)
    reads = watch.reads()
    assert [read for read in reads if not read.is_finished] == [killed]
    repeated = Counter((read.number, read.lanes) for read in reads)
    repeated.subtract(planned(data))
    assert +repeated == {(killed.number, killed.lanes): 1}


@pytest.mark.survival
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


@pytest.mark.survival
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


def test_a_file_that_vanishes_in_mid_epoch_is_one_line_and_is_not_read_again(
    cluster, data, watch, tmp_path, capfd
):
    root = shutil.copytree(data.reader.source.root, tmp_path / "meds")
    source = replace(data.reader.source, root=str(root))
    bricks = on_ray(replace(data, reader=replace(data.reader, source=source)))
    next(bricks)
    (root / "data" / "000.parquet").unlink()
    with pytest.raises(ValueError, match=r"data/000\.parquet is gone.*start anew") as caught:
        list(bricks)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)
    assert "Traceback" not in "".join(capfd.readouterr())
    time.sleep(1)  # a second attempt would begin at once
    assert max(Counter((read.number, read.lanes) for read in watch.reads()).values()) == 1


def dies_once(folder: str, number: int) -> int:
    if number == 3:
        try:
            os.mkdir(f"{folder}/died")
        except FileExistsError:
            return number
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies_always(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_process_killed_while_statistics_are_taken_loses_no_unit(cluster, tmp_path):
    assert list(map_on_ray(partial(dies_once, str(tmp_path)), range(8))) == list(range(8))
    assert (tmp_path / "died").is_dir()


def test_a_task_that_kills_every_process_ends_with_what_to_do(cluster):
    results = map_on_ray(dies_always, range(8))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ChildProcessError, match=r"lost 5 times.*lower data\.unit_rows"):
        next(results)


def test_a_task_does_not_carry_the_vocabulary(cluster, data, monkeypatch):
    sources = []
    monkeypatch.setattr(ray.data, "read_datasource", lambda source, **_: sources.append(source))
    codes = tuple(f"LAB//{number}//mg" for number in range(10_000))
    statistics = replace(data.reader.statistics, codes=codes, members=tuple((c,) for c in codes))
    brick_dataset(replace(data.reader, statistics=statistics), data.order, data.units)
    context = ray.data.DataContext.get_current()
    tasks = sources[0].get_read_tasks(1, data_context=context)
    assert len(tasks) == 24
    assert max(len(ray.cloudpickle.dumps(task)) for task in tasks) < 10_000


class Shard:
    """Ray Data's side of a rank, with tables put in by hand."""

    def __init__(self, tables) -> None:
        self._tables = tables
        self._context = ray.data.DataContext.get_current().copy()

    def get_context(self):
        return self._context

    def iter_batches(self, **_):
        return iter(self._tables)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ((0, 2, 1), "did not keep the order"),
        ((0, 1, 1), "did not keep the order"),
        ((0, 1, 5), "did not pass the cursor on"),
    ],
)
def test_bricks_that_are_not_the_next_ones_are_refused(cluster, data, places, message):
    tasks = list(plan_tasks(data.order, data.units, EPOCH, 0, 0, 2))[:3]
    tasks += plan_tasks(data.order, data.units, EPOCH, 0, 1, 2)
    reader = ray.put(data.reader)
    tables = [stream._brick_table(reader, tasks[place]) for place in places]
    bricks = ray_bricks(Shard(tables), Cursor(epoch=EPOCH, step=0, rank=0, world=2, weight_C=None))
    assert next(bricks).number == 0
    with pytest.raises(RuntimeError, match=message):
        list(bricks)


@pytest.mark.survival
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
