"""Dry runs of the verbs that put trained models to use."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np

from cvmae.checkpoint import load_model
from cvmae.config import Config, resolved_path
from cvmae.dry_run.sections import cluster_section, data_section, output_section
from cvmae.evaluate.evaluate import find_comparison
from cvmae.evaluate.report.page import REPORT
from cvmae.infer.card import CARD
from cvmae.infer.embed import may_hold
from cvmae.infer.pooling import refuse_pooling, width_of
from cvmae.infer.unit_files import unit_file
from cvmae.meds.dataset import Dataset, open_dataset
from cvmae.meds.labels import read_tasks
from cvmae.plan.lines import Line, Section
from cvmae.plan.memory import num_parameters
from cvmae.storage.folders import is_file, join, names
from cvmae.storage.output import (
    absolute_output,
    output_folder,
    refuse_in_data_set,
    require_new,
)

__all__ = ["embed_asked", "evaluate_asked", "export_asked"]

EMBEDDINGS, FACTS = "embeddings", "embed.json"
EMBEDDING_BYTES = 4  # a number


def evaluate_asked(config: Config) -> Iterator[Section]:
    """Yield what a comparison would take; see `evaluate` for what is refused."""
    root = config.data.root
    with output_folder(config.output_dir, "evaluate", data_root=root, look=True) as folder:
        compared = find_comparison(config, folder)
        yield data_section(compared.dataset, config.data.unit_rows)[0]
        yield cluster_section(config.scaling)
        split = config.evaluate.split
        seeds = len(compared.found)
        named = sorted({contestant.name for contestant in compared.found})
        lines = [
            Line(
                name="models", value=seeds, why=f"{', '.join(named)}; all seeds, and best weights"
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
        yield Section(title="what is compared", lines=lines)
        files = [("results.json", "all figures"), (REPORT, "a page"), ("codes.parquet", "by code")]
        yield output_section(replace(config, output_dir=folder), files)


def embed_asked(config: Config) -> Iterator[Section]:
    """Yield what a job of embedding would take; see `embed` for what is refused."""
    _require_checkpoint(config)
    with _looked_at(config) as folder:
        config = replace(config, output_dir=folder)
        model = load_model(resolved_path(config.infer.checkpoint))
        refuse_pooling(model, [config.infer.pooling])
        dataset = open_dataset(config.data.root or model.config.data.root)
        refuse_in_data_set(folder, dataset.root)
        section, units = data_section(dataset, config.data.unit_rows)
        yield section
        yield cluster_section(config.scaling)
        subject_S, moments, how = _whom(config, dataset)
        own = [number for number, unit in enumerate(units) if may_hold(unit, subject_S)]
        found = set(names(join(folder, EMBEDDINGS)))
        there = sum(unit_file(number) in found for number in own)
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
            Line(
                name="units to embed",
                value=len(own) - there,
                why=f"{there} of {len(own)} are there",
            ),
        ]
        yield Section(title="what is embedded", lines=lines)
        files = [
            (f"{EMBEDDINGS}/", f"{len(own)} files, one a unit"),
            ("report.json", "how the data set and the model's vocabulary agree"),
        ]
        yield output_section(config, files)


def export_asked(config: Config) -> Iterator[Section]:
    """Yield what an export would write; see `export` for what is refused."""
    _require_checkpoint(config)
    with output_folder(config.output_dir, "export", look=True) as folder:
        model = load_model(resolved_path(config.infer.checkpoint))
        num_codes = model.fitted.statistics.num_codes
        parameters = num_parameters(model.config.model, num_codes)
        lines = [
            Line(name="parameters", value=parameters, why=f"a vocabulary of {num_codes} codes"),
            Line(name="epoch", value=model.progress.epoch, why="of the checkpoint that is chosen"),
        ]
        yield Section(title="the model", lines=lines)
        files = [("model.safetensors", f"{4 * parameters / 1e6:.3g} MB"), (CARD, "what it is")]
        yield output_section(replace(config, output_dir=folder, resume=""), files)


def _require_checkpoint(config: Config) -> None:
    if not config.infer.checkpoint:
        raise ValueError("infer.checkpoint is empty: say --infer.checkpoint RUN_DIR of a model")


def _looked_at(config: Config) -> AbstractContextManager[str]:
    """Look at the folder of a job that goes on by what is there."""
    folder = absolute_output(config.output_dir)
    if config.resume and absolute_output(config.resume, "resume") != folder:
        raise ValueError(
            f"--resume {config.resume} continues in its own folder: leave out --output_dir"
        )
    check: Callable[[str], None] = _require_begun if config.resume else require_new
    root = resolved_path(config.data.root)
    return output_folder(folder, "embed", data_root=root, check=check, look=True)


def _require_begun(folder: str) -> None:
    if not is_file(join(folder, FACTS)):
        raise FileNotFoundError(f"--resume {folder}: no {FACTS} there, so no embeddings")


def _whom(config: Config, dataset: Dataset) -> tuple[np.ndarray, int, str]:
    """Return the subjects that are embedded, how many moments of them, and what says so."""
    if not config.infer.labels:
        subject_S = np.sort(np.concatenate(list(dataset.members.values())))
        return subject_S, len(subject_S), "at most: every subject at its last measurement"
    tasks = read_tasks(config.infer.labels)
    pairs = {
        pair
        for task in tasks
        for pair in zip(task.subject_id_L.tolist(), task.time_us_L.tolist(), strict=True)
    }
    subject_S = np.unique(np.concatenate([task.subject_id_L for task in tasks]))
    return subject_S, len(pairs), f"subjects and times of infer.labels ({len(tasks)} label sets)"
