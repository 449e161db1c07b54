"""The verb `evaluate`: models on the same hidden values -> results, figures and a report."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.config import Config, write_config
from cvmae.evaluate.column_results import (
    add_columns,
    codes_table,
    merge_columns,
    prepare_columns,
)
from cvmae.evaluate.contestants import Contestant, not_compared, require_use
from cvmae.evaluate.context import measure_context
from cvmae.evaluate.convergence import History
from cvmae.evaluate.downstream.downstream import task_parts
from cvmae.evaluate.downstream.finetuned import require_tasks
from cvmae.evaluate.downstream.predictions import Predictions, write_predictions
from cvmae.evaluate.models import (
    choose_reference,
    choose_statistics,
    device_of,
    find_contestants,
    load,
    score_unit,
)
from cvmae.evaluate.notes import reading_notes
from cvmae.evaluate.one_target import Examination
from cvmae.evaluate.parts import Part, add_parts, require_all
from cvmae.evaluate.perturbation import measure_perturbation
from cvmae.evaluate.provenance import provenance
from cvmae.evaluate.reconstruction import Sums
from cvmae.evaluate.report.downstream_section import downstream_table
from cvmae.evaluate.report.page import REPORT, methods_table, write_report
from cvmae.evaluate.results import Results, Settings, build_results, to_json
from cvmae.evaluate.to_runs import run_results
from cvmae.infer.embed import may_hold
from cvmae.infer.matching import require_common_code
from cvmae.meds.code_names import code_names
from cvmae.meds.dataset import Dataset, open_dataset
from cvmae.meds.labels import Labels, read_tasks
from cvmae.meds.units import Unit, plan_units
from cvmae.runtime.map_units import map_units
from cvmae.runtime.start_ray import start_ray
from cvmae.runtime.tables import counted
from cvmae.settings import ScalingConfig
from cvmae.settings_of_comparison import EvaluateConfig
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.storage.folders import join, written
from cvmae.storage.output import absolute_output, output_folder, refuse_in_data_set
from cvmae.tracking.results import give_to_runs

__all__ = ["Comparison", "compare_models", "evaluate", "find_comparison"]


def evaluate(config: Config) -> str:
    """Compare checkpoints as `compare_models` does.

    Returns:
        A table for the terminal, which ends with where the report is.

    Raises:
        ValueError: As `compare_models`; or a part failed (after the others have ended; the message
            holds the table).
        FileNotFoundError: As `compare_models`.
    """
    results = compare_models(config)
    place = f"Report: {join(absolute_output(config.output_dir), REPORT)}"
    tables = [methods_table(results), downstream_table(results.downstream), place]
    told = "\n\n".join(filter(None, tables))
    require_all(results, told)
    return told


def compare_models(config: Config) -> Results:
    """Compare checkpoints on the same hidden values; write results, figures and a report.

    What fails after reconstruction costs itself alone: it is in the results' `failed`.

    Raises:
        ValueError: A setting is missing, models cannot be compared, or nothing is to be scored.
        FileNotFoundError: A checkpoint or the data set is not there.
    """
    with output_folder(config.output_dir, "evaluate", data_root=config.data.root) as folder:
        return _compare_models(config, folder)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, on what; all of it found and allowed."""

    found: Sequence[Contestant]  # all of them
    contestants: Sequence[Contestant]  # that restore values
    statistics: CodeStatistics
    dataset: Dataset
    tasks: Sequence[Labels]


def find_comparison(config: Config, folder: str) -> Comparison:
    """Find models, data set and labels, and refuse what cannot be compared; see `evaluate`."""
    found = find_contestants(config.evaluate.checkpoints)
    require_use(found, config.evaluate.labels)
    contestants = [c for c in found if c.serves == "reconstruction"]
    statistics = choose_statistics(config.evaluate.statistics, contestants)
    root = config.data.root or load(choose_reference(contestants), "cpu").config.data.root
    refuse_in_data_set(folder, root)
    dataset = open_dataset(root, [config.evaluate.split])
    asked_S = dataset.members[config.evaluate.split]
    require_common_code(
        dataset.source,
        [unit for unit in plan_units(dataset, config.data.unit_rows) if may_hold(unit, asked_S)],
        statistics,
        config.evaluate.split,
        replace(config.scaling, num_workers=0),  # a dry run starts no Ray, and is to refuse it, too
    )
    tasks = read_tasks(config.evaluate.labels) if config.evaluate.labels else []
    require_tasks(found, tasks, config.evaluate.split)
    return Comparison(
        found=found, contestants=contestants, statistics=statistics, dataset=dataset, tasks=tasks
    )


def _compare_models(config: Config, folder: str) -> Results:
    compared = find_comparison(config, folder)
    found, contestants = compared.found, compared.contestants
    statistics, dataset, tasks = compared.statistics, compared.dataset, compared.tasks
    if config.scaling.num_workers > 0:
        start_ray(config.scaling)
    units = plan_units(dataset, config.data.unit_rows)
    question = prepare_columns(
        config, contestants, dataset=dataset, units=units, statistics=statistics
    )
    score = functools.partial(
        score_unit,
        source=dataset.source,
        split=config.evaluate.split,
        seed=config.evaluate.seed,
        contestants=contestants,
        statistics=statistics,
        sequence_length=config.evaluate.sequence_length,
        device=device_of(config.scaling),
        columns=question.columns,
    )
    all_sums = merge_columns(map_units(score, units, config.scaling, "evaluate"))
    _require_values(all_sums[0], config.evaluate.split, dataset.root)
    histories = _histories(contestants)
    results = build_results(
        all_sums[0],
        contestants,
        statistics=statistics,
        names=code_names(dataset.root, statistics.codes),
        histories=histories,
        settings=_settings(config.evaluate),
        provenance=provenance(dataset.root),
        notes=reading_notes(found, choose_reference(contestants), statistics, histories, config),
    )
    results = add_columns(results, question, all_sums, contestants, statistics)
    results = replace(results, not_compared=not_compared(found))
    examination = _examination(config, contestants, dataset, statistics)
    parts = [
        *_history_parts(examination, units, config.scaling),
        *task_parts(tasks, found, dataset, statistics, config),
    ]
    results = add_parts(results, parts, functools.partial(_write, config=config, target=folder))
    give_to_runs(run_results(results, found), folder)
    return results


def _require_values(sums: Sums, split: str, root: str) -> None:
    if not sums.count_R.sum():
        raise ValueError(
            f"evaluate.split={split}: {root} has no hidden value to score there "
            f"({counted(sums.num_subjects, 'subject')} with codes of the vocabulary); choose "
            "another split or "
            "data set"
        )


def _settings(asked: EvaluateConfig) -> Settings:
    return Settings(
        split=asked.split,
        seed=asked.seed,
        min_scored=asked.min_scored,
        bootstrap_samples=asked.bootstrap_samples,
        statistics=asked.statistics,
        mask_ratio=asked.mask_ratio,
        sequence_length=asked.sequence_length,
    )


def _examination(
    config: Config,
    contestants: Sequence[Contestant],
    dataset: Dataset,
    statistics: CodeStatistics,
) -> Examination:
    return Examination(
        source=dataset.source,
        split=config.evaluate.split,
        seed=config.evaluate.seed,
        sequence_length=config.evaluate.sequence_length,
        ratio=config.evaluate.mask_ratio,
        contestants=tuple(c for c in contestants if c.which == "last"),
        statistics=statistics,
        device=device_of(config.scaling),
    )


def _history_parts(
    examination: Examination, units: Sequence[Unit], scaling: ScalingConfig
) -> list[Part]:
    """Return what the models make of a patient's history."""
    measured = examination, units, scaling
    return [
        Part(
            name="context",
            add=lambda results: (
                replace(results, context=measure_context(*measured, reference=results.reference)),
                (),
            ),
        ),
        Part(
            name="perturbation",
            add=lambda results: (
                replace(
                    results,
                    perturbation=measure_perturbation(*measured, reference=results.reference),
                ),
                (),
            ),
        ),
    ]


def _histories(contestants: Sequence[Contestant]) -> dict[str, list[History]]:
    histories: dict[str, list[History]] = {}
    for contestant in contestants:
        if contestant.which == "last":
            progress = load(contestant, "cpu").progress
            histories.setdefault(contestant.name, []).append(progress.history)
    return histories


def _write(
    results: Results,
    predictions: Sequence[Predictions],
    *,
    report: bool,
    config: Config,
    target: str,
) -> None:
    with written(target) as folder:
        folder.mkdir()
        write_config(config, folder / "config.yaml")
        text = json.dumps(to_json(results), indent=1, allow_nan=False)
        (folder / "results.json").write_text(text + "\n", encoding="utf-8")
        codes = codes_table(_codes_table(results), results.code_columns)
        pq.write_table(codes, folder / "codes.parquet")
        write_predictions(folder, predictions)
    if report:  # by itself: numbers stay where a page fails
        with written(target) as folder:
            write_report(results, folder)


def _codes_table(results: Results) -> pa.Table:
    """Return the rows per code with one column per score and method, ``r2/cv``."""
    columns: dict[str, list[Any]] = {}
    for row in to_json(results.codes):
        for key, value in row.items():
            if key == "r2_interval":
                for method, (low, high) in value.items():
                    columns.setdefault(f"r2_low/{method}", []).append(low)
                    columns.setdefault(f"r2_high/{method}", []).append(high)
            elif isinstance(value, dict):
                for method, score in value.items():
                    columns.setdefault(f"{key}/{method}", []).append(score)
            else:
                columns.setdefault(key, []).append(value)
    return pa.table(columns)
