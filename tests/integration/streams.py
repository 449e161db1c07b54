"""An epoch through Ray Data and the same without it, by the digests of its steps."""

from collections.abc import Iterator

from cvmae.batches.bricks import Brick, iterate_steps, plan_tasks, stream_bricks
from cvmae.batches.on_ray import Cursor, brick_dataset, ray_bricks
from tests.batches.numbered_rows import Written

EPOCH = 1


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
