"""Steps of training on several ranks of this machine (gloo), without Ray: what each step loses."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from cvmae.batches.batch import Batch
from cvmae.batches.bricks import iterate_steps, stream_bricks
from cvmae.config import Config
from cvmae.model.vomae import build_model
from cvmae.runtime.ranks import rank, sum_over_ranks, world_size
from cvmae.statistics.fitted import TrainingData
from cvmae.train.engine import State
from cvmae.train.make_engine import make_engine
from cvmae.train.streams import make_plan
from tests.ranks import on_ranks

Result = tuple[list[float], State, State]  # loss of each step, weights, optimiser state


def run_steps(
    config: Config,
    data: TrainingData,
    *,
    first: int = 0,
    num_steps: int,
    state: tuple[State, State] | None = None,
    overflow_at: int = -1,
) -> Result:
    """Take steps of training from `first` on, and from `state` where it is given.

    At the step `overflow_at` the last rank's gradient is infinite.
    """
    torch.set_num_threads(1)
    plan = make_plan(config, data)
    device = torch.device("cpu")
    num_codes = data.fitted.statistics.num_codes
    model = build_model(config.model, num_codes, config.seed, config.mask.target)
    engine = make_engine(model, config, device=device, total_steps=1000)
    if state is not None:
        # Ranks are given the same memory, and optimisers write into what they load.
        engine.load_state(*({name: t.clone() for name, t in part.items()} for part in state))
    number, losses = -1, []
    if rank() == world_size() - 1:
        some = next(model.parameters())
        some.register_hook(lambda grad: grad * np.inf if number == overflow_at else grad)
    for number, micro_batches in enumerate(_steps(config, plan)):
        if number < first:
            continue
        if number == first + num_steps:
            break
        error, count = engine.step(micro_batches, number)
        error, count = sum_over_ranks(np.array([error.item(), count.item()]), device)
        losses.append(float(error / max(count, 1)))
    assert len(losses) == num_steps
    weights, optimizer = engine.state()
    return losses, weights, optimizer


def run_on_ranks(world: int, folder: Path, *args: Any, **kwargs: Any) -> Result:
    """Call `run_steps` on several ranks; return what rank 0 returned, all is left in the folder."""
    folder.mkdir()
    on_ranks(_rank, (world, folder, args, kwargs), world=world)
    result: Result = torch.load(folder / "result_0", weights_only=False)  # of our own making
    return result


def _rank(number: int, world: int, folder: Path, args: Any, kwargs: Any) -> None:
    os.environ["LOCAL_RANK"] = str(number)  # DeepSpeed wants to be told; Ray Train tells it
    dist.init_process_group("gloo", f"file://{folder}/ranks", rank=number, world_size=world)
    try:
        result = run_steps(*args, **kwargs)
        torch.save(result, folder / f"result_{number}")
    finally:
        dist.destroy_process_group()
    # Threads of gloo's and DeepSpeed's, ended with the interpreter, now and then abort the process.
    os._exit(0)


def _steps(config: Config, plan: Any) -> Iterator[list[Batch]]:
    for epoch in range(10**6):
        bricks = stream_bricks(
            plan.train_reader,
            plan.train_order,
            plan.units,
            epoch=epoch,
            rank=rank(),
            world=world_size(),
        )
        yield from iterate_steps(
            bricks,
            lanes=config.data.lanes // world_size(),
            accumulation_steps=config.train.accumulation_steps,
        )
