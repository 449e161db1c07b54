"""The training loop: epochs, steps, the tuning error, checkpoints, reports; Ray-free to read.

Ray Train starts it on every worker (`cvmae.train.workers`); with ``scaling.num_workers=0`` the
calling process runs it. It knows neither: it is given bricks and told where to report.
"""

import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from cvmae.arrays import Float32s
from cvmae.batches.bricks import Brick, iterate_steps, own_lanes, stream_bricks
from cvmae.batches.code_metrics import CodeErrors, CodeMetrics, CodeSums
from cvmae.checkpoint import (
    Progress,
    clear_rubbish,
    has_checkpoints,
    load_state,
    save_checkpoint,
)
from cvmae.config import Config
from cvmae.model.vomae import build_model
from cvmae.runtime.memory import keep_memory
from cvmae.runtime.preemption import Ask, PreemptedError, Watch
from cvmae.runtime.ranks import max_over_ranks, rank, sum_over_ranks, world_size
from cvmae.runtime.read_ahead import read_ahead
from cvmae.statistics.fitted import TrainingData
from cvmae.train.device import on_device
from cvmae.train.engine import Engine, State
from cvmae.train.make_engine import make_engine
from cvmae.train.meter import EpochMeter, ProgressLine
from cvmae.train.resume import with_precision
from cvmae.train.streams import Plan, make_plan

__all__ = ["BrickSource", "train", "tuning_error"]

HEALTH_EVERY_STEPS = 50

logger = logging.getLogger("cvmae")


# (epoch, first step, mask weights of the epoch) -> this rank's bricks to the end of the epoch
BrickSource = Callable[[int, int, Float32s | None], Iterator[Brick]]
# (metrics of the epoch, those of each code if known) -> nothing; called on every rank
Report = Callable[[Mapping[str, float], CodeMetrics | None], None]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What every epoch of a run shares."""

    config: Config
    data: TrainingData
    plan: Plan
    engine: Engine
    line: ProgressLine
    watch: Watch
    bricks: BrickSource
    num_steps: tuple[int, ...]  # of each epoch


def train(
    config: Config,
    data: TrainingData,
    *,
    bricks: BrickSource,
    report: Report,
    ask: Ask,
    device: torch.device,
    label: str = "pretrain",
) -> Progress:
    """Pretrain from wherever the run folder stands to the last epoch.

    Every rank calls it; that settings and data are those of the run that is resumed, the caller
    has checked (`resume.check_same_run`). Rank 0 writes checkpoints, which all ranks can read.

    Args:
        config: With `output_dir` as an absolute path.
        data: Where rows are read; statistics, vocabulary and unit index.
        bricks: This rank's training data.
        report: Called on every rank at the end of each epoch, and for the last one before this.
        ask: Whether this rank is to save or to stop; called about once a second.
        device: Of this rank.
        label: What progress lines begin with.

    Raises:
        FloatingPointError: An error or a weight is not finite; the last checkpoint stays.
        PreemptedError: A rank was signalled to stop, and a checkpoint is written.
        RuntimeError: The data set changed while it was read.
    """
    torch.set_num_threads(config.train.num_threads)
    keep_memory()
    config = with_precision(config, on_gpu=device.type == "cuda")
    plan = make_plan(config, data)
    num_steps = tuple(plan.train_order.num_steps(epoch) for epoch in range(config.train.epochs))
    num_codes = data.fitted.statistics.num_codes
    model = build_model(config.model, num_codes, config.seed, config.mask.target)
    engine = make_engine(model, config, device=device, total_steps=sum(num_steps))
    progress = _resume(config, engine, report)
    line = ProgressLine(
        label, total_steps=sum(num_steps), first_step=progress.global_step, enabled=rank() == 0
    )
    run = _Run(
        config=config,
        data=data,
        plan=plan,
        engine=engine,
        line=line,
        watch=Watch(ask, device),
        bricks=bricks,
        num_steps=num_steps,
    )
    while not progress.is_finished(config):
        # Weights that follow from an epoch are known at its end: nothing is read beyond it.
        waits = plan.weights.change_after(progress.epoch)
        end = progress.epoch + 1 if waits else config.train.epochs
        progress = _train_until(run, progress, end, report)
    line.close()
    return progress


def _train_until(run: _Run, progress: Progress, end: int, report: Report) -> Progress:
    """Train up to an epoch, its bricks in one stream."""
    with contextlib.closing(_bricks_until(run, progress, end)) as stream:
        while progress.epoch < end:
            meter = _meter(run, progress)
            progress = _train_epoch(run, stream, meter, progress)
            progress = _end_epoch(run, meter, progress)
            run.line.epoch(progress.global_step, run.config.train.epochs, progress.history[-1])
            report(progress.history[-1], progress.code_metrics)
            _end_if_signalled(run, progress)
    return progress


def _bricks_until(run: _Run, progress: Progress, end: int) -> Generator[Brick]:
    """Yield this rank's bricks up to an epoch, a superstep read ahead.

    So the next superstep is there when one ends, and the next epoch's first while the tuning
    error is taken.
    """
    weight_C = run.plan.reader_of(progress).weight_C

    def read() -> Iterator[Brick]:
        for epoch in range(progress.epoch, end):
            first_step = progress.step if epoch == progress.epoch else 0
            yield from run.bricks(epoch, first_step, weight_C)

    return read_ahead(read(), depth=len(_lanes(run)))


def _lanes(run: _Run) -> tuple[int, ...]:
    return own_lanes(run.config.data.lanes, rank(), world_size())


def _meter(run: _Run, progress: Progress) -> EpochMeter:
    num_codes = run.data.fitted.statistics.num_codes
    return EpochMeter(
        run.config.model,
        num_codes,
        run.engine.device,
        peak=run.engine.peak,
        before=(progress.error_sum, progress.num_hidden),
        codes_before=CodeSums.of(progress.code_sums, num_codes),
        ask_all=run.config.train.visible_weight > 0,
    )


def _train_epoch(
    run: _Run, bricks: Iterator[Brick], meter: EpochMeter, progress: Progress
) -> Progress:
    """Take the steps of an epoch that are left."""
    config, epoch, lanes = run.config, progress.epoch, len(_lanes(run))
    num_supersteps = sum(1 for _ in run.plan.train_order.seek(epoch, progress.step))
    steps = iterate_steps(
        itertools.islice(bricks, num_supersteps * lanes),
        lanes=lanes,
        step=progress.step,
        accumulation_steps=config.train.accumulation_steps,
    )
    for micro_batches in meter.waiting(on_device(steps, run.engine.device)):
        meter.add(micro_batches, *run.engine.step(micro_batches, progress.global_step))
        progress = replace(progress, step=progress.step + 1, global_step=progress.global_step + 1)
        run.line.step(progress.global_step, meter)
        if _looks_at_health(run, progress) and not run.engine.is_healthy:
            _require_finite(run, progress, math.nan)
        every, is_last = config.checkpoint.every_steps, progress.step == run.num_steps[epoch]
        is_due = bool(run.watch()) or (every > 0 and progress.global_step % every == 0)
        if is_due and not is_last:
            error_sum, num_hidden = meter.error_and_count()
            _require_finite(run, progress, error_sum)
            state = _finite_state(run, progress)
            progress = replace(
                progress,
                error_sum=error_sum,
                num_hidden=num_hidden,
                code_sums=meter.codes(run.engine.code_errors()).as_tuples(),
            )
            _save(run, progress, state)
            _end_if_signalled(run, progress)
    if progress.step < run.num_steps[epoch]:  # beyond it, where resume_allow made it shorter
        raise RuntimeError(
            f"epoch {epoch} ended after {progress.step} of {run.num_steps[epoch]} steps: the data "
            "set changed while it was read"
        )
    return progress


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


def _end_epoch(run: _Run, meter: EpochMeter, progress: Progress) -> Progress:
    """Measure, note and save a finished epoch."""
    metrics = meter.summary()
    _require_finite(run, progress, metrics["train_loss"])
    trained = meter.codes(run.engine.code_errors(start_anew=True))
    tuned = tuning_error(run.engine, run.plan, run.data.fitted.statistics.num_codes)
    metrics |= tuned.pooled()
    _require_finite(run, progress, metrics["tuning_mse"])  # the last update may have exploded
    state = _finite_state(run, progress)
    metrics |= {"epoch": progress.epoch + 1, "step": progress.global_step}
    progress = Progress(
        epoch=progress.epoch + 1,
        global_step=progress.global_step,
        history=(*progress.history, metrics),
        last_codes=CodeMetrics(
            mask_rate_C=trained.mask_rate_C, train_mse_C=trained.mse_C, **tuned.by_code()
        ).as_columns(),
    )
    _save(run, progress, state)
    return progress


def _end_if_signalled(run: _Run, progress: Progress) -> None:
    """End the run where its checkpoint has just been written, if it was signalled to stop."""
    if run.watch.is_stopped and not progress.is_finished(run.config):
        run.line.close()
        raise PreemptedError(
            f"stopped by a signal, with a checkpoint at step {progress.global_step} of "
            f"{sum(run.num_steps)} in {run.config.output_dir}"
        )


def _looks_at_health(run: _Run, progress: Progress) -> bool:
    """Tell whether to ask for the errors so far: at each step, on a GPU, which waits, at few."""
    return run.engine.device.type == "cpu" or progress.global_step % HEALTH_EVERY_STEPS == 0


def _finite_state(run: _Run, progress: Progress) -> tuple[State, State]:
    """Return the state to be saved, which is all finite (collective).

    Errors tell of an update that has gone wrong only when the next batch is computed.
    """
    state = run.engine.state()
    is_bad = not all(bool(t.isfinite().all()) for part in state for t in part.values())
    (num_bad,) = sum_over_ranks(np.array([is_bad]), run.engine.device)
    if num_bad:
        raise _not_finite(run, progress, "a weight or a moment is not finite")
    return state


def _require_finite(run: _Run, progress: Progress, error: float) -> None:
    """Stop before weights that are not finite are saved over good ones."""
    if not math.isfinite(error):
        raise _not_finite(run, progress, f"the loss is {error}")


def _not_finite(run: _Run, progress: Progress, what: str) -> FloatingPointError:
    """Return what says where training broke (collective)."""
    bad = run.engine.first_bad_step()
    back = progress.global_step - 1 - bad
    fingerprint = _fingerprint(run, progress, progress.step - 1 - back)
    return FloatingPointError(
        f"{what} in epoch {progress.epoch + 1}, at step {bad + 1} of the run (batch "
        f"{fingerprint}, {world_size()} ranks): lower optim.lr, or set optim.clip_norm and "
        f"data.clip_quantiles; the last good checkpoint is kept in {run.config.output_dir}/"
        "checkpoints"
    )


def _fingerprint(run: _Run, progress: Progress, step: int) -> str:
    """Return a hash of all ranks' batches of a step, which are read once more (collective)."""
    # Not from where training has them: there, another thread reads on.
    bricks = stream_bricks(
        run.plan.reader_of(progress),
        run.plan.train_order,
        run.plan.units,
        epoch=progress.epoch,
        step=step,
        rank=rank(),
        world=world_size(),
    )
    steps = iterate_steps(bricks, lanes=len(_lanes(run)), step=step)
    ((batch,), *_) = itertools.islice(steps, 1)
    # Ten digits of each rank add up exactly in a double.
    (total,) = sum_over_ranks(np.array([int(batch.digest()[:10], 16)]), run.engine.device)
    return f"{int(total):x}"


def _save(run: _Run, progress: Progress, state: tuple[State, State]) -> None:
    """Write a checkpoint; a full disk ends the run only where no other checkpoint will follow."""
    if rank() != 0:
        return
    model, optimizer = state
    try:
        save_checkpoint(
            run.config.output_dir,
            config=run.config,
            fitted=run.data.fitted,
            progress=progress,
            model=model,
            optimizer=optimizer,
        )
    except OSError as error:
        if run.watch.is_stopped or progress.is_finished(run.config):
            raise
        logger.warning("%s; training goes on to the next", error)


def _resume(config: Config, engine: Engine, report: Report) -> Progress:
    """Load the run folder's last whole checkpoint, if the run has come that far.

    Its last epoch is reported again.

    Raises:
        FileNotFoundError: There are checkpoints, but none is whole.
        RuntimeError: Ranks see different checkpoints.
    """
    loaded = load_state(config.output_dir) if has_checkpoints(config.output_dir) else None
    progress = loaded[0] if loaded else Progress()
    own = progress.global_step
    # Before a state is loaded, for which ranks may wait for each other.
    newest, oldest = max_over_ranks(np.array([own, -own]), engine.device) * [1, -1]
    if newest != oldest:
        raise RuntimeError(
            f"rank {rank()} would resume at step {own}, others {oldest:.0f} to {newest:.0f}: "
            f"output_dir={config.output_dir!r} must be a folder that all nodes share and see alike"
        )
    if loaded:
        engine.load_state(*loaded[1:])
    if rank() == 0:
        clear_rubbish(config.output_dir)
    if progress.history:  # a kill after the save may have lost it; trackers drop what they have
        report(progress.history[-1], progress.code_metrics)
    return progress
