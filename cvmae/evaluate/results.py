"""From sums of errors to everything that is reported, as one tree of plain values."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.contestants import BEST_WEIGHTS, Contestant
from cvmae.evaluate.convergence import History, learning_curves
from cvmae.evaluate.reconstruction import Scores, Sums, average_runs, scores
from cvmae.evaluate.report.page import headline
from cvmae.evaluate.significance import Resampled, compare, correlate, interval, resample
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["build_results", "plain"]

# Shape letters: C codes, K methods.


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Scores of all methods, seeds averaged, and their resamples."""

    names: tuple[str, ...]
    scores: Scores
    drawn: Resampled
    num_pairs: int

    def best(self, names: Sequence[str]) -> str:
        """Return the name of highest pooled R2."""
        return max(names, key=lambda name: self.scores.pooled_K[self.names.index(name)])

    def versus(self, first: str, second: str) -> dict[str, Any]:
        """Compare two methods by name."""
        outcome = compare(
            self.scores.r2_CK,
            self.scores.pooled_K,
            self.drawn,
            self.scores.counted_C,
            first=self.names.index(first),
            second=self.names.index(second),
            num_pairs=self.num_pairs,
        )
        kind = "baseline" if first in BASELINES else "model"
        return {"first": first, "second": second, "kind": kind, **outcome}


def build_results(
    sums: Sums,
    contestants: Sequence[Contestant],
    *,
    statistics: CodeStatistics,
    histories: Mapping[str, Sequence[History]],
    settings: Mapping[str, Any],
    names: Mapping[str, str],
) -> dict[str, Any]:
    """Turn sums and histories into everything that is reported.

    Args:
        sums: Errors of every contestant, then of every baseline.
        contestants: In the order of the sums' methods.
        statistics: Of the reference; errors are in its standard deviations.
        histories: Name -> history of each of its runs.
        settings: Of the evaluation; ``min_scored``, ``seed`` and ``bootstrap_samples`` are used.
        names: Descriptions of codes, where there are any.
    """
    models = list(dict.fromkeys(contestant.name for contestant in contestants))
    reference = "random" if "random" in models else models[0]
    # `cv` minus another, not the reverse; and the pair of the paper's claim comes first, since
    # it makes the headline and the figure per code.
    others = sorted((n for n in models if n != reference), key=lambda name: name != "cv")
    pairs = list(itertools.combinations([*others, reference], 2))
    pairs.sort(key=lambda pair: pair != ("cv", "random"))
    found = _find(sums, contestants, settings, num_pairs=max(1, len(pairs)))
    counted_C, r2_CK = found.scores.counted_C, found.scores.r2_CK
    results: dict[str, Any] = {
        "settings": dict(settings),
        "data": _data(sums, found.scores, statistics),
        "reference": reference,
        "methods": _methods(contestants, scores(sums, min_scored=settings["min_scored"]), found),
        "pairs": [found.versus(first, second) for first, second in pairs],
        "against_reference": [found.versus(name, reference) for name in (*others, *BASELINES)],
        "best_against_baseline": found.versus(found.best(models), found.best(BASELINES)),
        "codes": _codes(found, statistics, names),
        "cv_against_r2": {
            name: correlate(statistics.cv[counted_C], r2_CK[counted_C, place])
            for place, name in enumerate(found.names)
        },
        "convergence": learning_curves(histories, reference),
        "notes": [],
    }
    results["headline"] = headline(results)
    return results


def plain(value: Any) -> Any:
    """Return the value as JSON has it: no tuples, and None where a number is not finite."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _find(
    sums: Sums,
    contestants: Sequence[Contestant],
    settings: Mapping[str, Any],
    num_pairs: int,
) -> _Found:
    averaged, names = average_runs(sums, [*(c.method for c in contestants), *BASELINES])
    found = scores(averaged, min_scored=settings["min_scored"])
    drawn = resample(
        averaged, found.counted_C, samples=settings["bootstrap_samples"], seed=settings["seed"]
    )
    return _Found(names=names, scores=found, drawn=drawn, num_pairs=num_pairs)


def _methods(
    contestants: Sequence[Contestant], runs: Scores, found: _Found
) -> list[dict[str, Any]]:
    methods = []
    for place, name in enumerate(found.names):
        own = [k for k, contestant in enumerate(contestants) if contestant.method == name]
        kind = "baseline" if name in BASELINES else "model"
        methods.append(
            {
                "name": name,
                "kind": "best weights" if name.endswith(BEST_WEIGHTS) else kind,
                "of": name.removesuffix(BEST_WEIGHTS),
                "r2_pooled": float(found.scores.pooled_K[place]),
                "r2_pooled_interval": interval(found.drawn.pooled_TK[:, place]),
                "r2_macro": float(found.scores.macro_K[place]),
                "r2_macro_interval": interval(found.drawn.macro_TK[:, place]),
                "runs": [
                    {
                        "checkpoint": contestants[k].path,
                        "r2_pooled": float(runs.pooled_K[k]),
                        "r2_macro": float(runs.macro_K[k]),
                    }
                    for k in own
                ],
            }
        )
    return methods


def _codes(
    found: _Found, statistics: CodeStatistics, descriptions: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return a row per code; errors are in the code's own unit."""
    names, own = found.names, found.scores
    rows = []
    for code, name in enumerate(statistics.codes):
        std = float(statistics.std[code])
        rows.append(
            {
                "code": name,
                "name": descriptions.get(name),
                "num_scored": int(own.count_C[code]),
                "num_subjects": int(own.subjects_C[code]),
                "counted": bool(own.counted_C[code]),
                "mean": float(statistics.mean[code]),
                "std": std,
                "cv": float(statistics.cv[code]),
                "cv_unclipped": float(statistics.raw_cv[code]),
                "r2": _by_name(names, own.r2_CK[code]),
                "r2_interval": {
                    method: interval(found.drawn.r2_TCK[:, code, place])
                    for place, method in enumerate(names)
                },
                "mean_absolute_error": _by_name(names, std * own.mean_absolute_error_CK[code]),
                "root_mean_squared_error": _by_name(
                    names, std * own.root_mean_squared_error_CK[code]
                ),
            }
        )
    return rows


def _by_name(names: Sequence[str], values_K: Any) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values_K, strict=True)}


def _data(sums: Sums, found: Scores, statistics: CodeStatistics) -> dict[str, Any]:
    absent = np.flatnonzero(sums.measurements_C == 0)
    return {
        "num_subjects": sums.num_subjects,
        "num_sequences": sums.num_sequences,
        "num_measurements": int(sums.measurements_C.sum()),
        "num_hidden": sums.num_hidden,
        "num_twins": sums.num_twins,
        "num_scored": int(found.count_C.sum()),
        "num_codes": sums.num_codes,
        "num_codes_matched": sums.num_codes - len(absent),
        "num_codes_counted": int(found.counted_C.sum()),
        "codes_unmatched": [statistics.codes[code] for code in absent],
    }
