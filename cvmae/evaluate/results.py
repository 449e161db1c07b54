"""The result of an evaluation: one typed value, of which results.json is the text.

A new figure is a field of `Results` with a type of its own, from the module that computes it.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.context import Context
from cvmae.evaluate.convergence import Convergence, History, learning_curves
from cvmae.evaluate.methods import CodeScores, Method, Scored, code_rows, method_rows, score
from cvmae.evaluate.perturbation import Perturbation
from cvmae.evaluate.provenance import Provenance
from cvmae.evaluate.reconstruction import Sums, scores
from cvmae.evaluate.report.headline import Headline, headline
from cvmae.evaluate.significance import Comparison, Correlation, correlate
from cvmae.meds.code_names import short_names
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["Data", "Results", "Settings", "build_results", "to_json"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the models were evaluated."""

    split: str
    seed: int
    min_scored: int  # scored values from which a code is counted
    bootstrap_samples: int
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


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that is reported, in the order of results.json."""

    settings: Settings
    data: Data
    reference: str  # the model that others are compared with
    methods: tuple[Method, ...]
    pairs: tuple[Comparison, ...]  # of models; the one of the headline first
    against_reference: tuple[Comparison, ...]  # models and baselines
    best_against_baseline: Comparison
    codes: tuple[CodeScores, ...]
    cv_against_r2: dict[str, Correlation]  # by method, over counted codes
    convergence: Convergence
    notes: tuple[str, ...]
    headline: Headline
    provenance: Provenance
    context: Context | None = None  # None: nothing to restore, or not measured, as the next
    perturbation: Perturbation | None = None

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
    reference = "random" if "random" in models else models[0]
    # `cv` minus another, not the reverse; and the pair of the paper's claim comes first, since
    # it makes the headline and the figure per code.
    others = sorted((n for n in models if n != reference), key=lambda name: name != "cv")
    pairs = list(itertools.combinations([*others, reference], 2))
    pairs.sort(key=lambda pair: pair != ("cv", "random"))
    num_pairs = max(1, len(pairs))
    found = score(
        sums,
        contestants,
        min_scored=settings.min_scored,
        samples=settings.bootstrap_samples,
        seed=settings.seed,
    )
    methods = method_rows(found, contestants, scores(sums, min_scored=settings.min_scored))
    codes = code_rows(found, statistics, names)
    compared = tuple(found.versus(first, second, num_pairs) for first, second in pairs)
    best = found.versus(found.best(models), found.best(BASELINES), num_pairs)
    return Results(
        settings=settings,
        data=_data(sums, found, statistics),
        reference=reference,
        methods=methods,
        pairs=compared,
        against_reference=tuple(
            found.versus(name, reference, num_pairs) for name in (*others, *BASELINES)
        ),
        best_against_baseline=best,
        codes=codes,
        cv_against_r2=_correlations(found, statistics),
        convergence=learning_curves(histories, reference),
        notes=(*_too_few(codes, settings.min_scored), *notes),
        headline=headline(methods, compared, best, [code.code for code in codes]),
        provenance=provenance,
    )


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
    return [
        f"No code has evaluate.min_scored={min_scored} scored values (the most frequent has "
        f"{most}): lower it to compare code by code; pooled figures stand."
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
    )
