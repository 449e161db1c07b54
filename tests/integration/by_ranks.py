"""A run of several ranks side by side, without Ray: what every disturbed one must come to."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from cvmae.arrays import Float32s
from cvmae.batches.bricks import Brick, stream_bricks
from cvmae.checkpoint import find_checkpoint, load_state
from cvmae.command_line import load
from cvmae.train.loop import train
from cvmae.train.pretraining import Pretraining
from cvmae.train.streams import make_plan
from tests.prepared import training_data
from tests.ranks import on_ranks

CPUS = 3  # of a host: room for one worker and the reads beside it
EVERY = 5  # steps between checkpoints


def train_on_ranks(world: int, flags: Sequence[str], folder: Path) -> Path:
    """Pretrain with a command line's flags on `world` processes; return the run's folder."""
    folder.mkdir()
    on_ranks(_rank, (world, flags, folder), world=world)
    return folder


def short_run(root: str) -> list[str]:
    """Return flags of a run of 312 steps, with one worker on each of two hosts of three CPUs."""
    return [
        *("--base", "tiny", "--data.root", root, "--data.unit_rows", "500"),
        *("--data.min_count", "2", "--data.sequence_length", "32", "--data.lanes", "4"),
        *("--train.epochs", "12", "--train.batch_sequences", "8"),
        *("--scaling.num_workers", "2", "--scaling.cpus_per_worker", str(CPUS - 1)),
        *("--checkpoint.every_steps", str(EVERY)),
    ]


def step_of(run: Path) -> int:
    """Return the step of a run's newest checkpoint, 0 before the first."""
    names = [path.name for path in run.glob("checkpoints/step_*")]
    return max((int(name.removeprefix("step_")) for name in names), default=0)


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Require the same weights, optimiser and losses of each epoch, to the last bit."""
    (our, *a), (their, *b) = (load_state(find_checkpoint(run)) for run in (ours, theirs))
    assert our.global_step == their.global_step
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    for name in ("step", "train_loss", "tuning_mse"):
        assert [epoch[name] for epoch in our.history] == [epoch[name] for epoch in their.history]


def _rank(number: int, world: int, flags: Sequence[str], folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/ranks", rank=number, world_size=world)
    given = load([*flags, "--output_dir", str(folder)])
    config = replace(given, scaling=replace(given.scaling, num_workers=0))
    data = training_data(config)
    plan = make_plan(config, data)

    def bricks(epoch: int, step: int, weight_C: Float32s | None) -> Iterator[Brick]:
        reader = replace(plan.unweighted_reader, weight_C=weight_C)
        places = {"epoch": epoch, "step": step, "rank": number, "world": world}
        return stream_bricks(reader, plan.train_order, plan.units, **places)

    train(
        Pretraining(config, data, bricks),
        report=lambda *_: None,
        ask=lambda: "",
        device=torch.device("cpu"),
    )
    dist.destroy_process_group()
    os._exit(0)  # threads of gloo's, ended with the interpreter, now and then abort the process
