"""Who pays for a gain: scores by how volatile codes are, and the paper's three pairs (Fig. 1).

All of it is on the uniform column, and descriptive: the pairs' tests are over codes, as the paper
does them, and know neither the luck of training nor that of subjects.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from cvmae.arrays import Bools, Floats, Ints
from cvmae.evaluate.columns import Totals
from cvmae.evaluate.significance import cohens_d, correlate, wilcoxon_p
from cvmae.evaluate.small_cells import SMALLEST_CELL
from cvmae.statistics.code_statistics import CodeStatistics, flagged_codes

__all__ = [
    "CodeDifference",
    "PublishedPair",
    "Quartile",
    "Volatility",
    "VolatilityCorrelation",
    "volatility",
]

By = Literal["cv", "within_subject_cv"]

# First, second, share of 100 labs of MIMIC-IV that the first wins, Wilcoxon's p and Cohen's d
# where they are published (workshop version 3.1, and the later version for d).
PUBLISHED = (
    ("cv", "random", 0.71, 0.00009, 0.73),
    ("cv", "variance", 0.68, None, None),
    ("variance", "random", 0.65, None, None),
)
NUM_EXTREMES = 10


@dataclass(frozen=True, kw_only=True)
class Quartile:
    """A quarter of the codes, by rank; differences are a model's figure minus the reference's."""

    by: By
    quartile: int  # 1 the most stable, 4 the most volatile
    num_codes: int
    num_scored: int
    lowest: float  # of what they are ranked by
    highest: float
    r2: dict[str, float]  # pooled over their values, by model
    r2_difference: dict[str, float]
    r2_difference_runs: dict[str, tuple[float, ...]]  # each run minus the reference's mean
    mae_difference: dict[str, float]  # of mean absolute error on z: below 0 is better


@dataclass(frozen=True, kw_only=True)
class VolatilityCorrelation:
    """A measure of volatility against the R2 of a model, over counted codes."""

    measure: str
    model: str
    pearson: float
    pearson_p: float
    spearman: float
    spearman_p: float
    num_codes: int


@dataclass(frozen=True, kw_only=True)
class CodeDifference:
    """One code's R2 under a pair of policies."""

    code: str
    difference: float
    r2_first: float
    r2_second: float


@dataclass(frozen=True, kw_only=True)
class PublishedPair:
    """One of the paper's pairs on these data, and what the paper says of it on MIMIC-IV."""

    first: str
    second: str
    num_codes: int
    wins: int
    losses: int
    ties: int  # they count for neither, and not in the rate
    win_rate: float
    wilcoxon_p: float
    cohens_d: float
    published_win_rate: float
    published_p_below: float | None
    published_cohens_d: float | None
    top: tuple[CodeDifference, ...]  # gains, largest first
    bottom: tuple[CodeDifference, ...]  # losses, largest first


@dataclass(frozen=True, kw_only=True)
class Volatility:
    """Scores by volatility."""

    reference: str
    quartiles: tuple[Quartile, ...]
    num_unranked: int  # codes whose mean says nothing about their scale
    correlations: tuple[VolatilityCorrelation, ...]
    pairs: tuple[PublishedPair, ...]


def volatility(
    found: Totals,
    statistics: CodeStatistics,
    counted_C: Bools,
    models: Sequence[str],
    reference: str,
) -> Volatility:
    """Describe the uniform column by volatility.

    Args:
        found: Of the uniform column.
        statistics: Of the reference.
        counted_C: Codes with values enough to be compared one by one.
        models: Names, no best weights and no baselines.
        reference: The one that others are compared with.
    """
    ranked_C = ~flagged_codes(statistics)
    measures = {"cv": statistics.cv, "within_subject_cv": statistics.within_subject_cv}
    quartiles = [
        _quartile(found, by, number, statistics_C, codes, models, reference)
        for by, statistics_C in measures.items()
        for number, codes in enumerate(_quarters(statistics_C, ranked_C), start=1)
    ]
    return Volatility(
        reference=reference,
        quartiles=tuple(quartile for quartile in quartiles if quartile.num_scored),
        num_unranked=int((~ranked_C).sum()),
        correlations=_correlations(found, statistics, counted_C, models),
        pairs=tuple(
            _published(found, statistics, counted_C, *pair)
            for pair in PUBLISHED
            if pair[0] in models and pair[1] in models
        ),
    )


def _quarters(measure_C: Floats, ranked_C: Bools) -> list[Ints]:
    """Cut codes into quarters by rank, none where there are fewer than four."""
    usable = np.flatnonzero(ranked_C & np.isfinite(measure_C))
    if len(usable) < 4:
        return []
    by_rank = usable[np.argsort(measure_C[usable], kind="stable")]
    number = 4 * np.arange(len(by_rank)) // len(by_rank)
    return [by_rank[number == quarter] for quarter in range(4)]


def _quartile(
    found: Totals,
    by: str,
    number: int,
    measure_C: Floats,
    codes: Ints,
    models: Sequence[str],
    reference: str,
) -> Quartile:
    count = float(found.count_C[codes].sum())
    # Subjects of a quartile are as many as those of its most common code, or more.
    shown = 1.0 if found.subjects_C[codes].max() >= SMALLEST_CELL else math.nan
    r2 = found.by_name(shown * found.pooled_r2(codes))
    absolute = found.by_name(found.absolute_CK[codes].sum(axis=0) / max(count, 1.0) * shown)
    runs = found.pooled_r2_runs(codes)
    return Quartile(
        by="cv" if by == "cv" else "within_subject_cv",
        quartile=number,
        num_codes=int(np.count_nonzero(found.count_C[codes])),
        num_scored=int(count),
        lowest=float(measure_C[codes].min()),
        highest=float(measure_C[codes].max()),
        r2={name: r2[name] for name in models},
        r2_difference={name: r2[name] - r2[reference] for name in models},
        r2_difference_runs={
            name: tuple(value - r2[reference] for value in runs[name]) for name in models
        },
        mae_difference={name: absolute[name] - absolute[reference] for name in models},
    )


def _correlations(
    found: Totals, statistics: CodeStatistics, counted_C: Bools, models: Sequence[str]
) -> tuple[VolatilityCorrelation, ...]:
    measures = {
        "CV": statistics.cv,
        "CV without clipping": statistics.raw_cv,
        "robust CV": statistics.robust_cv,
        "within-subject CV": statistics.within_subject_cv,
    }
    rows = []
    for measure, value_C in measures.items():
        for name in models:
            r2_C = found.r2_CK[:, found.names.index(name)]
            x_C, y_C = value_C[counted_C], r2_C[counted_C]
            linear = correlate(x_C, y_C)
            finite_C = np.isfinite(x_C) & np.isfinite(y_C)
            ranks = correlate(stats.rankdata(x_C[finite_C]), stats.rankdata(y_C[finite_C]))
            rows.append(
                VolatilityCorrelation(
                    measure=measure,
                    model=name,
                    pearson=linear.r,
                    pearson_p=linear.p,
                    spearman=ranks.r,
                    spearman_p=ranks.p,
                    num_codes=linear.num_codes,
                )
            )
    return tuple(rows)


def _published(
    found: Totals,
    statistics: CodeStatistics,
    counted_C: Bools,
    first: str,
    second: str,
    win_rate: float,
    p_below: float | None,
    d: float | None,
) -> PublishedPair:
    one, other = (found.r2_CK[:, found.names.index(name)] for name in (first, second))
    codes = np.flatnonzero(counted_C & np.isfinite(one - other))
    difference = (one - other)[codes]
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    rows = [
        CodeDifference(
            code=statistics.codes[code],
            difference=float(one[code] - other[code]),
            r2_first=float(one[code]),
            r2_second=float(other[code]),
        )
        for code in codes[np.argsort(-difference, kind="stable")]
    ]
    return PublishedPair(
        first=first,
        second=second,
        num_codes=len(codes),
        wins=wins,
        losses=losses,
        ties=len(codes) - wins - losses,
        win_rate=wins / (wins + losses) if wins + losses else float("nan"),
        wilcoxon_p=wilcoxon_p(difference),
        cohens_d=cohens_d(difference),
        published_win_rate=win_rate,
        published_p_below=p_below,
        published_cohens_d=d,
        top=tuple(row for row in rows[:NUM_EXTREMES] if row.difference > 0),
        bottom=tuple(row for row in rows[::-1][:NUM_EXTREMES] if row.difference < 0),
    )
