"""The figures of predictions: scores of every way to predict, and calibration."""

import numpy as np

from cvmae.evaluate.downstream.results import ProbeRow, Task
from cvmae.evaluate.report.figure_style import GREY, INK, RULE, Drawing, colours, finite, frame
from cvmae.evaluate.report.wording import number
from cvmae.evaluate.results import Results
from cvmae.runtime.figures import Axes, Figure

__all__ = ["draw_calibration", "draw_probes", "probe_name"]

MOST_ACROSS = 2
AXIS_NAMES = {"auroc": "AUROC", "r2": "R2"}


def probe_name(row: ProbeRow) -> str:
    """Return what a way to predict is called, in figures and tables alike."""
    if row.kind == "hand-made":
        return f"{row.method}, {row.learner}"
    return f"{row.method}: {row.features}"


def draw_probes(results: Results) -> Drawing | None:
    """Draw the main score of every way to predict, a panel a task."""
    tasks = _scored_tasks(results)
    if not tasks:
        return None
    most = max(len(task.probes) for task in tasks)
    figure, axes = _panels(len(tasks), 1.2 + 0.3 * most)
    colour = colours(results)
    for axis, task in zip(axes, tasks, strict=False):
        score = task.main_score
        rows = sorted(task.probes, key=lambda row: finite(row.scores[score].value, -np.inf))
        for place, row in enumerate(rows):
            found, tint = row.scores[score], colour.get(row.method, GREY)
            axis.plot(found.interval, [place, place], color=tint, linewidth=1.6)
            axis.plot(found.seeds, [place] * len(found.seeds), "|", color=tint, markersize=7)
            axis.plot(found.value, place, "o", color=tint, markersize=5 if row.chosen else 3)
            axis.annotate(
                number(found.value),
                (found.value, place),
                textcoords="offset points",
                xytext=(0, 4),
                ha="center",
                fontsize=7,
                color=tint,
            )
        axis.set_yticks(range(len(rows)), [probe_name(row) for row in rows])
        axis.axvline(0.5 if score == "auroc" else 0.0, color=RULE, zorder=0)
        axis.set_title(task.support.name, fontsize=10, loc="left")
        axis.margins(x=0.08)
        frame(axis, f"{AXIS_NAMES[score]}, {_downstream_split(results)}")
    return Drawing(
        name="probes",
        title="What the frozen encoders are worth for predictions",
        caption="Dots are means over seeds, ticks single seeds, lines 95% intervals over seeds and "
        "subjects (over subjects alone for one seed); large dots are the features that each "
        "method chose on tuning. Grey needs no pretraining.",
        figure=figure,
    )


def draw_calibration(results: Results) -> Drawing | None:
    """Draw what came against what was predicted, for what each method has chosen."""
    tasks = [task for task in _scored_tasks(results) if any(row.calibration for row in task.probes)]
    if not tasks:
        return None
    figure, axes = _panels(len(tasks), 4.0)
    colour = colours(results)
    for axis, task in zip(axes, tasks, strict=False):
        shown = [row for row in task.probes if row.chosen and row.calibration]
        for row in shown:
            points = [(found.predicted, found.observed) for found in row.calibration]
            tint = colour.get(row.method, INK if row.kind == "hand-made" else GREY)
            axis.plot(*zip(*points, strict=True), "o-", color=tint, markersize=3, linewidth=1.2)
            axis.lines[-1].set_label(probe_name(row))
        top = max(max(f.predicted, f.observed) for row in shown for f in row.calibration)
        axis.plot([0, top], [0, top], color=RULE, zorder=0)
        axis.set_title(task.support.name, fontsize=10, loc="left")
        axis.set_ylabel("share that was positive", fontsize=9)
        axis.legend(fontsize=7, frameon=False)
        frame(axis, "predicted chance")
    return Drawing(
        name="calibration",
        title="Are predicted chances true",
        caption="Labels are ordered by predicted chance and cut into up to ten equal parts; on the "
        "line, as many came true as was predicted.",
        figure=figure,
    )


def _scored_tasks(results: Results) -> list[Task]:
    """Return the tasks whose main score is defined."""
    if results.downstream is None:
        return []
    return [
        task for task in results.downstream.tasks if task.probes and not task.support.not_scored
    ]


def _downstream_split(results: Results) -> str:
    return results.downstream.split if results.downstream else ""


def _panels(number_of_them: int, height: float) -> tuple[Figure, list[Axes]]:
    across = min(MOST_ACROSS, number_of_them)
    down = -(-number_of_them // across)
    figure = Figure(figsize=(10, max(2.6, height) * down), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).ravel())
    for unused in axes[number_of_them:]:
        unused.set_visible(False)
    return figure, axes
