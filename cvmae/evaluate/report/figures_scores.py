"""The figure of all methods: R2 with intervals, and differences to the reference."""

from collections.abc import Mapping, Sequence

import numpy as np

from cvmae.evaluate.report.figure_style import (
    INK,
    LOWEST_R2,
    RULE,
    Drawing,
    colours,
    finite,
    frame,
)
from cvmae.evaluate.report.wording import number, signed
from cvmae.evaluate.results import Results
from cvmae.evaluate.significance import Comparison
from cvmae.runtime.figures import Axes, Figure

__all__ = ["draw_scores"]


def draw_scores(results: Results) -> Drawing:
    """Draw R2 of every method with its interval, and what models differ by from the reference."""
    methods = [m for m in results.methods if m.kind != "best weights"]
    methods.sort(key=lambda m: finite(m.r2_pooled, -np.inf))
    others = [pair for pair in results.against_reference if pair.kind == "model"]
    colour, height = colours(results), 1.0 + 0.42 * len(methods)
    figure = Figure(figsize=(10, max(2.6, height)), layout="constrained")
    widths = [3, 3, 2.4] if others else [3, 3]
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    pooled = [(m.r2_pooled, m.r2_pooled_interval) for m in methods]
    macro = [(m.r2_macro, m.r2_macro_interval) for m in methods]
    for axis, scores, title in zip(
        axes, (pooled, macro), ("Pooled over values", "Mean over codes"), strict=False
    ):
        for row, (method, score) in enumerate(zip(methods, scores, strict=True)):
            _whisker(axis, row, *score, colour[method.name])
        frame(axis, title + ": R2")
        axis.set_yticks(range(len(methods)), [m.name for m in methods])
        axis.set_ylim(-0.6, len(methods) - 0.3)
        axis.axvline(0, color=RULE, zorder=0)
        axis.margins(x=0.1)  # room for the numbers
    for label, method in zip(axes[0].get_yticklabels(), methods, strict=True):
        label.set_color(colour[method.name])
    axes[1].tick_params(labelleft=False)
    if others:
        _reference_differences(axes[2], others, results.reference, colour)
    return Drawing(
        name="scores",
        title="How well hidden values are restored",
        caption="Dots are R2 (1 is perfect, 0 is the code's mean on train), whiskers 95% intervals "
        "over subjects, and over seeds where there are three runs; grey methods need no training."
        + (
            f" The right panel magnifies what policies differ by: right of the line is better "
            f"than {results.reference}; a whisker that crosses it shows no difference, and a "
            "dotted one leaves out the luck of training (fewer than three runs) and claims nothing."
            if others
            else ""
        ),
        figure=figure,
    )


def _reference_differences(
    axis: Axes, others: Sequence[Comparison], reference: str, colour: Mapping[str, str]
) -> None:
    """Draw the difference to the reference of every other model, best at the top."""
    ranked = sorted(others, key=lambda pair: finite(pair.pooled_difference, -np.inf))
    for row, pair in enumerate(ranked):
        tint = colour[pair.first]
        for offset, over, marker, value, (low, high) in (
            (0.16, "values", "o", pair.pooled_difference, pair.pooled_interval),
            (-0.16, "codes", "s", pair.macro_difference, pair.macro_interval),
        ):
            style = ":" if pair.verdict == "undecided" else "-"
            axis.plot([low, high], [row + offset] * 2, style, color=tint, linewidth=1.6)
            axis.plot(value, row + offset, marker, color=tint, markersize=5)
            axis.annotate(
                f"{over} {signed(value)}",
                (1, row + offset),
                xycoords=("axes fraction", "data"),  # clear of whiskers and of the line of 0
                ha="right",
                va="center",
                fontsize=7.5,
                color=tint,
            )
    axis.axvline(0, color=INK, linewidth=0.8, zorder=0)
    axis.set_yticks(range(len(ranked)), [pair.first for pair in ranked])
    axis.set_ylim(-0.6, len(ranked) - 0.4)
    low, high = axis.get_xlim()
    axis.set_xlim(low - 0.05 * (high - low), high + 0.75 * (high - low))  # room for the labels
    axis.locator_params(axis="x", nbins=4)
    frame(axis, f"R2 minus {reference}'s")


def _whisker(axis: Axes, row: float, middle: float, bounds: tuple[float, float], tint: str) -> None:
    low, high = bounds
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
