"""What an evaluation has shown of one model, as a card says it: figures and intervals.

Read from results.json alone, which `cvmae evaluate` writes: the evaluation may be long past.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from cvmae.infer.card import quoted
from cvmae.runtime.tables import counted
from cvmae.storage.folders import is_file, join, local_copy

__all__ = ["evaluated_lines"]

RESULTS = "results.json"
SCORES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "r2": "R2",
    "rank_correlation": "rank correlation",
}


def evaluated_lines(place: str, path: str, stamp: str) -> list[str]:
    """Return Markdown on what an evaluation has shown of the model of a run.

    Args:
        place: Its results.json, or the folder that holds it.
        path: Of the run, as the evaluation was given it.
        stamp: Of its last checkpoint, as `checkpoint_stamp` tells it now.

    Raises:
        FileNotFoundError: There are no results.
        ValueError: They are none of an evaluation, of other models, or of other weights.
    """
    results = _read(place)
    try:
        stamps = set(_stamps(results, path))
        lines = [*_reconstruction(results, path), *_tasks(results, path)]
        others = list(dict.fromkeys(str(method["of"]) for method in results["methods"]))
        about = results["provenance"]
        where = f"{quoted(about['dataset'])}, {results['settings']['split']}"
    except (KeyError, TypeError, IndexError):
        raise ValueError(
            f"infer.results={place} is of another version: evaluate anew, or leave it out"
        ) from None
    if not lines:
        raise ValueError(
            f"infer.results={place} says nothing of {path} (it is on {', '.join(others)}): give "
            "the results of an evaluation of this run under this very path, or leave it out"
        )
    _require_stamp(place, path, stamps, stamp)
    return [f"Evaluated on {where}, {about['date'][:10]}; intervals are of 95%:", "", *lines]


def _read(place: str) -> dict[str, Any]:
    file = place if place.endswith(".json") else join(place, RESULTS)
    if not is_file(file):
        raise FileNotFoundError(
            f"infer.results={place} holds no {RESULTS}: give the folder of an evaluation"
        )
    with local_copy(file) as copy:
        try:
            results = json.loads(copy.read_text(encoding="utf-8"))
        except ValueError:
            results = None
    if not isinstance(results, dict) or "methods" not in results:
        raise ValueError(
            f"infer.results={place} is no {RESULTS} of an evaluation: give what `evaluate` wrote"
        )
    return results


def _stamps(results: Mapping[str, Any], path: str) -> Iterator[str | None]:
    """Yield which weights of a run its figures are of; None where they do not say."""
    for method in results["methods"]:
        own = method["runs"] if method["kind"] == "model" else ()
        yield from (run.get("stamp") for run in own if run["checkpoint"] == path)
    downstream = results["downstream"]
    for task in downstream["tasks"] if downstream else ():
        for row in task["probes"]:
            told = zip_longest(row.get("checkpoints", ()), row.get("stamps", ()))
            yield from (stamp for checkpoint, stamp in told if checkpoint == path)


def _require_stamp(place: str, path: str, stamps: set[str | None], stamp: str) -> None:
    if None in stamps:
        raise ValueError(
            f"infer.results={place} does not say which weights of {path} it is of, as evaluations "
            "of earlier versions do not, so that it cannot be checked: evaluate again, or leave it "
            "out"
        )
    if stamps != {stamp}:
        raise ValueError(
            f"infer.results={place} is of other weights than {path} has now, which was trained on "
            "or written anew since: evaluate again, or leave it out"
        )


def _reconstruction(results: Mapping[str, Any], path: str) -> Iterator[str]:
    for method in results["methods"]:
        own = [run for run in method["runs"] if run["checkpoint"] == path]
        if method["kind"] != "model" or not own:
            continue
        several = (
            f": the mean of {len(method['runs'])} runs (seeds), of which this one has "
            f"{own[0]['r2_pooled']:.3f}"
            if len(method["runs"]) > 1
            else ""
        )
        yield (
            f"* Hidden values restored, as {quoted(method['name'])}: R2 "
            f"{_with_interval(method['r2_pooled'], method['r2_pooled_interval'])} pooled, "
            f"{_with_interval(method['r2_macro'], method['r2_macro_interval'])} as the mean over "
            f"{results['data']['num_codes_counted']} codes (n = {results['data']['num_scored']:,} "
            f"values of {counted(results['data']['num_subjects'], 'subject')}; over "
            f"{method['interval_over']}){several}."
        )


def _tasks(results: Mapping[str, Any], path: str) -> Iterator[str]:
    downstream = results["downstream"]
    for task in downstream["tasks"] if downstream else ():
        support = task["support"]
        size = support["splits"][downstream["split"]]
        positive = f", {size['num_positives']:,} positive" if size["num_positives"] else ""
        for row in task["probes"]:
            scores = [
                f"{SCORES[name]} {_with_interval(score['value'], score['interval'])}"
                for name, score in row["scores"].items()
                if name in SCORES and score["value"] is not None
            ]
            if path in row.get("checkpoints", ()) and row["chosen"] and scores:
                num_runs = len(row["checkpoints"])
                several = f": the mean of {num_runs} runs (seeds)" if num_runs > 1 else ""
                yield (
                    f"* {quoted(support['name'])} by {row['learner']} on {row['features']}, as "
                    f"{quoted(row['method'])}: {', '.join(scores)} (n = {size['num_labels']:,} "
                    f"labels{positive}){several}."
                )


def _with_interval(value: float | None, interval: list[float | None]) -> str:
    if value is None:
        return "unknown"
    low, high = interval
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if None not in (low, high) else "")
