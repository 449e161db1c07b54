"""Figures of an evaluation, each with the sentence that says what to see in it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cvmae.evaluate.report.figure_style import (
    GREY,
    INK,
    LOWEST_R2,
    RULE,
    Drawing,
    colours,
    finite,
    frame,
)
from cvmae.evaluate.report.figures_codes import (
    draw_codes,
    draw_cv_against_r2,
    draw_differences,
)
from cvmae.evaluate.report.wording import number, signed
from cvmae.runtime.figures import Axes, Figure, MaxNLocator, attempted

__all__ = ["draw", "write_figures"]

Results = Mapping[str, Any]

PIXELS_PER_INCH = 160


def write_figures(results: Results, folder: str | Path) -> list[tuple[Drawing, Path]]:
    """Draw every figure that the results allow and write each as PNG that can be."""
    written = []
    for drawing in draw(results):
        path = Path(folder) / f"{drawing.name}.png"
        with attempted(f"figure {drawing.name}"):
            drawing.figure.savefig(path, dpi=PIXELS_PER_INCH, facecolor="white")
            written.append((drawing, path))
    return written


def draw(results: Results) -> list[Drawing]:
    """Return the figures that the results allow: no pair, no curve or no code, no figure."""
    makers: list[Callable[[Results], Drawing]] = [_scores]
    if results["pairs"] and results["pairs"][0]["num_codes"]:
        makers.append(partial(draw_differences, pair=results["pairs"][0]))
    if any(code["counted"] for code in results["codes"]):
        makers += [draw_codes, draw_cv_against_r2]
    if any(curve["epoch"] for curve in results["convergence"]["names"].values()):
        makers.append(_curves)
    drawings = []
    for make in makers:
        with attempted("a figure of the report"):
            drawings.append(make(results))
    return drawings


def _scores(results: Results) -> Drawing:
    methods = [m for m in results["methods"] if m["kind"] != "best weights"]
    methods.sort(key=lambda m: finite(m["r2_pooled"], -np.inf))
    others = [p for p in results["against_reference"] if p["kind"] == "model"]
    colour, height = colours(results), 1.0 + 0.42 * len(methods)
    figure = Figure(figsize=(10, max(2.6, height)), layout="constrained")
    widths = [3, 3, 2.4] if others else [3, 3]
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    for axis, score, title in zip(
        axes, ("r2_pooled", "r2_macro"), ("Pooled over values", "Mean over codes"), strict=False
    ):
        for row, method in enumerate(methods):
            tint = colour[method["name"]]
            _whisker(axis, row, method[score], method[f"{score}_interval"], tint)
        frame(axis, title + ": R2")
        axis.set_yticks(range(len(methods)), [m["name"] for m in methods])
        axis.set_ylim(-0.6, len(methods) - 0.3)
        axis.axvline(0, color=RULE, zorder=0)
        axis.margins(x=0.1)  # room for the numbers
    for label, method in zip(axes[0].get_yticklabels(), methods, strict=True):
        label.set_color(colour[method["name"]])
    axes[1].tick_params(labelleft=False)
    if others:
        _reference_differences(axes[2], others, results["reference"], colour)
    return Drawing(
        name="scores",
        title="How well hidden values are restored",
        caption="Dots are R2 (1 is perfect, 0 is the code's mean), whiskers 95% intervals over "
        "resampled subjects; grey methods need no training."
        + (
            f" The right panel magnifies what policies differ by: right of the line is better "
            f"than {results['reference']}, and a whisker that crosses it shows no difference."
            if others
            else ""
        ),
        figure=figure,
    )


def _reference_differences(
    axis: Axes, others: Sequence[Results], reference: str, colour: Mapping[str, str]
) -> None:
    """Draw the difference to the reference of every other model, best at the top."""
    ranked = sorted(others, key=lambda pair: finite(pair["pooled_difference"], -np.inf))
    for row, pair in enumerate(ranked):
        tint = colour[pair["first"]]
        for offset, kind, marker in ((0.16, "pooled", "o"), (-0.16, "macro", "s")):
            low, high = (finite(bound, np.nan) for bound in pair[f"{kind}_interval"])
            value = finite(pair[f"{kind}_difference"], np.nan)
            axis.plot([low, high], [row + offset] * 2, color=tint, linewidth=1.6)
            axis.plot(value, row + offset, marker, color=tint, markersize=5)
            axis.annotate(
                f"{'values' if kind == 'pooled' else 'codes'} {signed(value)}",
                (high, row + offset),
                textcoords="offset points",
                xytext=(5, 0),
                va="center",
                fontsize=7.5,
                color=tint,
            )
    axis.axvline(0, color=INK, linewidth=0.8, zorder=0)
    axis.set_yticks(range(len(ranked)), [pair["first"] for pair in ranked])
    axis.set_ylim(-0.6, len(ranked) - 0.4)
    low, high = axis.get_xlim()
    axis.set_xlim(low - 0.05 * (high - low), high + 0.75 * (high - low))  # room for the labels
    axis.locator_params(axis="x", nbins=4)
    frame(axis, f"R2 minus {reference}'s")


def _curves(results: Results) -> Drawing:
    convergence, tint = results["convergence"], colours(results)
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    axis, ends = figure.subplots(), []
    for name, curve in convergence["names"].items():
        if not curve["epoch"]:
            continue
        epoch, error = curve["epoch"], curve["tuning_mse"]
        axis.plot(epoch, error, color=tint[name], linewidth=2, marker="o", markersize=3)
        if curve["num_runs"] > 1:
            axis.fill_between(
                epoch, curve["lowest"], curve["highest"], color=tint[name], alpha=0.15, linewidth=0
            )
        ends.append((float(error[-1]), float(epoch[-1]), name))
    best, reference = convergence["reference_best"], convergence["reference"]
    if best is not None:
        axis.axhline(1.01 * best, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        axis.annotate(
            f"1% above {reference}'s best",
            (0, 1.01 * best),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            xytext=(4, 3),
            fontsize=8,
            color=GREY,
        )
    cut = _cut_first_epoch(axis, list(convergence["names"].values()))
    _label_ends(axis, ends, tint)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("Squared error on tuning (standardised)")
    frame(axis, "Epoch")
    reached = [
        f"{name} {'never' if (e := c['epochs_to_reference_best']) is None else f'{e:g}'}"
        for name, c in convergence["names"].items()
    ]
    return Drawing(
        name="learning_curves",
        title="How fast each policy learns",
        caption=f"Tuning error on one fixed uniform mask, the same for all. Epochs to come within "
        f"1% of {reference}'s best: {', '.join(reached)}. Bands are the least and greatest of "
        f"several seeds, where there are several.{cut}",
        figure=figure,
    )


def _cut_first_epoch(axis: Axes, curves: Sequence[Results]) -> str:
    """Leave a high first epoch out of the frame, since the race is decided below it."""
    later = [error for curve in curves for error in curve["highest"][1:]]
    longest = max(len(curve["epoch"]) for curve in curves)
    if longest < 5 or axis.get_ylim()[1] < 1.5 * max(later) - 0.5 * min(later):
        return ""
    axis.set_ylim(top=1.05 * max(later) - 0.05 * min(later))
    return " The first epoch starts above the frame."


def _label_ends(axis: Axes, ends: list[tuple[float, float, str]], tint: Mapping[str, str]) -> None:
    """Write each name beside the end of its line, pushed apart so that none overlap."""
    low, high = axis.get_ylim()
    gap, place = 0.055 * (high - low), -np.inf
    for error, epoch, name in sorted(ends):
        place = max(error, place + gap)
        axis.annotate(
            f"{name} {number(error, 3)}",
            (epoch, place),
            textcoords="offset points",
            xytext=(8, 0),
            va="center",
            color=tint[name],
            fontweight="bold",
            fontsize=9,
        )
    axis.margins(x=0.02)


def _whisker(
    axis: Axes, row: float, value: float | None, bounds: Sequence[float | None], tint: str
) -> None:
    middle, (low, high) = finite(value, np.nan), (finite(b, np.nan) for b in bounds)
    if middle < LOWEST_R2:
        axis.plot(LOWEST_R2, row, "<", color=tint, markersize=6)  # it lies further out
    else:
        axis.plot([max(low, LOWEST_R2), high], [row, row], color=tint, linewidth=1.6)
        axis.plot(middle, row, "o", color=tint, markersize=6)
    axis.annotate(
        number(middle, 3),
        (max(middle, LOWEST_R2), row),
        textcoords="offset points",
        xytext=(0, 6),
        ha="center",
        fontsize=8,
        color=tint,
    )
