"""Training workers on Ray: build and fit the TorchTrainer; the loop itself is `loop.train`."""

import logging
import signal
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import ray.train
import torch
from ray.data import ExecutionOptions
from ray.train import (
    CheckpointConfig,
    DataConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    UserCallback,
)
from ray.train import ScalingConfig as RayScalingConfig
from ray.train.torch import get_device

from cvmae.arrays import Float32s
from cvmae.batches.bricks import Brick
from cvmae.batches.code_metrics import CodeMetrics
from cvmae.batches.on_ray import Cursor, brick_dataset, ray_bricks
from cvmae.config import Config
from cvmae.runtime.logs import setup_logging
from cvmae.runtime.nodes import (
    selector,
    workers_beside_data,
    workers_taken,
    workers_that_fit,
)
from cvmae.runtime.preemption import Ask, Demand, PreemptedError, on_signal
from cvmae.runtime.ranks import rank, world_size
from cvmae.runtime.ray_hooks import drop_note, has_note, put_note, quiet_report_callback
from cvmae.runtime.ray_trainer import InterruptibleTrainer, NamedInterfaces
from cvmae.runtime.start_ray import alive_nodes
from cvmae.runtime.tables import counted
from cvmae.settings import ScalingConfig
from cvmae.statistics.fitted import TrainingData
from cvmae.storage.places import locate
from cvmae.tracking.gauges import RunGauges
from cvmae.tracking.store import join_tracker
from cvmae.train.epoch_report import EpochReport
from cvmae.train.finetuning import Finetuning, LabelledData
from cvmae.train.lessons import Lessons
from cvmae.train.loop import train
from cvmae.train.pretraining import Pretraining
from cvmae.train.streams import make_plan

__all__ = ["train_on_ray"]

logger = logging.getLogger("cvmae")


RESIZE_EVERY_S = 15.0  # after which an elastic run looks for nodes with which it could grow
COUNT_EVERY_S = 10.0  # after which the driver looks whether nodes are missing


def train_on_ray(
    config: Config,
    data: TrainingData,
    *,
    run_name: str,
    key: str,
    parent_run_id: str = "",
    labelled: LabelledData | None = None,
) -> None:
    """Run the loop on `scaling.num_workers` Ray Train workers until it has finished.

    A lost worker is replaced and the group goes on from the run folder's last checkpoint. Where
    there is labelled data, the run is a fine-tuning on it, and no row is read.

    Raises:
        ChildProcessError: Workers failed more than `scaling.max_failures` times.
        FloatingPointError: The loss is not finite any more.
        PreemptedError: SIGTERM or SIGINT came to this process, and the workers have written a
            checkpoint.
        KeyboardInterrupt: A second SIGINT came; the workers are stopped where they were.
    """
    # Ray Train resumes a run of the same name from its own checkpoints; ours lie in the run folder,
    # from which the loop resumes, so every attempt has a name of its own.
    attempt = f"attempt_{uuid.uuid4().hex[:8]}"
    to_tune = _callbacks_of_tune()
    job = _Job(
        config=config,
        data=data,
        run_name=run_name,
        key=key,
        parent_run_id=parent_run_id,
        attempt=attempt,
        is_trial=bool(to_tune),
        labelled=labelled,
    )
    trainer = _trainer(job, to_tune)
    try:
        stop = partial(put_note, attempt)
        with (
            on_signal(signal.SIGTERM, signal.SIGINT, call=stop),
            _saying_what_is_missing(config, run_name),
        ):
            result: Any = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise ChildProcessError(
            f"training of {run_name} failed: {_cause(error)}; what it has written is kept, and "
            f"--resume {config.output_dir} continues it"
        ) from error
    except ray.exceptions.RayActorError as error:
        raise ChildProcessError(
            f"training of {run_name} lost the process that leads its workers: give the node that "
            f"it ran on more memory; --resume {config.output_dir} continues the run"
        ) from error
    finally:
        drop_note(attempt)
    if result.return_value is not None:
        raise result.return_value


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class _Job:
    """What a worker is given; Ray shows how it prints, so it says nothing of subjects or URIs."""

    config: Config
    data: TrainingData
    run_name: str
    key: str
    parent_run_id: str
    attempt: str
    is_trial: bool  # of a sweep, whose table says how far it is
    labelled: LabelledData | None


def _trainer(job: _Job, to_tune: Sequence[Any]) -> InterruptibleTrainer:
    datasets: dict[str, Any] = {}
    if job.labelled is None:
        plan = make_plan(job.config, job.data)
        train_order, units = plan.train_order, plan.units
        datasets["train"] = brick_dataset(plan.unweighted_reader, train_order, units)
    return InterruptibleTrainer(
        _work,  # type: ignore[arg-type]  # may return a value, whatever its type says
        train_loop_config={"job": job},
        datasets=datasets,
        dataset_config=DataConfig(
            datasets_to_split=[],
            execution_options=ExecutionOptions(
                label_selector=selector(job.config.scaling.data_labels)
            ),
        ),
        torch_config=NamedInterfaces(),
        scaling_config=_scaling(job.config.scaling),
        run_config=_run_config(job.config, job.attempt, to_tune),
    )


class _WaitingLine(UserCallback):
    """Says what the group waits for after a loss; it lives in the process that holds the group."""

    def __init__(self, scaling: ScalingConfig) -> None:
        self._scaling = scaling

    def after_exception(
        self, run_context: Any, worker_exceptions: Mapping[int, BaseException]
    ) -> None:
        setup_logging()
        logger.warning(
            "%d of the workers failed or were lost: the run goes on from its last checkpoint when "
            "there is room for %d, up to scaling.max_failures=%d times",
            len(worker_exceptions),
            self._scaling.min_workers or self._scaling.num_workers,
            self._scaling.max_failures,
        )


def _callbacks_of_tune() -> list[Any]:
    """Return what lets a sweep see each epoch, if this process is a trial of Ray Tune."""
    try:
        return [quiet_report_callback()]
    except RuntimeError:  # it is none
        return []


def _run_config(config: Config, attempt: str, to_tune: Sequence[Any]) -> Any:
    # Our own way to remote storage: Ray's would not retry as often.
    storage, storage_path = locate(config.output_dir, "ray", setting="output_dir")
    return RunConfig(  # type: ignore[call-arg]  # typed as the older one of ray.air
        name=attempt,
        storage_path=storage_path,
        storage_filesystem=storage,
        callbacks=[_WaitingLine(config.scaling), *to_tune],  # type: ignore[list-item]  # as above
        failure_config=FailureConfig(max_failures=config.scaling.max_failures),
        checkpoint_config=CheckpointConfig(num_to_keep=1),
        logging_config=LoggingConfig(log_level="WARNING"),  # our lines tell the progress
    )


def _scaling(scaling: ScalingConfig) -> Any:
    resources = {"CPU": scaling.cpus_per_worker}
    if scaling.use_gpu:
        resources["GPU"] = 1
    num_workers: Any = scaling.num_workers
    if scaling.min_workers:
        num_workers = (scaling.min_workers, scaling.num_workers)
    return RayScalingConfig(  # type: ignore[call-arg]  # typed as the older one of ray.air
        num_workers=num_workers,
        use_gpu=scaling.use_gpu,
        resources_per_worker=resources,
        placement_strategy=scaling.placement.upper(),
        label_selector=selector(scaling.worker_labels) or None,
        elastic_resize_monitor_interval_s=RESIZE_EVERY_S,
    )


@contextmanager
def _saying_what_is_missing(config: Config, run_name: str) -> Iterator[None]:
    """Warn while the nodes cannot hold a run's workers, for which Ray Train waits in silence."""
    ended = threading.Event()
    watcher = threading.Thread(target=_count_nodes, args=(config, run_name, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _count_nodes(config: Config, run_name: str, ended: threading.Event) -> None:
    scaling = config.scaling
    least, was_enough = scaling.min_workers or scaling.num_workers, True
    while not ended.wait(COUNT_EVERY_S):
        with suppress(ray.exceptions.RayError):  # busy: the next look tells
            nodes = alive_nodes()
            room, fit = workers_beside_data(nodes, scaling), workers_that_fit(nodes, scaling)
            if (is_enough := room >= workers_taken(nodes, scaling)) == was_enough:
                continue
            was_enough = is_enough
            if is_enough:
                logger.info("%s: there is room for its workers again", run_name)
            elif fit >= least:
                logger.warning(
                    "%s waits for nodes: none that is left has a whole CPU for Ray Data "
                    "(scaling.data_labels=%s) beside %d workers (scaling.cpus_per_worker=%g): "
                    "add one%s",
                    *(run_name, " ".join(scaling.data_labels) or "any"),
                    *(workers_taken(nodes, scaling), scaling.cpus_per_worker),
                    _or_fewer(config, room),
                )
            else:
                logger.warning("%s", _missing(config, run_name, least, room))


def _or_fewer(config: Config, room: int) -> str:
    """Return the other way out, where there is room for some workers."""
    if not room:
        return ""
    return (
        f", or end it and go on with --resume {config.output_dir} --scaling.num_workers {room}"
        f"{' --scaling.min_workers 0' if config.scaling.min_workers > room else ''}"
    )


def _missing(config: Config, run_name: str, least: int, room: int) -> str:
    number = "scaling.min_workers" if config.scaling.min_workers else "scaling.num_workers"
    fewer = (
        f", or end it and go on with --resume {config.output_dir} --{number} {room}" if room else ""
    )
    wanted = config.scaling.worker_labels
    labels = f", scaling.worker_labels={' '.join(wanted)}" if wanted else ""
    return (
        f"{run_name} waits for nodes: with train.strategy={config.train.strategy} and "
        f"{number}={least} it needs {counted(least, 'worker')}, and those that are left have "
        f"room for {room} "
        f"(scaling.cpus_per_worker={config.scaling.cpus_per_worker:g}, "
        f"scaling.use_gpu={config.scaling.use_gpu}{labels}): add nodes{fewer}"
    )


def _work(loop_config: Mapping[str, _Job]) -> BaseException | None:
    """Train on this worker; return why training cannot go on, where no retry would mend it."""
    job = loop_config["job"]
    setup_logging(logging.WARNING if job.is_trial else logging.INFO)
    config, data = job.config, job.data
    # Without a GPU of its own a worker still sees the node's, which it must leave alone.
    device = get_device() if config.scaling.use_gpu else torch.device("cpu")
    tracker = (
        join_tracker(config, run_name=job.run_name, key=job.key, parent_run_id=job.parent_run_id)
        if rank() == 0
        else None
    )
    write = EpochReport(config, data.fitted.statistics.codes, tracker)

    def report(metrics: Mapping[str, float], codes: CodeMetrics | None) -> None:
        write(metrics, codes)
        ray.train.report(dict(metrics))  # every rank: it is a barrier

    try:
        train(
            _lessons(job),
            report=report,
            ask=_ask(job.attempt),
            device=device,
            label=job.run_name,
            tell=RunGauges(job.run_name),
        )
    except (FloatingPointError, PreemptedError) as error:  # on all ranks alike
        return error.with_traceback(None)
    finally:
        if tracker:
            tracker.leave()
    return None


def _lessons(job: _Job) -> Lessons:
    if job.labelled is not None:
        return Finetuning(job.config, job.data.fitted, job.labelled)
    shard = ray.train.get_dataset_shard("train")

    def bricks(epoch: int, step: int, weight_C: Float32s | None) -> Iterator[Brick]:
        cursor = Cursor(epoch=epoch, step=step, rank=rank(), world=world_size(), weight_C=weight_C)
        return ray_bricks(shard, cursor)

    return Pretraining(job.config, job.data, bricks)


def _ask(attempt: str) -> Ask:
    """Return what says whether the driver was signalled, or a node will be lost."""
    known = None

    def ask() -> Demand:
        nonlocal known
        lost = ray.train.get_preemption_info()  # a barrier
        if has_note(attempt):
            return "stop"
        if lost is None or lost == known:
            return ""
        # Saved once, and then on with it: Ray Train takes the group down when the node goes.
        known = lost
        return "save"

    return ask


def _cause(error: BaseException) -> str:
    """Return the first worker's error, or what Ray says."""
    failures = getattr(error, "worker_failures", None)
    cause = next(iter(failures.values())) if failures else error
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(cause).__name__
