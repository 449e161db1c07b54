"""Dry runs of the verbs that train: steps, balance, memory and hours of what is left to do."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from meds.schema import held_out_split, train_split, tuning_split

from cvmae.checkpoint import CHECKPOINTS, Loaded, Progress, has_checkpoints, load_model
from cvmae.config import Config
from cvmae.dry_run.sections import (
    cluster_section,
    cores_here,
    data_section,
    nodes_of,
    output_section,
    passes_line,
)
from cvmae.dry_run.timing import training_time
from cvmae.meds.dataset import Dataset, open_dataset
from cvmae.meds.splits import SPLITS, is_among
from cvmae.plan.inputs import INPUTS
from cvmae.plan.lines import Line, Section, hours_line
from cvmae.plan.memory import num_parameters
from cvmae.plan.one_run import (
    Amount,
    CpuTime,
    bricks_line,
    gpu_hours,
    memory_lines_of_run,
    order_lines,
)
from cvmae.plan.size import dataset_size
from cvmae.runtime.start_ray import check_nodes, trains_on_gpu
from cvmae.runtime.tables import counted
from cvmae.statistics.fit import fitted_before, load_or_fit, require_sequences
from cvmae.statistics.fitted import FittedData, TrainingData
from cvmae.sweep.concurrency import num_on_nodes
from cvmae.sweep.driver import ONLY_LOCAL, OVER, checked_trials, require_weights
from cvmae.sweep.trials import Trial, progress_of, trial_status
from cvmae.tracking.store import name_store, store_uri
from cvmae.train.finetune import (
    PREDICTIONS,
    check_finetuning,
    fitted_with,
    learning_config,
    learnt_labels,
)
from cvmae.train.finetuning import steps_of_labels
from cvmae.train.outlook import epoch_amount
from cvmae.train.pretrain import SPLITS_TRAINED_ON, check_settings
from cvmae.train.pretrained import load_pretrained
from cvmae.train.resume import check_same_run
from cvmae.train.run_folder import run_folder
from cvmae.train.streams import make_plan

__all__ = ["finetune_asked", "pretrain_asked", "sweep_asked"]

WEIGHT_BYTES, MOMENT_BYTES = 4, 8  # a parameter in a checkpoint


def pretrain_asked(config: Config) -> Iterator[Section]:
    """Yield what a pretraining would take; see `pretrain` for what is refused."""
    with run_folder(config, look=True) as config:
        config = name_store(config)
        check_settings(config)
        dataset = open_dataset(config.data.root, SPLITS_TRAINED_ON)
        fitted = _known(config, dataset)
        has_begun = has_checkpoints(config.output_dir)
        progress = check_same_run(config, fitted) if has_begun and fitted else Progress()
        yield data_section(dataset, config.data.unit_rows)[0]
        yield cluster_section(config.scaling, trains=True)
        yield _training(config, dataset, fitted, progress)
        num_codes = fitted.statistics.num_codes if fitted else config.data.num_codes
        yield output_section(config, _run_files(config, num_codes))


def sweep_asked(config: Config) -> Iterator[Section]:
    """Yield what a sweep would take; see `sweep` for what is refused."""
    with run_folder(config, "sweep", only_local=ONLY_LOCAL, look=True) as config:
        config = name_store(config)
        trials = checked_trials(config)
        dataset = open_dataset(config.data.root, SPLITS_TRAINED_ON)
        fitted = _known(config, dataset)
        status = {trial.name: trial_status(trial) for trial in trials}
        waiting = [trial for trial in trials if status[trial.name] not in OVER]
        if fitted:
            require_weights(waiting, TrainingData(source=dataset.source, fitted=fitted))
        nodes = nodes_of(config.scaling)
        if nodes:
            check_nodes(config.scaling, nodes)
        at_once = min(num_on_nodes(config, nodes), max(len(waiting), 1)) if nodes else 1
        yield data_section(dataset, config.data.unit_rows)[0]
        yield cluster_section(config.scaling, trains=True, num_at_once=at_once)
        yield _grid(config, trials, waiting, dataset, fitted, at_once)
        if waiting:
            first = waiting[0]
            section = _training(first.config, dataset, fitted, progress_of(first.config.output_dir))
            yield replace(section, title=f"trial {first.name}")
        yield output_section(
            config,
            [
                ("trials/NAME", f"a run folder for each of {counted(len(trials), 'trial')}"),
                ("summary.json", "what they have shown; report.txt, tables/, figures/ beside"),
            ],
        )


def finetune_asked(config: Config) -> Iterator[Section]:
    """Yield what a fine-tuning would take; see `finetune` for what is refused."""
    with run_folder(config, "fine-tuning", look=True) as config:
        config = name_store(config)
        check_finetuning(config)
        has_begun = has_checkpoints(config.output_dir)
        own = load_model(config.output_dir) if has_begun else load_pretrained(config)[0]
        config = learning_config(config, own.config)
        labels = learnt_labels(config)
        dataset = open_dataset(config.data.root, SPLITS)
        fitted = fitted_with(labels, own.fitted, dataset)
        progress = check_same_run(config, fitted) if has_begun else Progress()
        yield data_section(dataset, config.data.unit_rows)[0]
        yield cluster_section(config.scaling, trains=True)
        counts = {
            split: int(is_among(dataset.members[split], labels.subject_id_L).sum())
            for split in SPLITS
        }
        steps = steps_of_labels(counts[train_split], config.train.batch_sequences)
        lines = [
            Line(
                name="labels of train",
                value=counts[train_split],
                why=f"{tuning_split} {counts[tuning_split]:,}, {held_out_split} "
                f"{counts[held_out_split]:,}; finetune.labels, {labels.name}",
            ),
            Line(
                name="steps an epoch",
                value=steps,
                why=f"labels / finetune.batch_labels={config.train.batch_sequences}",
            ),
            Line(
                name="steps of the run",
                value=steps * config.train.epochs,
                why=_left(config, progress.epoch),
            ),
            Line(
                name="labels a step and rank",
                value=counts[train_split] / steps / max(config.scaling.num_workers, 1),
                why=f"train.accumulation_steps={config.train.accumulation_steps} parts of these",
            ),
            *memory_lines_of_run(
                config,
                own.fitted.statistics.num_codes,
                # At most: a window need not be full.
                step_measurements=config.train.batch_sequences * config.data.sequence_length,
                on_gpu=trains_on_gpu(config.scaling),
            ),
        ]
        yield Section(title="training", lines=[*lines, _label_hours(config, own, progress, counts)])
        files = _run_files(config, own.fitted.statistics.num_codes)
        yield output_section(
            config, [*files, (PREDICTIONS, f"a row for each label of {held_out_split}")]
        )


def _known(config: Config, dataset: Dataset) -> FittedData | None:
    """Return the statistics that the run would take, None where it would fit its own."""
    if not fitted_before(config):
        return None
    fitted = load_or_fit(config, dataset)
    require_sequences(fitted)
    return fitted


def _training(
    config: Config, dataset: Dataset, fitted: FittedData | None, progress: Progress
) -> Section:
    left = _epochs_left(config, progress)
    lines = (
        _exact_lines(config, dataset, fitted, left)
        if fitted
        else _about_lines(config, dataset, left)
    )
    first = Line(name="epochs left", value=left, why=_left(config, progress.epoch))
    return Section(title="training", lines=[first, *lines])


def _epochs_left(config: Config, progress: Progress) -> int:
    return max(config.train.epochs - progress.epoch, 0)


def _left(config: Config, done: int) -> str:
    return f"train.epochs={config.train.epochs}, {done} are done"


def _exact_lines(config: Config, dataset: Dataset, fitted: FittedData, left: int) -> Iterator[Line]:
    """Yield what follows from statistics that are there."""
    order = make_plan(config, TrainingData(source=dataset.source, fitted=fitted)).train_order
    amount = epoch_amount(fitted)
    yield Line(name="sequences of train", value=int(amount.num_sequences), why="unit index")
    yield Line(name="measurements of train", value=int(amount.num_measurements), why="unit index")
    yield from order_lines(
        order,
        num_ranks=max(config.scaling.num_workers, 1),
        num_epochs=config.train.epochs,
        parts=config.train.accumulation_steps,
    )
    steps, num_codes = order.num_steps(0), fitted.statistics.num_codes
    yield from _costs(config, amount, num_codes, steps=steps, left=left)
    supersteps = sum(1 for _ in order.supersteps(0))
    yield bricks_line(amount.num_measurements / (supersteps * order.lanes))


def _about_lines(config: Config, dataset: Dataset, left: int) -> Iterator[Line]:
    """Yield what footers tell, where nothing is fitted yet."""
    yield passes_line(dataset, config)
    amount, how = _about(config, dataset)
    yield Line(name="measurements of train", value=amount.num_measurements, why=how)
    yield Line(
        name="sequences of train",
        value=amount.num_sequences,
        why="at most: subjects + measurements / data.sequence_length",
    )
    steps = max(1, round(amount.num_sequences / config.train.batch_sequences))
    yield Line(
        name="steps an epoch",
        value=steps,
        why="about; exactly by --data.statistics FOLDER of jobs/fit_statistics.py",
    )
    ranks = max(config.scaling.num_workers, 1)
    yield Line(
        name="sequences a step and rank",
        value=config.train.batch_sequences / ranks,
        why=f"train.batch_sequences={config.train.batch_sequences} over {ranks} ranks, in "
        f"train.accumulation_steps={config.train.accumulation_steps} micro-batches",
    )
    yield from _costs(config, amount, config.data.num_codes, steps=steps, left=left)


def _about(config: Config, dataset: Dataset) -> tuple[Amount, str]:
    """Return what an epoch holds by the footers alone, and how the measurements are estimated."""
    size = dataset_size(dataset, 0, INPUTS["rows_a_measurement"].otherwise)
    windows = 0.0 if config.data.crop else size.num_measurements / config.data.sequence_length
    subjects = dataset.num_subjects[train_split]
    amount = Amount(num_sequences=subjects + windows, num_measurements=size.num_measurements)
    return amount, size.measurements_why


def _costs(
    config: Config, amount: Amount, num_codes: int, *, steps: int, left: int
) -> Iterator[Line]:
    on_gpu = trains_on_gpu(config.scaling)
    yield from memory_lines_of_run(
        config, num_codes, step_measurements=amount.num_measurements / steps, on_gpu=on_gpu
    )
    yield _hours(config, amount, num_codes, left)


def _label_hours(
    config: Config, own: Loaded, progress: Progress, counts: Mapping[str, int]
) -> Line:
    """Return how long labels take, as if a step of theirs took what one of pretraining does."""
    is_known = bool(own.fitted.unit_index.units)  # else of an export, which has none
    length = epoch_amount(own.fitted).mean_length if is_known else config.data.sequence_length
    number = counts[train_split]
    amount = Amount(num_sequences=number, num_measurements=number * length)
    num_codes = own.fitted.statistics.num_codes
    return _hours(config, amount, num_codes, _epochs_left(config, progress))


def _hours(config: Config, amount: Amount, num_codes: int, left: int) -> Line:
    if trains_on_gpu(config.scaling):
        return gpu_hours(config, amount, epochs=left)
    cores, taken = cores_here(config.scaling), training_time(config, amount, num_codes, left)
    what = f"{taken.in_turn:.3g} h of steps, one after another, as timed here just now"
    beside = f"; {taken.of_cores:.3g} core hours with reading, on {cores:g} cores"
    why = f"{left} epochs: {what}{beside if math.isfinite(cores) else ''}"
    return hours_line(taken.hours(cores), why)


def _grid(
    config: Config,
    trials: Sequence[Trial],
    waiting: Sequence[Trial],
    dataset: Dataset,
    fitted: FittedData | None,
    at_once: int,
) -> Section:
    """Return what all trials together take."""
    amount = epoch_amount(fitted) if fitted else _about(config, dataset)[0]
    left = [_epochs_left(t.config, progress_of(t.config.output_dir)) for t in waiting]
    num_codes = fitted.statistics.num_codes if fitted else config.data.num_codes
    hours, how = _hours_of_grid([t.config for t in waiting], left, amount, num_codes, at_once)
    limits = [
        f"sweep.{name}={getattr(config.sweep, name):g}"
        for name in ("max_trials", "max_epochs", "max_hours")
        if getattr(config.sweep, name)
    ]
    return Section(
        title="the grid",
        lines=[
            Line(name="trials", value=len(trials), why=f"{len(trials) - len(waiting)} are over"),
            Line(name="trials at a time", value=at_once, why="resources, sweep.max_concurrent"),
            Line(name="epochs", value=sum(left), why="of all trials that are left"),
            hours_line(
                hours,
                f"{how}, {at_once} at a time"
                + (f"; ends early by {', '.join(limits)}" if limits else ""),
            ),
        ],
    )


def _hours_of_grid(
    trials: Sequence[Config], left: Sequence[int], amount: Amount, num_codes: int, at_once: int
) -> tuple[float, str]:
    if not trials:
        return 0.0, "no trial is left"
    each = list(zip(trials, left, strict=True))
    if trains_on_gpu(trials[0].scaling):
        total = sum(float(gpu_hours(own, amount, epochs=n).value) for own, n in each)
        return total / at_once, f"{total:.3g} h of trials"
    parts = [training_time(own, amount, num_codes, n) for own, n in each]
    taken = CpuTime(
        in_turn=sum(part.in_turn for part in parts), of_cores=sum(part.of_cores for part in parts)
    )
    how = f"{taken.in_turn:.3g} h of steps and {taken.of_cores:.3g} core hours in all"
    return taken.hours(cores_here(trials[0].scaling), at_once), how


def _run_files(config: Config, num_codes: int) -> list[tuple[str, str]]:
    size = num_parameters(config.model, num_codes) * (WEIGHT_BYTES + MOMENT_BYTES) / 1e6
    kept = config.checkpoint.keep + 1
    files = [
        ("config.yaml", "settings"),
        (CHECKPOINTS, f"{kept} at most, {size:.3g} MB each and the statistics"),
        ("metrics.parquet", "metrics of each epoch; code_metrics.parquet: of each code"),
    ]
    if uri := store_uri(config):
        place = "a server" if "://" in uri and not uri.startswith("sqlite") else "mlflow.db"
        files.append((place, "MLflow, with the same metrics"))
    return files
