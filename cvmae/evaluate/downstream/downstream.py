"""What encoders are worth on every label set: probes fitted, scored and compared."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

from meds.schema import train_split, tuning_split

from cvmae.config import Config
from cvmae.evaluate.contestants import Contestant, of_reference, reference_name
from cvmae.evaluate.downstream.candidates import (
    Candidate,
    Reading,
    add_finetuned,
    fit_candidates,
)
from cvmae.evaluate.downstream.finetuned import finetuned_with, read_finetuned
from cvmae.evaluate.downstream.predictions import Predictions
from cvmae.evaluate.downstream.results import Downstream, Task
from cvmae.evaluate.downstream.rows import differences, probe_rows
from cvmae.evaluate.downstream.scored import Outcomes, score_labels
from cvmae.evaluate.downstream.subgroups import subgroups
from cvmae.evaluate.downstream.subject_groups import Facts, label_groups, read_facts
from cvmae.evaluate.downstream.tasks import labels_in_splits, support
from cvmae.evaluate.models import device_of, load
from cvmae.evaluate.parts import Part
from cvmae.evaluate.pretrainings import begun_with
from cvmae.evaluate.results import Results
from cvmae.evaluate.seeds import MIN_SEEDS
from cvmae.meds.dataset import Dataset
from cvmae.meds.labels import Labels
from cvmae.settings_of_comparison import EvaluateConfig
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.storage.safe_names import safe_name

__all__ = ["task_parts"]

READMISSION_NOTE = (
    "General readmission cannot be studied in MIMIC-IV: it holds the patients of one hospital who "
    "came to its emergency department or an intensive care unit at some time, so that whoever "
    "returns as an emergency is in it because of the return, whoever stays away after a planned "
    "admission is not, and admissions elsewhere are unknown. There, a readmission task ranks "
    "models within that population, and says nothing of how often patients return."
)


def task_parts(
    tasks: Sequence[Labels],
    contestants: Sequence[Contestant],
    dataset: Dataset,
    statistics: CodeStatistics,
    config: Config,
) -> list[Part]:
    """Return a part for each task: probes fitted on train, chosen on tuning, scored on the split.

    Args:
        tasks: Label sets.
        contestants: All that are compared; those of best weights are left out, and fine-tuned
            ones of other tasks.
        dataset: Whose rows are read.
        statistics: Scale and clipping of hand-made features.
        config: Split, resamples and seed; where the work runs.
    """
    reading = Reading(
        dataset=dataset,
        statistics=statistics,
        scaling=config.scaling,
        unit_rows=config.data.unit_rows,
        device=device_of(config.scaling),
    )
    models = [contestant for contestant in contestants if contestant.which == "last"]
    facts = cache(
        partial(read_facts, dataset, scaling=config.scaling, unit_rows=config.data.unit_rows)
    )

    def add(labels: Labels, results: Results) -> tuple[Results, list[Predictions]]:
        task, own = _score_task(labels, models, reading, config.evaluate, facts())
        before = results.downstream.tasks if results.downstream else ()
        found, split = (*before, task), config.evaluate.split
        downstream = Downstream(split=split, tasks=found, notes=_notes(found, models, split))
        return replace(results, downstream=downstream), own

    return [
        Part(name=f"task {labels.name}", add=partial(add, labels), is_long=True) for labels in tasks
    ]


def _score_task(
    labels: Labels,
    models: Sequence[Contestant],
    reading: Reading,
    config: EvaluateConfig,
    facts: Facts,
) -> tuple[Task, list[Predictions]]:
    within = labels_in_splits(labels, reading.dataset.members)
    found = support(labels, within, config.split)
    if not found.is_learned:
        return Task(support=found, probes=(), differences=(), subgroups=()), []
    boolean = labels.kind == "boolean"
    middle = 0.0 if boolean else float(labels.value_L[within[train_split]].mean())
    outcomes = Outcomes(
        outcome_L=labels.value_L - middle, subject_id_L=labels.subject_id_L, boolean=boolean
    )
    encoders = [model for model in models if model.serves != "predictions"]
    learnt = finetuned_with(models, labels)
    ended = [(run.name, read_finetuned(run, labels, within[config.split])) for run in learnt]
    candidates = fit_candidates(
        labels, outcomes.outcome_L, within, encoders, reading, seed=config.seed
    )
    add_finetuned(candidates, ended)
    resampling = {"samples": config.bootstrap_samples, "seed": config.seed}
    scored = score_labels(
        candidates, outcomes, within[config.split], undefined=found.not_scored, **resampling
    )
    names = list(dict.fromkeys(model.name for model in (*encoders, *learnt)))
    reference = reference_name([model.name for model in of_reference(encoders)])
    task = Task(
        support=found,
        probes=probe_rows(scored),
        differences=differences(scored, names, reference),
        subgroups=subgroups(scored, label_groups(facts, labels), **resampling),
    )
    return task, [
        Predictions(
            name=_file(labels.name, candidate, number),
            labels=labels,
            scored_L=scored.chosen_L,
            chance_L=probe.predicted_L,
        )
        for candidate in (candidates if boolean else ())
        for number, probe in enumerate(candidate.probes)
    ]


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text)


def _file(task: str, candidate: Candidate, seed: int) -> str:
    # Names of models and tasks are anybody's, and may differ in a blank alone; all else is ours.
    own = _plain if candidate.kind == "hand-made" else safe_name
    parts = (own(candidate.method), _plain(candidate.features), _plain(candidate.learner))
    name = "_".join(dict.fromkeys(parts))
    return f"{safe_name(task)}/{name}_{seed}.parquet"


def _notes(tasks: Sequence[Task], models: Sequence[Contestant], split: str) -> tuple[str, ...]:
    notes = []
    began_of = {c.path: begun_with(c.path, load(c, "cpu").config) or c.path for c in models}
    num_seeds: dict[str, int] = {}  # in the task with fewest: a fine-tuned run has part in one
    for row in (row for task in tasks for row in task.probes if row.checkpoints):
        seeds = len({began_of[path] for path in row.checkpoints})
        num_seeds[row.method] = min(seeds, num_seeds.get(row.method, seeds))
    few = [f"{name} ({seeds})" for name, seeds in num_seeds.items()]
    if any(seeds < MIN_SEEDS for seeds in num_seeds.values()):
        notes.append(
            f"Fewer than {MIN_SEEDS} seeds of a policy decide nothing about it, since seeds of "
            f"one policy differ as policies do: seeds here are {', '.join(few)}."
        )
    if split == tuning_split:
        notes.append(
            "Scores are on tuning, on which strengths and features were chosen: they flatter."
        )
    if any("readmission" in task.support.name for task in tasks):
        notes.append(READMISSION_NOTE)
    return tuple(notes)
