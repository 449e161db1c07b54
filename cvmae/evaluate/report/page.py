"""What the results say: a headline that is honest about who won, a table, an HTML report."""

import base64
import datetime
import importlib.metadata
import importlib.resources
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch

from cvmae.evaluate.reconstruction import summary
from cvmae.evaluate.report import wording
from cvmae.evaluate.report.figure_style import Drawing, colours
from cvmae.evaluate.report.figures import write_figures
from cvmae.meds.files import dataset_name

__all__ = ["headline", "provenance", "text_table", "write_report"]

Results = Mapping[str, Any]

LEVEL = 0.05  # of the Wilcoxon test after Bonferroni
PACKAGES = ("cvmae", "torch", "numpy", "scipy", "pyarrow", "matplotlib")


def headline(results: Results) -> dict[str, Any]:
    """Return a title and sentences computed from the results, whoever won.

    The title compares the first pair (`cv` with `random` where both are there) on two counts:
    pooled R2 (does the interval of the difference exclude zero?) and codes (Wilcoxon after
    Bonferroni). Where the two disagree or one is open, it says so.
    """
    pairs = results["pairs"]
    title = _verdict(pairs[0], _noun(results)) if pairs else _single(results)
    sentences = [_evidence(pair, _noun(results)) for pair in pairs[:1]]
    return {"title": title, "sentences": [*sentences, *_context(results)]}


def _verdict(pair: Results, noun: str) -> str:
    """Say who won in one sentence."""
    first, second = pair["first"], pair["second"]
    low, high = pair["pooled_interval"]
    pooled = int(low > 0) - int(high < 0)
    decided = pair["wilcoxon_p_bonferroni"] < LEVEL
    codes = (int(pair["wins"] > pair["losses"]) - int(pair["wins"] < pair["losses"])) * decided
    count = f"{max(pair['wins'], pair['losses'])} of {pair['num_codes']} {noun}"
    if pooled == codes == 0:
        return f"No clear difference between {first} and {second}"
    winner, loser = (first, second) if pooled + codes >= 0 else (second, first)
    if pooled == codes:
        return f"{winner} restores hidden values better than {loser}: on {count}, and pooled"
    if pooled and codes:
        by_values, by_codes = (first, second) if pooled > 0 else (second, first)
        return f"A split verdict: {by_values} is better pooled over values, {by_codes} on {count}"
    if pooled:
        return (
            f"{winner} is better than {loser} pooled over all values, "
            f"but {noun} one by one are undecided"
        )
    return f"{winner} is better than {loser} on {count}, but pooled over all values it is open"


def _single(results: Results) -> str:
    model = next(method for method in results["methods"] if method["kind"] == "model")
    return (
        f"{model['name']} restores hidden values with a pooled R2 of "
        f"{wording.number(model['r2_pooled'])}"
    )


def _evidence(pair: Results, noun: str) -> str:
    first, second, undecided = pair["first"], pair["second"], pair["num_codes"]
    undecided -= pair["clear_wins"] + pair["clear_losses"]
    return (
        f"Pooled R2 of {first} minus {second}: {wording.signed(pair['pooled_difference'])} "
        f"(95% interval {wording.spread(pair['pooled_interval'])}, over resampled subjects). "
        f"{first} wins {pair['wins']} of {pair['num_codes']} {noun} (Wilcoxon "
        f"{wording.p_value(pair['wilcoxon_p_bonferroni'])} after Bonferroni, Cohen's d "
        f"{wording.number(pair['cohens_d'], 2)}); {noun} whose own interval excludes zero: "
        f"{pair['clear_wins']} for {first}, {pair['clear_losses']} for {second}, "
        f"{undecided} undecided."
    )


def _context(results: Results) -> list[str]:
    """Say who leads, how far a guess without training gets, and what the intervals cover."""
    models = [method for method in results["methods"] if method["kind"] == "model"]
    best = results["best_against_baseline"]
    leader, guess = (_named(results, best[key]) for key in ("first", "second"))
    low, high = best["pooled_interval"]
    standing = "ahead of" if low > 0 else "behind" if high < 0 else "level with"
    leads = f"{leader['name']} has the highest pooled R2 of the policies" if models[1:] else "It"
    sentences = [
        f"{leads}{',' if models[1:] else ' is, at'} {wording.number(leader['r2_pooled'])}"
        f"{', and is' if models[1:] else ','} {standing} {guess['name']}, the best guess without "
        f"any training ({wording.number(guess['r2_pooled'])}; difference "
        f"{wording.signed(best['pooled_difference'])}, 95% interval "
        f"{wording.spread(best['pooled_interval'])}). Code by code, {guess['name']} does better on "
        f"{best['losses']} of {best['num_codes']} {_noun(results)}."
    ]
    num_runs = [len(model["runs"]) for model in models]
    if models[1:] and min(num_runs) == 1:
        sentences.append(
            "One run a policy: intervals cover the choice of subjects, not the luck of training, "
            "so small differences need more seeds."
        )
    elif max(num_runs) > 1:
        spreads = [
            f"{model['name']} {wording.spread(_range(run['r2_pooled'] for run in model['runs']))}"
            for model in models
        ]
        sentences.append(f"Pooled R2 over seeds: {', '.join(spreads)}.")
    return sentences


def text_table(results: Results) -> str:
    """Return the summary as text: the headline, then a row per policy and baseline."""
    reference, data = results["reference"], results["data"]
    headings = (
        "policy",
        "R2 pooled",
        "95% interval",
        "R2 macro",
        f"{_noun(results)} won vs {reference}",
        f"epochs to 1% of {reference}'s best",
        "last 5 epochs' slope",
        "measurements/s",
    )
    rows = [headings, *(_cells(row) for row in summary(results))]
    widths = [max(len(row[place]) for row in rows) for place in range(len(headings))]
    lines = [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    scope = (
        f"{results['settings']['split']}: {wording.count(data['num_scored'])} hidden values of "
        f"{wording.count(data['num_subjects'])} subjects, {data['num_codes_matched']} of "
        f"{data['num_codes']} codes found, {data['num_codes_counted']} with at least "
        f"{results['settings']['min_scored']} values; {wording.count(data['num_twins'])} hidden "
        "values with a twin at the same time not scored"
    )
    told = results["headline"]
    text = [scope, "", *lines, "", *results["notes"], told["title"] + ".", *told["sentences"]]
    return "\n".join(line.rstrip() for line in text)


def _cells(row: Results) -> tuple[str, ...]:
    won = "" if row["won"] is None else f"{row['won']} of {row['num_codes']}"
    epochs, trained = row["epochs_to_reference_best"], row["kind"] == "model"
    return (
        row["policy"],
        wording.number(row["r2_pooled"]),
        wording.spread(row["r2_pooled_interval"]),
        wording.number(row["r2_macro"]),
        won,
        ("never" if epochs is None else f"{epochs:g}") if trained else "",
        wording.signed(row["final_slope"], 4) if trained else "",
        wording.count(row["measurements_per_s"]) if trained else "",
    )


def write_report(results: Results, folder: str | Path) -> Path:
    """Write the figures as PNG and one HTML file that holds everything; return its path."""
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    figures = [_embedded(*pair) for pair in write_figures(results, folder / "figures")]
    template = importlib.resources.files("cvmae.evaluate.report").joinpath("report.html")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update({name: getattr(wording, name) for name in wording.__all__})
    models = [method["name"] for method in results["methods"] if method["kind"] == "model"]
    page = environment.from_string(template.read_text(encoding="utf-8")).render(
        results=results,
        rows=summary(results),
        figures=figures,
        noun_of_codes=_noun(results),
        label_of=wording.code_labels(results),
        models=models,
        best_r2=lambda code: max(
            (code["r2"][name] for name in models if code["r2"][name] is not None), default=None
        ),
        best_weights=any(m["kind"] == "best weights" for m in results["methods"]),
        colours=colours(results),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def provenance(root: str) -> dict[str, Any]:
    """Return how, where and when the results came about."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
            versions[package] = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": root,
        "dataset": dataset_name(root),
        "versions": versions,
        "hardware": {
            "machine": platform.machine(),
            "num_cpus": os.cpu_count(),
            "gpu": device,
        },
    }


def _embedded(drawing: Drawing, path: Path) -> dict[str, str]:
    image = base64.b64encode(path.read_bytes()).decode("ascii")
    return {
        "name": drawing.name,
        "title": drawing.title,
        "caption": drawing.caption,
        "image": f"data:image/png;base64,{image}",
        "width": f"{drawing.figure.get_figwidth() * 96:.0f}",
    }


def _noun(results: Results) -> str:
    return wording.noun(code["code"] for code in results["codes"])


def _named(results: Results, name: str) -> Results:
    found: Results = next(method for method in results["methods"] if method["name"] == name)
    return found


def _range(values: Any) -> Sequence[float]:
    listed = list(values)
    return min(listed), max(listed)
