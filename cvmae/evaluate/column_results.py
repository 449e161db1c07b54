"""Columns from beginning to end: declared before models are scored, told after it."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from cvmae.batches.columns import Column
from cvmae.config import Config
from cvmae.evaluate.attainable import (
    Truth,
    find_truth,
    merge_unexplained,
    truth_of,
    unexplained_of_unit,
)
from cvmae.evaluate.columns import CodeColumns, code_columns, column_scores, totals
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.exposure import shares_hidden
from cvmae.evaluate.models import competitors
from cvmae.evaluate.own_masks import declare_columns
from cvmae.evaluate.reconstruction import Sums, merge
from cvmae.evaluate.results import Results
from cvmae.evaluate.survey import (
    NearCopies,
    draw_limit,
    merge_surveys,
    near_copies,
    survey_unit,
)
from cvmae.evaluate.volatility import volatility
from cvmae.meds.dataset import Dataset
from cvmae.meds.units import Unit
from cvmae.runtime.map_units import map_units
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["Question", "add_columns", "codes_table", "merge_columns", "prepare_columns"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What is asked of every model, and what is known of the answer beforehand."""

    columns: tuple[Column, ...]  # uniform first
    truth: Truth | None  # on the synthetic hospital
    near_copies: NearCopies


def prepare_columns(
    config: Config,
    contestants: Sequence[Contestant],
    *,
    dataset: Dataset,
    units: Sequence[Unit],
    statistics: CodeStatistics,
) -> Question:
    """Look at the data once without models, and declare the columns.

    Args:
        config: Of the evaluation.
        contestants: All of the compared models.
        dataset: What is evaluated on.
        units: Of it.
        statistics: By which values are standardised.
    """
    asked = config.evaluate
    shared: dict[str, Any] = {
        "source": dataset.source,
        "split": asked.split,
        "seed": asked.seed,
        "statistics": statistics,
    }
    look = functools.partial(survey_unit, **shared, most_targets=asked.leave_one_out)
    surveyed = merge_surveys(map_units(look, units, config.scaling, "look"))
    limit = draw_limit(surveyed, asked.leave_one_out) if asked.leave_one_out else None
    columns = declare_columns(contestants, statistics, ratio=asked.mask_ratio, limit=limit)
    hospital, truth = find_truth(dataset.root, statistics), None
    if hospital is not None:
        best = functools.partial(
            unexplained_of_unit,
            **shared,
            sequence_length=asked.sequence_length,
            columns=columns,
            config=hospital,
        )
        parts = map_units(best, units, config.scaling, "attainable")
        truth = truth_of(merge_unexplained(parts), hospital, statistics)
    return Question(
        columns=columns, truth=truth, near_copies=near_copies(surveyed, statistics.codes)
    )


def merge_columns(parts: Iterable[Sequence[Sums]]) -> list[Sums]:
    """Join the sums of units, column by column.

    Raises:
        ValueError: There are no parts.
    """
    return [merge(column) for column in zip(*parts, strict=True)] or [merge([])]


def add_columns(
    results: Results,
    question: Question,
    all_sums: Sequence[Sums],
    contestants: Sequence[Contestant],
    statistics: CodeStatistics,
) -> Results:
    """Put what the columns show into the results."""
    columns, truth = question.columns, question.truth
    found = [
        totals(sums, competitors(column, contestants))
        for column, sums in zip(columns, all_sums, strict=True)
    ]
    return replace(
        results,
        columns=column_scores(columns, all_sums, found, truth),
        code_columns=code_columns(
            columns, found, statistics, shares_hidden(contestants, statistics.codes), truth
        ),
        volatility=volatility(
            found[0],
            statistics,
            np.array([code.counted for code in results.codes], dtype=np.bool_),
            [method.name for method in results.models],
            results.reference,
        ),
        near_copies=question.near_copies,
    )


def codes_table(table: pa.Table, codes: Sequence[CodeColumns]) -> pa.Table:
    """Add to a table of the codes, in the same order, what each column shows.

    A table's column is named after figure, column and method: ``r2/leave-one-out/cv``. The
    uniform column's R2 and error are there already, as ``r2/cv``.
    """
    if not codes:
        return table
    for name in ("robust_cv", "within_subject_cv", "cv_true"):
        table = table.append_column(name, _floats([getattr(code, name) for code in codes]))
    for model in codes[0].share_hidden:
        table = table.append_column(
            f"share_hidden/{model}", _floats([code.share_hidden[model] for code in codes])
        )
    for figure in ("num_scored", "attainable_r2"):
        for column in getattr(codes[0], figure):
            values = [getattr(code, figure)[column] for code in codes]
            table = table.append_column(f"{figure}/{column}", _floats(values))
    for figure in ("r2", "mean_absolute_error", "share_of_attainable"):
        for column, methods in getattr(codes[0], figure).items():
            for method in methods:
                values = [getattr(code, figure)[column][method] for code in codes]
                table = table.append_column(f"{figure}/{column}/{method}", _floats(values))
    return table


def _floats(values: Sequence[float | None]) -> pa.Array:
    """Return a column with nothing where no number is."""
    finite = [value if value is not None and np.isfinite(value) else None for value in values]
    return pa.array(finite, pa.float64())
