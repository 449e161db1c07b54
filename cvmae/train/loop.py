"""The training loop: epochs, steps, examinations, checkpoints, reports; Ray-free to read.

Ray Train starts it on every worker (`cvmae.train.workers`); with ``scaling.num_workers=0`` the
calling process runs it. It knows neither: it is given lessons and told where to report.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from cvmae.batches.code_metrics import CodeMetrics, CodeSums
from cvmae.checkpoint import (
    Progress,
    clear_rubbish,
    has_checkpoints,
    load_state,
    save_checkpoint,
)
from cvmae.config import Config
from cvmae.runtime.memory import keep_memory
from cvmae.runtime.preemption import Ask, PreemptedError, Watch
from cvmae.runtime.ranks import max_over_ranks, rank, sum_over_ranks, world_size
from cvmae.runtime.tables import counted
from cvmae.train.device import Step, on_device
from cvmae.train.engine import Engine, State
from cvmae.train.lessons import Lessons
from cvmae.train.make_engine import make_engine
from cvmae.train.meter import EpochMeter, ProgressLine, Tell
from cvmae.train.resume import with_precision

__all__ = ["train"]

HEALTH_EVERY_STEPS = 50

logger = logging.getLogger("cvmae")


# (metrics of the epoch, those of each code if known) -> nothing; called on every rank
Report = Callable[[Mapping[str, float], CodeMetrics | None], None]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What every epoch of a run shares."""

    config: Config
    lessons: Lessons
    engine: Engine
    line: ProgressLine
    watch: Watch

    @property
    def num_steps(self) -> tuple[int, ...]:
        """Return the steps of each epoch."""
        return self.lessons.num_steps


def train(
    lessons: Lessons,
    *,
    report: Report,
    ask: Ask,
    device: torch.device,
    label: str = "pretrain",
    tell: Tell | None = None,
) -> Progress:
    """Train from wherever the run folder stands to the last epoch.

    Every rank calls it; that settings and data are those of the run that is resumed, the caller
    has checked (`resume.check_same_run`). Rank 0 writes checkpoints, which all ranks can read.

    Args:
        lessons: What is learnt from, by settings with `output_dir` as an absolute path.
        report: Called on every rank at the end of each epoch, and for the last one before this.
        ask: Whether this rank is to save or to stop; called about once a second.
        device: Of this rank.
        label: What progress lines begin with.
        tell: Told figures now and then on rank 0, beside them.

    Raises:
        FloatingPointError: An error or a weight is not finite; the last checkpoint stays.
        PreemptedError: A rank was signalled to stop, and a checkpoint is written.
        RuntimeError: The data set changed while it was read.
    """
    torch.set_num_threads(lessons.config.train.num_threads)
    keep_memory()
    config = with_precision(lessons.config, on_gpu=device.type == "cuda")
    total_steps = sum(lessons.num_steps)
    engine = make_engine(lessons.model(), config, device=device, total_steps=total_steps)
    progress = _resume(config, engine, report)
    line = ProgressLine(
        label,
        total_steps=total_steps,
        first_step=progress.global_step,
        enabled=rank() == 0,
        tell=tell,
    )
    run = _Run(config=config, lessons=lessons, engine=engine, line=line, watch=Watch(ask, device))
    while not progress.is_finished(config):
        progress = _train_until(run, progress, lessons.until(progress), report)
    line.close()
    return progress


def _train_until(run: _Run, progress: Progress, end: int, report: Report) -> Progress:
    """Train up to an epoch, whose steps are opened at once."""
    with run.lessons.opened(progress, end) as steps_of:
        while progress.epoch < end:
            meter = _meter(run, progress)
            progress = _train_epoch(run, steps_of(progress), meter, progress)
            progress = _end_epoch(run, meter, progress)
            metrics = progress.history[-1]
            run.line.epoch(
                progress.global_step, run.config.train.epochs, metrics, run.lessons.told(metrics)
            )
            report(metrics, progress.code_metrics)
            _end_if_signalled(run, progress)
    return progress


def _meter(run: _Run, progress: Progress) -> EpochMeter:
    num_codes = run.lessons.num_codes
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
    run: _Run, steps: Iterator[Step], meter: EpochMeter, progress: Progress
) -> Progress:
    """Take the steps of an epoch that are left."""
    config, epoch = run.config, progress.epoch
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
            f"epoch {epoch} ended after {progress.step} of "
            f"{counted(run.num_steps[epoch], 'step')}: the data "
            "set changed while it was read"
        )
    return progress


def _end_epoch(run: _Run, meter: EpochMeter, progress: Progress) -> Progress:
    """Measure, note and save a finished epoch."""
    metrics = meter.summary()
    _require_finite(run, progress, metrics["train_loss"])
    trained = meter.codes(run.engine.code_errors(start_anew=True))
    examined, codes = run.lessons.examine(run.engine, trained)
    metrics |= examined
    # The last update may have exploded.
    _require_finite(run, progress, metrics[run.lessons.criterion])
    state = _finite_state(run, progress)
    metrics |= {"epoch": progress.epoch + 1, "step": progress.global_step}
    progress = Progress(
        epoch=progress.epoch + 1,
        global_step=progress.global_step,
        history=(*progress.history, metrics),
        last_codes=codes.as_columns() if codes else None,
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
    # Ten digits of each rank add up exactly in a double.
    own = int(run.lessons.digest(progress, step)[:10], 16)
    (total,) = sum_over_ranks(np.array([own]), run.engine.device)
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
            fitted=run.lessons.fitted,
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
