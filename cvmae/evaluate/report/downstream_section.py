"""Predictions in the report and on the terminal."""

import jinja2

from cvmae.evaluate.downstream.results import Difference, Downstream, Task
from cvmae.evaluate.report import wording
from cvmae.evaluate.small_cells import SMALLEST_CELL
from cvmae.meds.splits import SPLITS
from cvmae.runtime.tables import text_table

__all__ = ["downstream_section", "downstream_table"]

SCORE_NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier",
    "r2": "R2",
    "rank_correlation": "Rank correlation",
    "mean_absolute_error": "Mean absolute error",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
}
# Table 1 of the workshop version: random, variance, cv, each with what follows the sign.
PUBLISHED = (
    ("in-ICU mortality", "AUROC", ((0.682, 0.017), (0.694, 0.017), (0.713, 0.017))),
    ("in-ICU mortality", "AUPRC", ((0.083, 0.009), (0.091, 0.009), (0.107, 0.009))),
    ("in-hospital mortality", "AUROC", ((0.657, 0.014), (0.668, 0.014), (0.691, 0.014))),
    ("in-hospital mortality", "AUPRC", ((0.124, 0.007), (0.131, 0.007), (0.149, 0.007))),
    ("30-day readmission", "AUROC", ((0.618, 0.016), (0.627, 0.016), (0.648, 0.016))),
    ("30-day readmission", "AUPRC", ((0.156, 0.008), (0.162, 0.008), (0.173, 0.008))),
)


def downstream_section(found: Downstream | None, environment: jinja2.Environment) -> str:
    """Return the section of the report, empty where there are no label sets."""
    if found is None:
        return ""
    return environment.get_template("downstream.html").render(
        found=found,
        splits=SPLITS,
        score_names=SCORE_NAMES,
        smallest=SMALLEST_CELL,
        methods_of=_methods,
        features_of=_features,
        published=PUBLISHED,
    )


def downstream_table(found: Downstream | None) -> str:
    """Return the ways to predict as text, a table a task; '' where there are no label sets."""
    if found is None:
        return ""
    return "\n\n".join([*(_task_text(task, found.split) for task in found.tasks), *found.notes])


def _task_text(task: Task, split: str) -> str:
    own = task.support.splits[split]
    positive = "" if own.num_positives is None else f", {wording.count(own.num_positives)} positive"
    title = f"{task.support.name}, {split}: {wording.count(own.num_labels)} labels{positive}"
    if reason := task.support.not_learned or task.support.not_scored:
        title += f"; undefined: {reason}"
    if not task.probes:
        return title
    names = [name for name in task.probes[0].scores if not name.startswith("calibration")]
    headings = ("method", "features", "probe", *(SCORE_NAMES[name] for name in names), "95%")
    rows = [
        (
            row.method,
            row.features + (" *" if row.chosen else ""),
            row.learner,
            *(_shown(row.scores[name].value) for name in names),
            wording.spread(row.scores[task.main_score].interval),
        )
        for row in task.probes
    ]
    table = text_table(headings, rows, align="<<<>")
    verdicts = [
        f"{pair.first} minus {pair.second} ({_features(pair)}): {wording.signed(pair.value)} "
        f"{SCORE_NAMES[pair.score]} ({wording.spread(pair.interval)}), {pair.verdict}"
        for pair in task.differences
        if pair.score == task.main_score
    ]
    adjusted = (
        f"verdicts adjusted for the {len(task.differences)} differences of the task (false "
        "discovery rate), intervals each of its own:"
    )
    told = [adjusted, *verdicts] if verdicts else []
    return "\n".join([title, "* features chosen on tuning", table, *told])


def _features(pair: Difference) -> str:
    """Return the features of both sides, once where they are the same."""
    return " against ".join(dict.fromkeys((pair.first_features, pair.second_features)))


def _shown(value: float) -> str:
    return "undefined" if value != value else wording.number(value)


def _methods(task: Task) -> list[str]:
    """Return whose scores subgroups have, in their order."""
    shown = [list(group.scores) for group in task.subgroups if not group.suppressed]
    return shown[0] if shown else []
