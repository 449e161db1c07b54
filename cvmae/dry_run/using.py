"""Dry runs of the verbs that put trained models to use."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from meds.schema import held_out_split, tuning_split

from cvmae.arrays import Ints
from cvmae.checkpoint import Loaded
from cvmae.config import Config, resolved_path
from cvmae.dry_run.sections import cluster_section, cores_here, data_section, output_section
from cvmae.dry_run.timing import embedding_seconds, restoring_seconds, scoring_seconds
from cvmae.evaluate.evaluate import Comparison, find_comparison
from cvmae.evaluate.models import device_of as where_models_score
from cvmae.evaluate.own_masks import declare_columns
from cvmae.evaluate.report import page
from cvmae.infer import embed_set, impute_set
from cvmae.infer.asked import KnownCodes
from cvmae.infer.card import CARD
from cvmae.infer.embed import ASKED
from cvmae.infer.export import find_model
from cvmae.infer.frames import read_asked_file
from cvmae.infer.impute_report import COVERAGE, REPORT
from cvmae.infer.pooling import refuse_pooling, width_of
from cvmae.infer.restoring import refuse_imputing
from cvmae.infer.unit_files import units_there
from cvmae.infer.unit_job import (
    Numbered,
    UnitJob,
    device_of,
    held_folder,
    load_unchanged,
    open_data,
    require_same,
    require_use,
    subjects_asked,
    units_asked,
)
from cvmae.meds.dataset import Dataset, Source
from cvmae.meds.units import Unit, plan_units
from cvmae.plan.inputs import INPUTS
from cvmae.plan.lines import Line, Section, hours_line
from cvmae.plan.memory import num_parameters
from cvmae.runtime.tables import counted
from cvmae.storage.folders import is_file, join
from cvmae.storage.output import output_folder

__all__ = ["embed_asked", "evaluate_asked", "export_asked", "impute_asked"]

EMBEDDING_BYTES = 4  # a number
READINGS = 7  # of an evaluation: a look, the scores, three for context, two for perturbation


def evaluate_asked(config: Config) -> Iterator[Section]:
    """Yield what a comparison would take; see `evaluate` for what is refused."""
    root = config.data.root
    with output_folder(config.output_dir, "evaluate", data_root=root, look=True) as folder:
        compared = find_comparison(config, folder)
        yield data_section(compared.dataset, config.data.unit_rows)[0]
        yield cluster_section(config.scaling)
        split = config.evaluate.split
        runs = [contestant for contestant in compared.found if contestant.which == "last"]
        named = sorted({contestant.name for contestant in runs})
        num_best = len(compared.found) - len(runs)
        lines = [
            Line(name="models", value=len(runs), why=f"{', '.join(named)}; each seed is one"),
            Line(
                name="weights",
                value=len(compared.found),
                why="the last of each model" + f", and the best of {num_best}" * (num_best > 0),
            ),
            Line(
                name="codes",
                value=compared.statistics.num_codes,
                why="their vocabulary; statistics of the reference, or evaluate.statistics",
            ),
            Line(
                name=f"subjects of {split}",
                value=compared.dataset.num_subjects[split],
                why="evaluate.split",
            ),
            Line(
                name="label sets",
                value=len(compared.tasks),
                why=", ".join(task.name for task in compared.tasks) or "evaluate.labels is empty",
            ),
        ]
        if where_models_score(config.scaling) == "cpu":
            lines.append(_evaluation_hours(config, compared))
        yield Section(title="what is compared", lines=lines)
        files = [
            ("results.json", "all figures"),
            (page.REPORT, "a page"),
            ("codes.parquet", "by code"),
        ]
        yield output_section(replace(config, output_dir=folder), files)


def _evaluation_hours(config: Config, compared: Comparison) -> Line:
    """Return how long reconstruction takes, by a few subjects that are scored here and now."""
    asked, dataset = config.evaluate, compared.dataset
    columns = declare_columns(
        compared.contestants, compared.statistics, ratio=asked.mask_ratio, limit=None
    )
    each = scoring_seconds(compared, config, columns)
    subjects = dataset.num_subjects[asked.split]
    # A value hidden alone takes a window's pass, as a subject does under one column.
    alone = min(asked.leave_one_out, subjects * compared.statistics.num_codes)
    scoring = each * (subjects + alone / len(columns))
    rows, row = sum(shard.num_rows for shard in dataset.shards), INPUTS["pass_1"].otherwise
    reading = READINGS * rows * row
    if config.scaling.num_workers:
        tasks = READINGS * len(plan_units(dataset, config.data.unit_rows))
        reading += tasks * INPUTS["unit_cpu"].otherwise
    cores = cores_here(config.scaling) if config.scaling.num_workers else 1
    at_once = cores if math.isfinite(cores) else config.scaling.num_workers
    return hours_line(
        (scoring + reading) / at_once / 3600,
        f"of reconstruction on {at_once:g} cores: {each * 1e3:.2g} ms a subject, as timed here "
        f"just now, {alone:,} values at most alone (evaluate.leave_one_out); all rows are read "
        f"{READINGS} times",
    )


def embed_asked(config: Config) -> Iterator[Section]:
    """Yield what a job of embedding would take; see `embed` for what is refused."""
    with held_folder(embed_set.JOB, config, look=True) as config:
        model, stamp, device = load_unchanged(config)
        refuse_pooling(model, [config.infer.pooling])
        dataset = open_data(config, model)
        asked = embed_set.asked_moments(config.infer.labels)
        require_use(embed_set.JOB, _here(config), model, dataset, asked)
        facts = embed_set.facts_of(config, stamp, dataset, asked) | {"device": device}
        require_same(embed_set.JOB, config, facts)
        subject_S = subjects_asked(dataset, asked)
        moments, how = len(subject_S), "at most: every subject at its last measurement"
        if asked is not None:
            moments, how = asked.num_moments, "subjects and times of infer.labels"
        width = width_of(model, config.infer.pooling)
        lines = [
            Line(name="embeddings", value=moments, why=how),
            Line(name="numbers each", value=width, why=f"infer.pooling={config.infer.pooling}"),
            Line(
                name="size",
                value=moments * width * EMBEDDING_BYTES / 1e9,
                unit="GB",
                why="before compression",
            ),
        ]
        units = units_asked(plan_units(dataset, config.data.unit_rows), subject_S)
        if units and device == "cpu":
            source = Source(root=dataset.root, members={ASKED: subject_S})
            waiting = _waiting(embed_set.JOB, config, units)
            lines.append(_embedding_hours(config, model, source, waiting, moments / len(units)))
        report = ("report.json", "how the data set and the model's vocabulary agree")
        yield from _units_asked(embed_set.JOB, config, dataset, subject_S, lines, [report])


def _embedding_hours(
    config: Config, model: Loaded, source: Source, units: Sequence[Unit], in_unit: float
) -> Line:
    """Return how long units take, by a part of one that is embedded here and now.

    Args:
        config: Of the verb.
        model: That embeds.
        source: Of whom.
        units: That are left.
        in_unit: Embeddings of each, in the mean.
    """
    seconds = (0.0, 0.0)
    if units:
        seconds = embedding_seconds(model, source, units, config.infer.pooling)
    return _hours_of_units(config, seconds, len(units), in_unit * len(units), "an embedding")


def _restoring_hours(
    config: Config, model: Loaded, dataset: Dataset, splits: Sequence[str], own_S: Ints
) -> Line:
    """Return how long restoring takes, by subjects whose values are restored here and now.

    As if a share of the values of those who are asked for were missing; many times of a subject
    that lie apart, or before its first measurement, take more.

    Args:
        config: Of the verb.
        model: That restores.
        dataset: Of which.
        splits: Whose hidden values are restored for intervals or for their coverage.
        own_S: Who is asked for.
    """
    everybody_S = subjects_asked(dataset, None)
    units = plan_units(dataset, config.data.unit_rows)
    of_all = Source(root=dataset.root, members={ASKED: everybody_S})
    seconds = restoring_seconds(model, of_all, units, config)
    own = units_asked(units, own_S)
    waiting = _waiting(impute_set.JOB, config, own)
    subjects = len(own_S) * len(waiting) / max(len(own), 1)
    subjects += sum(dataset.num_subjects[split] for split in splits)
    readings = len(waiting) + len(splits) * len(units)
    return _hours_of_units(config, seconds, readings, subjects, "a subject")


def _waiting(job: UnitJob, config: Config, own: Sequence[Numbered]) -> list[Unit]:
    """Return the units of a job that are not there yet."""
    there = units_there(join(config.output_dir, job.folder), [number for number, _ in own])
    return [unit for number, unit in own if number not in there]


def _hours_of_units(
    config: Config, seconds: tuple[float, float], num_units: int, number: float, what: str
) -> Line:
    reading, each = seconds
    at_once = min(max(config.scaling.num_workers, 1), cores_here(config.scaling))
    return hours_line(
        (num_units * reading + number * each) / at_once / 3600,
        f"{counted(num_units, 'unit')} of {reading:.2g} s to read, {at_once:g} at a time; "
        f"{number:,.0f} x {each * 1e3:.2g} ms for {what}, as timed here just now",
    )


def impute_asked(config: Config) -> Iterator[Section]:
    """Yield what a job of imputing would take; see `impute` for what is refused."""
    with held_folder(impute_set.JOB, config, look=True) as config:
        model, stamp, device = load_unchanged(config)
        refuse_imputing(model)
        dataset = open_data(config, model)
        known, path = KnownCodes.of(model.fitted.statistics), config.infer.rows
        asked = read_asked_file(path, known) if path else None
        require_use(impute_set.JOB, _here(config), model, dataset, asked)
        facts = impute_set.facts_of(config, stamp, dataset, asked) | {"device": device}
        source = impute_set.residuals_of(config, model, dataset)
        require_same(impute_set.JOB, config, facts)
        subject_S, lines = subjects_asked(dataset, asked), []
        if asked is not None:
            lines.append(Line(name="rows asked for", value=asked.num_rows, why="infer.rows"))
        level = config.infer.level
        how = f"residuals of {source}; infer.past_only={config.infer.past_only}"
        lines.append(Line(name="level of intervals", value=level, why=how))
        if device == "cpu":
            held = [held_out_split] if source == impute_set.OF_MODEL else [held_out_split, source]
            if is_file(join(config.output_dir, COVERAGE)):
                held = []
            lines.append(_restoring_hours(config, model, dataset, held, subject_S))
        files = [(REPORT, "what became of the rows, and what intervals hold of held-out values")]
        yield from _units_asked(impute_set.JOB, config, dataset, subject_S, lines, files)


def export_asked(config: Config) -> Iterator[Section]:
    """Yield what an export would write; see `export` for what is refused."""
    found = find_model(config)
    model, why = found.loaded, found.choice.why
    root = resolved_path(config.data.root)
    with output_folder(config.output_dir, "export", data_root=root, look=True) as folder:
        num_codes = model.fitted.statistics.num_codes
        parameters = num_parameters(model.config.model, num_codes)
        lines = [
            Line(
                name="parameters",
                value=parameters,
                why=f"a vocabulary of {counted(num_codes, 'code')}",
            ),
            Line(name="epoch", value=model.progress.epoch, why=why or "of its checkpoint"),
        ]
        if found.dataset:
            yield data_section(found.dataset, config.data.unit_rows)[0]
            yield cluster_section(config.scaling)
            if device_of(config.scaling) == "cpu":
                splits, nobody_S = [tuning_split], np.empty(0, np.int64)
                lines.append(_restoring_hours(config, model, found.dataset, splits, nobody_S))
        yield Section(title="the model", lines=lines)
        files = [("model.safetensors", f"{4 * parameters / 1e6:.3g} MB"), (CARD, "what it is")]
        yield output_section(replace(config, output_dir=folder, resume=""), files)


def _here(config: Config) -> Config:
    """Return settings under which what is read is read in this process: a dry run starts no Ray."""
    return replace(config, scaling=replace(config.scaling, num_workers=0))


def _units_asked(
    job: UnitJob,
    config: Config,
    dataset: Dataset,
    subject_S: Ints,
    lines: Sequence[Line],
    files: Sequence[tuple[str, str]],
) -> Iterator[Section]:
    """Yield the sections of a job that works units off to files, and goes on by what is there."""
    section, units = data_section(dataset, config.data.unit_rows)
    yield section
    yield cluster_section(config.scaling)
    own = units_asked(units, subject_S)
    left = len(_waiting(job, config, own))
    how = f"{len(own) - left} of {len(own)} are there"
    waiting = Line(name=f"units to {job.verb}", value=left, why=how)
    yield Section(title=f"what {job.verb} makes", lines=[*lines, waiting])
    yield output_section(
        config, [(f"{job.folder}/", f"{counted(len(own), 'file')}, one a unit"), *files]
    )
