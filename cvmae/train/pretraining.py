"""The lessons of pretraining: bricks of masked sequences, and the tuning error after each epoch."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch

from cvmae.arrays import Float32s
from cvmae.batches.bricks import Brick, iterate_steps, own_lanes, stream_bricks
from cvmae.batches.code_metrics import CodeErrors, CodeMetrics, CodeSums
from cvmae.checkpoint import Progress
from cvmae.config import Config
from cvmae.model.vomae import VOMAE, build_model
from cvmae.runtime.ranks import rank, sum_over_ranks, world_size
from cvmae.runtime.read_ahead import read_ahead
from cvmae.statistics.fitted import TrainingData
from cvmae.train.device import Step, on_device
from cvmae.train.engine import Engine
from cvmae.train.lessons import Lessons, StepsOf
from cvmae.train.streams import Plan, make_plan

__all__ = ["BrickSource", "Pretraining", "tuning_error"]

# (epoch, first step, mask weights of the epoch) -> this rank's bricks to the end of the epoch
BrickSource = Callable[[int, int, Float32s | None], Iterator[Brick]]


class Pretraining(Lessons):
    """Hidden values are to be restored.

    Args:
        config: Of the run.
        data: Where rows are read; statistics, vocabulary and unit index.
        bricks: This rank's training data.
    """

    criterion = "tuning_mse"

    def __init__(self, config: Config, data: TrainingData, bricks: BrickSource) -> None:
        self._plan, self._bricks = make_plan(config, data), bricks
        order = self._plan.train_order
        num_steps = tuple(order.num_steps(epoch) for epoch in range(config.train.epochs))
        super().__init__(config, data.fitted, num_steps)

    def model(self) -> VOMAE:
        """Return fresh weights; see `Lessons.model`."""
        config = self.config
        return build_model(config.model, self.num_codes, config.seed, config.mask.target)

    def until(self, progress: Progress) -> int:
        """Return the next epoch where mask weights follow from it; see `Lessons.until`."""
        # Weights that follow from an epoch are known at its end: nothing is read beyond it.
        waits = self._plan.weights.change_after(progress.epoch)
        return progress.epoch + 1 if waits else self.config.train.epochs

    @contextlib.contextmanager
    def opened(self, progress: Progress, end: int) -> Iterator[StepsOf]:
        """Open one stream of bricks, a superstep read ahead; see `Lessons.opened`.

        So the next superstep is there when one ends, and the next epoch's first while the tuning
        error is taken.
        """
        weight_C = self._plan.reader_of(progress).weight_C

        def read() -> Iterator[Brick]:
            for epoch in range(progress.epoch, end):
                first_step = progress.step if epoch == progress.epoch else 0
                yield from self._bricks(epoch, first_step, weight_C)

        with contextlib.closing(read_ahead(read(), depth=self._num_lanes)) as stream:
            yield partial(self._steps, stream)

    def _steps(self, stream: Iterator[Brick], progress: Progress) -> Iterator[Step]:
        lanes = self._num_lanes
        order = self._plan.train_order
        num_supersteps = sum(1 for _ in order.seek(progress.epoch, progress.step))
        return iterate_steps(
            itertools.islice(stream, num_supersteps * lanes),
            lanes=lanes,
            step=progress.step,
            accumulation_steps=self.config.train.accumulation_steps,
        )

    @property
    def _num_lanes(self) -> int:
        return len(own_lanes(self.config.data.lanes, rank(), world_size()))

    def examine(
        self, engine: Engine, trained: CodeSums
    ) -> tuple[dict[str, float], CodeMetrics | None]:
        """Take the tuning error; see `Lessons.examine`."""
        tuned = tuning_error(engine, self._plan, self.num_codes)
        return tuned.pooled(), CodeMetrics(
            mask_rate_C=trained.mask_rate_C, train_mse_C=trained.mse_C, **tuned.by_code()
        )

    def digest(self, progress: Progress, step: int) -> str:
        """Read a step once more; see `Lessons.digest`."""
        # Not from where training has its bricks: there, another thread reads on.
        bricks = stream_bricks(
            self._plan.reader_of(progress),
            self._plan.train_order,
            self._plan.units,
            epoch=progress.epoch,
            step=step,
            rank=rank(),
            world=world_size(),
        )
        steps = iterate_steps(bricks, lanes=self._num_lanes, step=step)
        ((batch,), *_) = itertools.islice(steps, 1)
        return batch.digest()

    def told(self, metrics: Mapping[str, float]) -> str:
        """Say the error; see `Lessons.told`."""
        return f"tuning {metrics['tuning_mse']:.4f} (R2 {metrics['tuning_r2']:.3f})"


def tuning_error(engine: Engine, plan: Plan, num_codes: int) -> CodeErrors:
    """Return the errors on z of the tuning split's fixed mask (collective)."""
    bricks = stream_bricks(
        plan.tuning_reader,
        plan.tuning_order,
        plan.units,
        epoch=0,
        rank=rank(),
        world=world_size(),
    )
    lanes = own_lanes(plan.tuning_order.lanes, rank(), world_size())
    steps = iterate_steps(bricks, lanes=len(lanes))
    sums_4C = torch.zeros(4, num_codes, dtype=torch.float64, device=engine.device)
    for (batch,) in on_device(steps, engine.device):
        target_M = batch.value_N[batch.hidden_M].double()
        error_M = (engine.predict(batch).double() - target_M).square()
        codes_M = batch.code_index_N[batch.hidden_M].long()
        terms = torch.stack([error_M, torch.ones_like(target_M), target_M, target_M.square()])
        sums_4C.index_add_(1, codes_M, terms)
    return CodeErrors(*sum_over_ranks(sums_4C.cpu().numpy(), engine.device))
