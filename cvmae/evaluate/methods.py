"""How every method did: pooled, averaged over codes, and code by code."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cvmae.arrays import Floats
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.intervals import Intervals, bootstrap_intervals
from cvmae.evaluate.reconstruction import Scores, Sums, average_runs, scores
from cvmae.evaluate.significance import Comparison, Family, compare
from cvmae.evaluate.small_cells import SMALLEST_CELL
from cvmae.evaluate.two_way import (
    Figure,
    Interval,
    Over,
    Runs,
    code_figures,
    estimate,
    macro_figure,
    pooled_figure,
)
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["CodeScores", "Kind", "Method", "Run", "Scored", "code_rows", "method_rows", "score"]

Kind = Literal["model", "best weights", "baseline"]

# Shape letters beside those of `cvmae.arrays`: K methods.


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a method: one seed."""

    checkpoint: str
    r2_pooled: float
    r2_macro: float
    stamp: str  # hash of the weights that the checkpoint had


@dataclass(frozen=True, kw_only=True)
class Method:
    """A model, its best weights, or a baseline; several runs (seeds) enter by their mean.

    R2 is about the mean on train; only the classical one is about the mean of the scored values.
    """

    name: str
    kind: Kind
    of: str  # name of the model; the own name but for best weights
    r2_pooled: float
    r2_pooled_interval: Interval
    r2_macro: float  # NaN where no code is counted
    r2_macro_interval: Interval
    interval_over: Over
    r2_median: float  # over the codes of the mean
    r2_pooled_classical: float
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class CodeScores:
    """How every method did on one code; errors are in the code's own unit.

    With fewer than `SMALLEST_CELL` subjects all scores are NaN: the error of the code mean over one
    value, beside the mean, is that value.
    """

    code: str
    name: str | None  # what the data set calls it, in words
    num_scored: int
    num_subjects: int
    counted: bool  # enters averages over codes and comparisons
    left_out: str  # why it does not, "" where it does
    mean: float  # on train, as are the next three
    std: float
    cv: float
    cv_unclipped: float
    r2: dict[str, float]  # by method, as all that follow
    r2_interval: dict[str, Interval]
    r2_classical: dict[str, float]
    mean_absolute_error: dict[str, float]
    root_mean_squared_error: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of all methods, seeds averaged, and what is known of how they vary."""

    names: tuple[str, ...]
    runs: dict[str, Runs]
    scores: Scores
    intervals: Intervals  # over subjects
    pooled: Figure  # of every run, as the next two
    macro: Figure
    codes: tuple[Figure, ...]

    def versus(self, first: str, second: str, family: Family = "further") -> Comparison:
        """Compare two methods by name."""
        return compare(
            self.runs,
            pooled=self.pooled,
            macro=self.macro,
            codes=self.codes,
            counted_C=self.scores.counted_C,
            first=first,
            second=second,
            family=family,
        )

    def over(self, name: str) -> Over:
        """Return what the intervals of a method's own figures are over."""
        own = self.runs[name]
        return "seeds and subjects" if own.is_trained and own.are_enough else "subjects"

    def interval(self, name: str, figure: Figure, over_subjects: Interval) -> Interval:
        """Return the interval of a method's figure: over seeds, too, where there are enough."""
        if self.over(name) == "subjects":
            return over_subjects
        low, high = estimate(figure, self.runs[name]).interval
        return low, min(high, 1.0)


def score(
    sums: Sums, contestants: Sequence[Contestant], *, min_scored: int, samples: int, seed: int
) -> Scored:
    """Average the runs of each name, score them, and see how scores vary.

    Args:
        sums: Errors of every contestant, then of every baseline.
        contestants: In the order of the sums' methods.
        min_scored: Scored values from which a code is counted.
        samples: Resamples of the subjects.
        seed: Of the resamples.
    """
    of_column = [*(contestant.method for contestant in contestants), *BASELINES]
    averaged, names = average_runs(sums, of_column)
    found, codes = scores(averaged, min_scored=min_scored), code_figures(sums)
    return Scored(
        names=names,
        runs={
            name: Runs(
                columns=tuple(k for k, own in enumerate(of_column) if own == name),
                is_trained=name not in BASELINES,
            )
            for name in names
        },
        scores=found,
        intervals=bootstrap_intervals(averaged, found.counted_C, samples=samples, seed=seed),
        pooled=pooled_figure(sums),
        macro=macro_figure(sums, codes, found.counted_C),
        codes=codes,
    )


def method_rows(
    found: Scored, contestants: Sequence[Contestant], runs: Scores
) -> tuple[Method, ...]:
    """Return every method with its intervals; `runs` are the scores before seeds are averaged."""
    methods, own_scores = [], found.scores
    for place, name in enumerate(found.names):
        own = [k for k, contestant in enumerate(contestants) if contestant.method == name]
        first = contestants[own[0]] if own else None
        methods.append(
            Method(
                name=name,
                kind=_kind(first),
                of=first.name if first else name,
                r2_pooled=float(own_scores.pooled_K[place]),
                r2_pooled_interval=found.interval(
                    name, found.pooled, found.intervals.pooled[place]
                ),
                r2_macro=float(own_scores.macro_K[place]),
                r2_macro_interval=found.interval(name, found.macro, found.intervals.macro[place]),
                interval_over=found.over(name),
                r2_median=float(own_scores.median_K[place]),
                r2_pooled_classical=float(own_scores.classical_pooled_K[place]),
                runs=tuple(
                    Run(
                        checkpoint=contestants[k].path,
                        r2_pooled=float(runs.pooled_K[k]),
                        r2_macro=float(runs.macro_K[k]),
                        stamp=contestants[k].stamp,
                    )
                    for k in own
                ),
            )
        )
    return tuple(methods)


def code_rows(
    found: Scored, statistics: CodeStatistics, descriptions: Mapping[str, str]
) -> tuple[CodeScores, ...]:
    """Return a row per code of the vocabulary, without scores where subjects are few."""
    names, own = found.names, found.scores
    rows = []
    for code, name in enumerate(statistics.codes):
        std = float(statistics.std[code])
        rows.append(
            CodeScores(
                code=name,
                name=descriptions.get(name),
                num_scored=int(own.count_C[code]),
                num_subjects=int(own.subjects_C[code]),
                counted=bool(own.counted_C[code]),
                left_out=own.left_out_C[code],
                mean=float(statistics.mean[code]),
                std=std,
                cv=float(statistics.cv[code]),
                cv_unclipped=float(statistics.raw_cv[code]),
                r2=_by_name(names, own.r2_CK[code]),
                r2_interval={
                    method: found.interval(
                        method, found.codes[code], found.intervals.codes[code][place]
                    )
                    for place, method in enumerate(names)
                },
                r2_classical=_by_name(names, own.classical_CK[code]),
                mean_absolute_error=_by_name(names, std * own.mean_absolute_error_CK[code]),
                root_mean_squared_error=_by_name(names, std * own.root_mean_squared_error_CK[code]),
            )
        )
    return tuple(row if row.num_subjects >= SMALLEST_CELL else _without_scores(row) for row in rows)


def _without_scores(row: CodeScores) -> CodeScores:
    none = dict.fromkeys(row.r2, math.nan)
    return replace(
        row,
        r2=none,
        r2_interval=dict.fromkeys(row.r2, (math.nan, math.nan)),
        r2_classical=none,
        mean_absolute_error=none,
        root_mean_squared_error=none,
    )


def _kind(contestant: Contestant | None) -> Kind:
    if contestant is None:
        return "baseline"
    return "best weights" if contestant.which == "best" else "model"


def _by_name(names: Sequence[str], values_K: Floats) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values_K, strict=True)}
