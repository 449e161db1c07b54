"""The figures of a sweep, drawn from its summary alone."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvmae.evaluate.convergence import WITHIN
from cvmae.evaluate.report.figure_style import GREY, INK, frame, name_colours
from cvmae.meds.code_names import short_names
from cvmae.runtime.figures import Figure, MaxNLocator, as_label, attempted
from cvmae.sweep.ranking import Ranked, rank
from cvmae.sweep.summary import Summary, read_summary

__all__ = ["draw", "redraw"]

PIXELS_PER_INCH = 120
MOST_CODES = 60  # on an axis that can be read


def redraw(folder: str | Path, *summaries: str | Path) -> list[Path]:
    """Draw the figures of one or more ``summary.json``, together, into a folder.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: They are not of the same codes.
    """
    summary, written = read_summary(*summaries), []
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, figure in draw(summary, rank(summary)):
        written.append(Path(folder) / f"{name}.png")
        figure.savefig(written[-1], dpi=PIXELS_PER_INCH, bbox_inches="tight", facecolor="white")
    return written


def draw(summary: Summary, ranked: Sequence[Ranked]) -> Iterator[tuple[str, Figure]]:
    """Yield each figure that can be drawn, with its name; none where no trial has finished."""
    figures: dict[str, Callable[[Summary, Sequence[Ranked]], Figure]] = {
        "convergence": _convergence,
        "ranked_error": _ranked_error,
        "error_by_quartile": _by_quartile,
        "share_hidden": _share_hidden,
    }
    for name, figure in figures.items() if ranked else ():
        drawn = None
        with attempted(f"figure {name} of the sweep"):
            drawn = figure(summary, ranked)
        if drawn is not None:
            yield name, drawn


def _styles(summary: Summary) -> dict[str, dict[str, Any]]:
    """Return a colour for each label, and a stroke that tells it from others of its colour.

    In the order of the grid, which later trials do not change, as they do the ranking.
    """
    tint, styles = name_colours(summary.labels()), {}
    strokes = {colour: itertools.cycle(("-", "--", ":", "-.")) for colour in tint.values()}
    for label, colour in tint.items():
        styles[label] = {"color": colour, "linestyle": next(strokes[colour])}
    return styles


def _convergence(summary: Summary, ranked: Sequence[Ranked]) -> Figure:
    """Draw mean tuning errors against epochs, with the least and greatest of several seeds."""
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axis, style = figure.subplots(), _styles(summary)
    for one in ranked:
        curve = one.curve
        name = f"{one.label} ({curve.num_runs})"
        axis.plot(curve.epoch, curve.tuning_mse, **style[one.label], linewidth=1.8, label=name)
        if curve.num_runs > 1:
            axis.fill_between(
                curve.epoch,
                curve.lowest,
                curve.highest,
                color=style[one.label]["color"],
                alpha=0.15 if len(ranked) < 6 else 0.06,
                linewidth=0,
            )
    targets = {WITHIN * one.reference_best for one in ranked if one.reference_best}
    for target in sorted(targets):
        axis.axhline(target, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
    later = [error for one in ranked for error in one.curve.highest[1:]]
    if len(later) > 4:  # a first epoch far above would leave no room for the rest
        shown = [*later, *targets]
        top = 1.05 * max(shown) - 0.05 * min(shown)
        axis.set_ylim(top=min(axis.get_ylim()[1], top))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("Squared error on tuning (standardised)")
    frame(axis, "Epoch; dashed: 1% above random's lowest mean; bands: seeds, their number beside")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _ranked_error(summary: Summary, ranked: Sequence[Ranked]) -> Figure:
    """Draw each label's last tuning error: its seeds, their mean, its interval."""
    figure = Figure(figsize=(8.5, 1.4 + 0.32 * len(ranked)), layout="constrained")
    axis, style = figure.subplots(), _styles(summary)
    finished = summary.finished()
    for place, one in enumerate(ranked):
        found, colour = one.last_tuning_mse, style[one.label]["color"]
        errors = [trial.curve["tuning_mse"][-1] for trial in finished[one.label]]
        axis.plot(errors, [place] * len(errors), "o", color=colour, alpha=0.4, markersize=4)
        axis.plot([found.mean], [place], "D", color=colour, markersize=6)
        if found.low is not None and found.high is not None:
            axis.plot([found.low, found.high], [place, place], color=colour, linewidth=1.5)
    axis.set_yticks(range(len(ranked)), [one.label for one in ranked], fontsize=8)
    axis.invert_yaxis()
    frame(axis, "Squared error on tuning, last epoch: seeds, mean, 95% t interval over seeds")
    return figure


def _by_quartile(summary: Summary, ranked: Sequence[Ranked]) -> Figure:
    """Draw who restores stable codes and who volatile ones."""
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    axis, style = figure.subplots(), _styles(summary)
    for one in ranked:
        axis.plot(
            range(1, 5),
            one.tuning_mse_by_quartile[:4],
            **style[one.label],
            marker="o",
            markersize=4,
            label=one.label,
        )
    axis.set_xticks(range(1, 5), ["1: stable", "2", "3", "4: volatile"])
    axis.set_ylabel("Squared error on tuning (standardised)")
    frame(axis, "Quartile of codes by coefficient of variation")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _share_hidden(summary: Summary, ranked: Sequence[Ranked]) -> Figure:
    """Draw how often each code was hidden in the last epoch, codes by their CV."""
    order = sorted(range(len(summary.codes)), key=lambda place: summary.codes[place].cv)
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axis, style = figure.subplots(), _styles(summary)
    finished = summary.finished()
    for one in ranked:
        rates = [trial.codes["mask_rate"] for trial in finished[one.label] if trial.codes]
        if rates and one.policy != "shuffled_cv":
            rates = [np.mean(rates, axis=0)]
        for number, rate_C in enumerate(rates):  # each seed has shuffled other codes
            label = "" if number else one.label
            axis.plot(
                np.array(rate_C)[order], **style[one.label], marker=".", linewidth=1, label=label
            )
    if len(order) <= MOST_CODES:
        names = short_names([code.code for code in summary.codes], {}, unit=False)
        ticks = [as_label(names[summary.codes[place].code]) for place in order]
        axis.set_xticks(range(len(order)), ticks, rotation=90, fontsize=7)
    axis.set_ylim(0, 1)
    axis.set_ylabel("Share of values hidden", color=INK)
    frame(axis, "Codes, the least coefficient of variation first")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
