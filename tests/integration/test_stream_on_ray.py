"""Ray Data loses nothing, repeats nothing and changes nothing, though processes die."""

import os
import shutil
import signal
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from cvmae.batches.bricks import plan_tasks, stream_bricks
from cvmae.meds.refused import RefusedDataError

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("shared_ray")]

from cvmae.batches import on_ray as stream  # noqa: E402
from cvmae.batches.on_ray import Cursor, brick_dataset, ray_bricks  # noqa: E402
from cvmae.runtime.ray_tasks import CURSOR, map_on_ray  # noqa: E402
from tests.integration.streams import (  # noqa: E402
    EPOCH,
    digests,
    middle_of,
    on_ray,
    plain_digests,
    planned,
)


def test_the_bricks_live_in_the_object_store(data):
    """Ray would keep smaller ones with the rank, and a lost node would lose nothing."""
    bricks = list(stream_bricks(data.reader, data.order, data.units, epoch=EPOCH))
    assert len(bricks) == 24
    assert min(brick.value_N.nbytes for brick in bricks) > 50_000  # of about 11/4 times as much


@pytest.mark.parametrize("world", [1, 2, 4])
def test_resuming_gives_the_tail_and_reads_nothing_that_lies_before_it(data, watch, world):
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


def test_weights_of_errors_come_along_where_they_are_wanted(data):
    weighing = replace(data, reader=replace(data.reader, weigh_errors=True))
    step = middle_of(data)
    found = digests(weighing, on_ray(weighing, step=step), step=step)
    assert found == plain_digests(weighing, step=step)
    assert found != plain_digests(data, step=step)


def test_a_reader_killed_in_mid_epoch_costs_only_the_read_it_was_at(data, watch):
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


def test_a_file_that_vanishes_in_mid_epoch_is_one_line_and_is_not_read_again(
    data, watch, tmp_path, capfd
):
    root = shutil.copytree(data.reader.source.root, tmp_path / "meds")
    source = replace(data.reader.source, root=str(root))
    bricks = on_ray(replace(data, reader=replace(data.reader, source=source)))
    next(bricks)
    (root / "data" / "000.parquet").unlink()
    with pytest.raises(ValueError, match=r"data/000\.parquet is gone.*start anew") as caught:
        list(bricks)
    assert type(caught.value) is RefusedDataError  # as raised, not as Ray wraps it
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


def test_a_process_killed_while_statistics_are_taken_loses_no_unit(tmp_path):
    assert list(map_on_ray(partial(dies_once, str(tmp_path)), range(8))) == list(range(8))
    assert (tmp_path / "died").is_dir()


def test_a_task_that_kills_every_process_ends_with_what_to_do():
    results = map_on_ray(dies_always, range(8))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ChildProcessError, match=r"lost 5 times.*lower data\.unit_rows"):
        next(results)


def test_a_task_does_not_carry_the_vocabulary(data, monkeypatch):
    sources = []
    monkeypatch.setattr(ray.data, "read_datasource", lambda source, **_: sources.append(source))
    codes = tuple(f"LAB//{number}//mg" for number in range(10_000))
    statistics = replace(data.reader.statistics, codes=codes, members=tuple((c,) for c in codes))
    brick_dataset(replace(data.reader, statistics=statistics), data.order, data.units)
    context = ray.data.DataContext.get_current().copy()
    context.set_config(CURSOR, Cursor(epoch=0, step=0, rank=0, world=1, weight_C=None))
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
def test_bricks_that_are_not_the_next_ones_are_refused(data, places, message):
    tasks = list(plan_tasks(data.order, data.units, EPOCH, 0, 0, 2))[:3]
    tasks += plan_tasks(data.order, data.units, EPOCH, 0, 1, 2)
    reader = ray.put(data.reader)
    tables = [stream._brick_table(reader, tasks[place]) for place in places]
    bricks = ray_bricks(Shard(tables), Cursor(epoch=EPOCH, step=0, rank=0, world=2, weight_C=None))
    assert next(bricks).number == 0
    with pytest.raises(RuntimeError, match=message):
        list(bricks)
