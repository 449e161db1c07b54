"""How every method did: pooled, averaged over codes, and code by code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cvmae.arrays import Floats
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.reconstruction import Scores, Sums, average_runs, scores
from cvmae.evaluate.significance import Comparison, Interval, Resampled, compare, interval, resample
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


@dataclass(frozen=True, kw_only=True)
class Method:
    """A model, its best weights, or a baseline; several runs (seeds) enter by their mean."""

    name: str
    kind: Kind
    of: str  # name of the model; the own name but for best weights
    r2_pooled: float
    r2_pooled_interval: Interval
    r2_macro: float  # NaN where no code is counted
    r2_macro_interval: Interval
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class CodeScores:
    """How every method did on one code; errors are in the code's own unit."""

    code: str
    name: str | None  # what the data set calls it, in words
    num_scored: int
    num_subjects: int
    counted: bool  # enough scored values for macro averages and comparisons
    mean: float  # on train, as are the next three
    std: float
    cv: float
    cv_unclipped: float
    r2: dict[str, float]  # by method, as all that follow
    r2_interval: dict[str, Interval]
    mean_absolute_error: dict[str, float]
    root_mean_squared_error: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of all methods, seeds averaged, and their resamples."""

    names: tuple[str, ...]
    scores: Scores
    drawn: Resampled

    def best(self, names: Sequence[str]) -> str:
        """Return the name of highest pooled R2."""
        return max(names, key=lambda name: self.scores.pooled_K[self.names.index(name)])

    def versus(self, first: str, second: str, num_pairs: int) -> Comparison:
        """Compare two methods by name; `num_pairs` is what p is corrected for."""
        return compare(
            self.names,
            self.scores.r2_CK,
            self.scores.pooled_K,
            self.drawn,
            self.scores.counted_C,
            first=first,
            second=second,
            num_pairs=num_pairs,
        )


def score(
    sums: Sums, contestants: Sequence[Contestant], *, min_scored: int, samples: int, seed: int
) -> Scored:
    """Average the runs of each name, score them and resample the subjects.

    Args:
        sums: Errors of every contestant, then of every baseline.
        contestants: In the order of the sums' methods.
        min_scored: Scored values from which a code is counted.
        samples: Resamples of the subjects.
        seed: Of the resamples.
    """
    averaged, names = average_runs(sums, [*(c.method for c in contestants), *BASELINES])
    found = scores(averaged, min_scored=min_scored)
    drawn = resample(averaged, found.counted_C, samples=samples, seed=seed)
    return Scored(names=names, scores=found, drawn=drawn)


def method_rows(
    found: Scored, contestants: Sequence[Contestant], runs: Scores
) -> tuple[Method, ...]:
    """Return every method with its intervals; `runs` are the scores before seeds are averaged."""
    methods = []
    for place, name in enumerate(found.names):
        own = [k for k, contestant in enumerate(contestants) if contestant.method == name]
        first = contestants[own[0]] if own else None
        methods.append(
            Method(
                name=name,
                kind=_kind(first),
                of=first.name if first else name,
                r2_pooled=float(found.scores.pooled_K[place]),
                r2_pooled_interval=interval(found.drawn.pooled_TK[:, place]),
                r2_macro=float(found.scores.macro_K[place]),
                r2_macro_interval=interval(found.drawn.macro_TK[:, place]),
                runs=tuple(
                    Run(
                        checkpoint=contestants[k].path,
                        r2_pooled=float(runs.pooled_K[k]),
                        r2_macro=float(runs.macro_K[k]),
                    )
                    for k in own
                ),
            )
        )
    return tuple(methods)


def code_rows(
    found: Scored, statistics: CodeStatistics, descriptions: Mapping[str, str]
) -> tuple[CodeScores, ...]:
    """Return a row per code of the vocabulary."""
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
                mean=float(statistics.mean[code]),
                std=std,
                cv=float(statistics.cv[code]),
                cv_unclipped=float(statistics.raw_cv[code]),
                r2=_by_name(names, own.r2_CK[code]),
                r2_interval={
                    method: interval(found.drawn.r2_TCK[:, code, place])
                    for place, method in enumerate(names)
                },
                mean_absolute_error=_by_name(names, std * own.mean_absolute_error_CK[code]),
                root_mean_squared_error=_by_name(names, std * own.root_mean_squared_error_CK[code]),
            )
        )
    return tuple(rows)


def _kind(contestant: Contestant | None) -> Kind:
    if contestant is None:
        return "baseline"
    return "best weights" if contestant.which == "best" else "model"


def _by_name(names: Sequence[str], values_K: Floats) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values_K, strict=True)}
