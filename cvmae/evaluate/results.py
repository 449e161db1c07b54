"""The result of an evaluation: one typed value, of which results.json is the text.

A new figure is a field of `Results` with a type of its own, from the module that computes it.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.columns import CodeColumns, ColumnScores
from cvmae.evaluate.contestants import Contestant, reference_name
from cvmae.evaluate.context import Context
from cvmae.evaluate.convergence import Convergence, History, learning_curves
from cvmae.evaluate.downstream.results import Downstream
from cvmae.evaluate.methods import CodeScores, Method, Scored, code_rows, method_rows, score
from cvmae.evaluate.perturbation import Perturbation
from cvmae.evaluate.provenance import Provenance
from cvmae.evaluate.reconstruction import MIN_SUBJECTS, Scores, Sums, scores
from cvmae.evaluate.report.headline import Headline, headline
from cvmae.evaluate.seeds import SeedSpread, seed_spreads
from cvmae.evaluate.significance import Comparison, Correlation, Family, adjusted, correlate
from cvmae.evaluate.survey import NearCopies
from cvmae.evaluate.volatility import Volatility
from cvmae.meds.code_names import short_names
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["Data", "Failure", "Results", "Settings", "build_results", "to_json"]

INTERPOLATION = BASELINES[-1]  # the one that needs beating: strong where labs are dense


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the models were evaluated."""

    split: str
    seed: int
    min_scored: int  # scored values from which a code is counted
    bootstrap_samples: int
    statistics: str  # folder that defines the errors; empty: those of a checkpoint
    mask_ratio: float
    sequence_length: int


@dataclass(frozen=True, kw_only=True)
class Data:
    """What they were evaluated on."""

    num_subjects: int
    num_sequences: int
    num_measurements: int
    num_hidden: int
    num_twins: int  # hidden values that are not scored
    num_scored: int
    num_codes: int
    num_codes_matched: int
    num_codes_counted: int
    codes_unmatched: tuple[str, ...]
    codes_left_out: dict[str, int]  # reason -> codes that enter no average over codes


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A part that is missing, since it could not be computed."""

    part: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that is reported, in the order of results.json."""

    settings: Settings
    data: Data
    reference: str  # the model that others are compared with
    methods: tuple[Method, ...]
    pairs: tuple[Comparison, ...]  # of models; those that were named beforehand first
    against_reference: tuple[Comparison, ...]  # models and baselines
    against_interpolation: tuple[Comparison, ...]  # models
    seeds: tuple[SeedSpread, ...]
    codes: tuple[CodeScores, ...]
    cv_against_r2: dict[str, Correlation]  # by method, over counted codes
    convergence: Convergence
    notes: tuple[str, ...]
    headline: Headline
    provenance: Provenance
    downstream: Downstream | None = None  # where there are label sets
    columns: tuple[ColumnScores, ...] = ()  # uniform first
    code_columns: tuple[CodeColumns, ...] = ()
    volatility: Volatility | None = None
    near_copies: NearCopies | None = None
    context: Context | None = None  # None: nothing to restore, or not measured, as the next
    perturbation: Perturbation | None = None
    failed: tuple[Failure, ...] = ()
    # Name of a run that has no part in reconstruction and what follows from it -> why.
    not_compared: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def models(self) -> tuple[Method, ...]:
        """Return the models with their last weights, no baselines."""
        return tuple(method for method in self.methods if method.kind == "model")

    @property
    def counted_codes(self) -> tuple[CodeScores, ...]:
        """Return the codes with enough scored values to be compared one by one."""
        return tuple(code for code in self.codes if code.counted)

    def labels(self, *, unit: bool = True) -> dict[str, str]:
        """Return what each code is called, the same in all figures and tables."""
        names = {code.code: code.name for code in self.codes if code.name}
        return short_names([code.code for code in self.codes], names, unit=unit)


def build_results(
    sums: Sums,
    contestants: Sequence[Contestant],
    *,
    statistics: CodeStatistics,
    names: Mapping[str, str],
    histories: Mapping[str, Sequence[History]],
    settings: Settings,
    provenance: Provenance,
    notes: Sequence[str] = (),
) -> Results:
    """Turn sums and histories into everything that is reported.

    Args:
        sums: Errors of every contestant, then of every baseline.
        contestants: In the order of the sums' methods.
        statistics: Of the reference; errors are in its standard deviations.
        names: Descriptions of codes, where there are any.
        histories: Name -> history of each of its runs.
        settings: Of the evaluation.
        provenance: Where the results come from.
        notes: What a reader must know first.
    """
    models = list(dict.fromkeys(contestant.name for contestant in contestants))
    reference = reference_name(models)
    found = score(
        sums,
        contestants,
        min_scored=settings.min_scored,
        samples=settings.bootstrap_samples,
        seed=settings.seed,
    )
    runs = scores(sums, min_scored=settings.min_scored)
    methods = method_rows(found, contestants, runs)
    codes = code_rows(found, statistics, names)
    pairs = _pairs(found, models, reference)
    guesses = adjusted([found.versus(name, reference) for name in BASELINES])
    interpolation = adjusted([found.versus(name, INTERPOLATION) for name in models])
    spreads = seed_spreads(runs, {name: found.runs[name].columns for name in models})
    return Results(
        settings=settings,
        data=_data(sums, found, statistics),
        reference=reference,
        methods=methods,
        pairs=pairs,
        against_reference=(*(pair for pair in pairs if pair.second == reference), *guesses),
        against_interpolation=interpolation,
        seeds=spreads,
        codes=codes,
        cv_against_r2=_correlations(found, statistics),
        convergence=learning_curves(histories, reference),
        notes=(*_too_few(codes, settings.min_scored), *notes),
        headline=headline(
            methods, pairs, interpolation, spreads, reference=reference, codes=statistics.codes
        ),
        provenance=provenance,
    )


def _pairs(found: Scored, models: Sequence[str], reference: str) -> tuple[Comparison, ...]:
    """Compare every two models, those pairs first that were named before anybody looked."""
    # `cv` minus another, not the reverse, and the reference always second.
    names = sorted(models, key=lambda name: (name == reference, name != "cv", name))
    pairs = list(itertools.combinations(names, 2))
    pairs.sort(key=lambda pair: (_family(pair) != "primary", pair[1] != "random"))
    return adjusted([found.versus(*pair, _family(pair)) for pair in pairs])


def _family(pair: tuple[str, str]) -> Family:
    """Each policy against `random`, and `cv` against its control, are what the program asks."""
    return "primary" if pair[1] == "random" or pair == ("cv", "shuffled_cv") else "further"


def to_json(value: Any) -> Any:
    """Return a value as JSON has it: no classes or tuples, None where a number is not finite."""
    if dataclasses.is_dataclass(value):
        names = (field.name for field in dataclasses.fields(value))
        return {name: to_json(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _correlations(found: Scored, statistics: CodeStatistics) -> dict[str, Correlation]:
    counted_C, r2_CK = found.scores.counted_C, found.scores.r2_CK
    return {
        name: correlate(statistics.cv[counted_C], r2_CK[counted_C, place])
        for place, name in enumerate(found.names)
    }


def _too_few(codes: Sequence[CodeScores], min_scored: int) -> list[str]:
    """Say so where no code has values enough to be compared by itself."""
    if any(code.counted for code in codes):
        return []
    most = max(code.num_scored for code in codes)
    subjects = max(code.num_subjects for code in codes)
    return [
        f"No code has evaluate.min_scored={min_scored} scored values of {MIN_SUBJECTS} subjects or "
        f"more (the most frequent has {most}, the most common {subjects} subjects), so nothing is "
        "compared code by code; pooled figures stand."
    ]


def _data(sums: Sums, found: Scored, statistics: CodeStatistics) -> Data:
    absent = np.flatnonzero(sums.measurements_C == 0)
    return Data(
        num_subjects=sums.num_subjects,
        num_sequences=sums.num_sequences,
        num_measurements=int(sums.measurements_C.sum()),
        num_hidden=sums.num_hidden,
        num_twins=sums.num_twins,
        num_scored=int(found.scores.count_C.sum()),
        num_codes=sums.num_codes,
        num_codes_matched=sums.num_codes - len(absent),
        num_codes_counted=int(found.scores.counted_C.sum()),
        codes_unmatched=tuple(statistics.codes[code] for code in absent),
        codes_left_out=_reasons(found.scores),
    )


def _reasons(found: Scores) -> dict[str, int]:
    """Count the codes that are left out by why, the most frequent reason first."""
    return dict(Counter(reason for reason in found.left_out_C if reason).most_common())
