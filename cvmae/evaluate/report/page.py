"""The results as a table for the terminal and as one HTML file."""

import base64
import functools
import math
from pathlib import Path

import jinja2

from cvmae.evaluate.contrasts import Contrast
from cvmae.evaluate.methods import CodeScores
from cvmae.evaluate.report import wording
from cvmae.evaluate.report.downstream_section import downstream_section
from cvmae.evaluate.report.figure_style import Drawing, colours
from cvmae.evaluate.report.figures import write_figures
from cvmae.evaluate.results import Results
from cvmae.evaluate.small_cells import SMALLEST_CELL
from cvmae.evaluate.summary import SummaryRow, summary
from cvmae.runtime.tables import text_table

__all__ = ["REPORT", "methods_table", "write_report"]

REPORT = "report.html"


def methods_table(results: Results) -> str:
    """Return the summary as text: the headline, then a row per policy and baseline."""
    reference, data = results.reference, results.data
    headings = (
        "policy",
        "R2 pooled",
        "95% interval",
        "R2 macro",
        "R2 median",
        f"{_noun(results)} won vs {reference}",
        f"against {reference}",
        f"epochs to 1% of {reference}'s best",
        "last 5 epochs' slope",
        "measurements/s",
    )
    table = text_table(headings, [_cells(row) for row in summary(results)])
    scope = (
        f"{results.settings.split}: {wording.count(data.num_scored)} hidden values of "
        f"{wording.count(data.num_subjects)} subjects, {data.num_codes_matched} of "
        f"{data.num_codes} codes found, {data.num_codes_counted} counted one by one"
        f"{_left_out(results)}; {wording.count(data.num_twins)} hidden values with a twin at the "
        "same time not scored"
    )
    told = results.headline
    text = [scope, "", table, "", *results.notes, told.title + ".", *told.sentences]
    return "\n".join(line.rstrip() for line in text)


def _left_out(results: Results) -> str:
    reasons = [f"{number} with {why}" for why, number in results.data.codes_left_out.items()]
    return f" (not: {', '.join(reasons)})" if reasons else ""


def _cells(row: SummaryRow) -> tuple[str, ...]:
    trained = row.kind == "model"
    return (
        row.policy,
        wording.number(row.r2_pooled),
        wording.spread(row.r2_pooled_interval),
        wording.number(row.r2_macro),
        wording.number(row.r2_median),
        row.codes_won,
        row.verdict,
        row.epochs_needed,
        wording.signed(row.final_slope, 4) if trained else "",
        wording.count(row.measurements_per_s) if trained else "",
    )


def write_report(results: Results, folder: str | Path) -> Path:
    """Write the figures as PNG and one HTML file that holds everything; return its path."""
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    figures = [_embedded(*pair) for pair in write_figures(results, folder / "figures")]
    environment = _templates()
    models = [method.name for method in results.models]
    page = environment.get_template(REPORT).render(
        results=results,
        rows=summary(results),
        figures=figures,
        noun_of_codes=_noun(results),
        label_of=results.labels(),
        models=models,
        best_r2=lambda code: _best_r2(code, models),
        best_weights=any(method.kind == "best weights" for method in results.methods),
        colours=colours(results),
        downstream=downstream_section(results.downstream, environment),
        runs_beside=_runs_beside(results),
        smallest=SMALLEST_CELL,
        contrast=_contrast,
        plain=_plain,
    )
    path = folder / REPORT
    path.write_text(page, encoding="utf-8")
    return path


@functools.cache  # with the templates that it has compiled
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cvmae.evaluate", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update({name: getattr(wording, name) for name in wording.__all__})
    return environment


def _embedded(drawing: Drawing, path: Path) -> dict[str, str]:
    image = base64.b64encode(path.read_bytes()).decode("ascii")
    return {
        "name": drawing.name,
        "title": drawing.title,
        "caption": drawing.caption,
        "image": f"data:image/png;base64,{image}",
        "width": f"{drawing.figure.get_figwidth() * 96:.0f}",
    }


def _runs_beside(results: Results) -> dict[str, list[str]]:
    """Return the checkpoints of those that tasks alone compare."""
    tasks = results.downstream.tasks if results.downstream else ()
    rows = [row for task in tasks for row in task.probes]
    return {
        name: list(
            dict.fromkeys(path for row in rows if row.method == name for path in row.checkpoints)
        )
        for name in results.not_compared
    }


def _plain(found: Contrast, digits: int = 3) -> str:
    return wording.estimated(found.value, found.interval, digits)


def _contrast(found: Contrast, digits: int = 3) -> str:
    """Return a difference between policies, marked where its seeds do not decide it."""
    undecided = "; undecided" if found.verdict == "undecided" else ""
    return wording.estimated(found.value, found.interval, digits, undecided)


def _noun(results: Results) -> str:
    return wording.noun(code.code for code in results.codes)


def _best_r2(code: CodeScores, models: list[str]) -> float | None:
    return max((code.r2[name] for name in models if math.isfinite(code.r2[name])), default=None)
