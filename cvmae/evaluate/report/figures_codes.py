"""Figures with a mark per code: differences of a pair, R2 of every method, CV against R2."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cvmae.arrays import Floats
from cvmae.evaluate.report.figure_style import (
    GREY,
    INK,
    LOWEST_R2,
    RULE,
    Drawing,
    code_labels,
    colours,
    drawn,
    finite,
    frame,
)
from cvmae.evaluate.report.wording import noun, number, p_value
from cvmae.evaluate.results import Results
from cvmae.evaluate.significance import LEVEL
from cvmae.runtime.figures import Axes, Figure

__all__ = ["draw_codes", "draw_cv_against_r2", "draw_differences"]


MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
MOST_CODES = 40  # codes in one figure; with more, the ends of the ranking are shown


def draw_differences(results: Results) -> Drawing | None:
    """Draw the R2 difference of the first pair for every code, with its interval."""
    if not results.pairs or not results.pairs[0].num_codes:
        return None
    pair, names = results.pairs[0], [code.code for code in results.counted_codes]
    difference, low, high, p = (
        np.array(values, dtype=np.float64)
        for values in (
            pair.difference,
            pair.difference_low,
            pair.difference_high,
            pair.difference_p_adjusted,
        )
    )
    order = np.argsort(difference)
    if len(order) > MOST_CODES:  # both ends: gains alone would flatter
        order = np.concatenate([order[: MOST_CODES // 2], order[-MOST_CODES // 2 :]])
    tint, first, second = colours(results), pair.first, pair.second
    figure = Figure(figsize=(8.5, 1.4 + 0.24 * len(order)), layout="constrained")
    axis = figure.subplots()
    for row, code in enumerate(order):
        clear = p[code] < LEVEL
        shade = tint[first if difference[code] > 0 else second] if clear else GREY
        axis.plot([low[code], high[code]], [row, row], color=shade, linewidth=1.4)
        axis.plot(
            difference[code], row, "o", color=shade, markerfacecolor=shade if clear else "white"
        )
    axis.axvline(0, color=INK, linewidth=0.8)
    label_of = code_labels(results)
    axis.set_yticks(range(len(order)), [label_of[names[code]] for code in order], fontsize=8)
    axis.set_ylim(-0.8, len(order) - 0.2)
    side: dict[str, Any] = {"fontsize": 9, "fontweight": "bold"}
    axis.set_title(f"{second} better", loc="left", color=tint[second], **side)
    axis.set_title(f"{first} better", loc="right", color=tint[first], **side)
    frame(axis, f"R2 of {first} minus R2 of {second}")
    shown = "" if len(order) == len(names) else f" Shown: both ends of {len(names)} codes."
    hollow = pair.num_codes - pair.clear_wins - pair.clear_losses
    told = (
        "All are hollow, since nothing is claimed with fewer than three runs of each."
        if pair.verdict == "undecided"
        else f"Coloured: clear at a false discovery rate of 5% ({pair.clear_wins} for {first}, "
        f"{pair.clear_losses} for {second}); hollow: not clear ({hollow})."
    )
    return Drawing(
        name="differences",
        title=f"{noun(names).capitalize()} that {first} restores better, and worse, than {second}",
        caption=f"One dot per code with its 95% interval over {pair.over}. {told}{shown}",
        figure=figure,
    )


def draw_codes(results: Results) -> Drawing | None:
    """Draw every code's R2 by every model, beside linear interpolation."""
    counted, methods, reference = results.counted_codes, results.models, results.reference
    if not counted:
        return None
    shown = sorted(counted, key=lambda code: -code.num_scored)[:MOST_CODES]
    shown.sort(key=lambda code: code.r2[reference])
    line, tint = "linear interpolation", colours(results)
    figure = Figure(figsize=(8.5, 1.6 + 0.24 * len(shown)), layout="constrained")
    axis, rows = figure.subplots(), np.arange(len(shown))
    best = [max(code.r2[m.name] for m in methods) for code in shown]
    guess = drawn([code.r2[line] for code in shown])
    axis.hlines(rows, np.minimum(guess, drawn(best)), np.maximum(guess, drawn(best)), color=RULE)
    axis.plot(guess, rows, "|", color=INK, label=line, markersize=9, markeredgewidth=1.6)
    for method, marker in zip(methods, MARKERS * len(methods), strict=False):
        r2 = drawn([code.r2[method.name] for code in shown])
        label = method.name
        axis.plot(r2, rows, marker, color=tint[label], label=label, markersize=5, alpha=0.85)
    axis.axvline(0, color=RULE, zorder=0)
    label_of = code_labels(results)
    axis.set_yticks(rows, [label_of[code.code] for code in shown], fontsize=8)
    axis.set_ylim(-0.8, len(shown) - 0.2)
    figure.legend(loc="outside upper center", ncols=len(methods) + 1, frameon=False, fontsize=9)
    frame(axis, f"R2 (values below {LOWEST_R2} drawn at {LOWEST_R2})")
    ahead = sum(code.r2[reference] > code.r2[line] for code in counted)
    most = f" The {MOST_CODES} with most values are shown." if len(counted) > MOST_CODES else ""
    return Drawing(
        name="codes",
        title="Every code, hardest at the bottom",
        caption=f"Training pays where coloured marks stand right of the black tick: {reference} "
        f"is ahead of linear interpolation on {ahead} of {len(counted)} codes.{most}",
        figure=figure,
    )


def draw_cv_against_r2(results: Results) -> Drawing | None:
    """Draw R2 against CV, a panel per model."""
    counted, methods = results.counted_codes, results.models[:4]
    if not counted:
        return None
    cv = np.array([finite(code.cv, np.nan) for code in counted])
    figure = Figure(figsize=(3.6 * len(methods) + 1, 3.9), layout="constrained")
    axes = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    tint, said, label_of = colours(results), [], code_labels(results, unit=False)
    for axis, method in zip(axes, methods, strict=True):
        r2 = drawn([code.r2[method.name] for code in counted])
        axis.plot(cv, r2, "o", color=tint[method.name], alpha=0.75, markersize=5)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        found = results.cv_against_r2[method.name]
        axis.set_title(
            f"{method.name}: r = {number(found.r, 2)}",
            color=tint[method.name],
            fontsize=10,
        )
        said.append(f"{number(found.r, 2)} for {method.name} ({p_value(found.p)})")
        frame(axis, "CV on train (log scale)")
        axis.margins(x=0.15, y=0.1)
        _label_extremes(axis, cv, r2, [label_of[code.code] for code in counted])
    axes[0].set_ylabel("R2")
    return Drawing(
        name="cv_against_r2",
        title="Are volatile codes harder to restore?",
        caption="One dot per code. Pearson's r of CV (not its logarithm) with R2: "
        + ", ".join(said)
        + ". The paper reports -0.49 over 100 labs of MIMIC-IV.",
        figure=figure,
    )


def _label_extremes(axis: Axes, x: Floats, y: Floats, names: Sequence[str]) -> None:
    """Name the dots at the extremes of both axes, leaving out what would overlap."""
    usable = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    by_x, by_y = usable[np.argsort(x[usable])], usable[np.argsort(y[usable])]
    axis.autoscale_view()
    taken: list[tuple[float, float, float]] = []
    for code in (by_x[0], by_x[-1], by_y[0], by_y[-1], *by_x[1:4], *by_x[-4:-1], *by_y[1:4]):
        left, height = axis.transAxes.inverted().transform(
            axis.transData.transform((x[code], y[code]))
        )
        right = left + 0.03 + 0.021 * len(names[code])  # width of a letter of 7 points here
        free = all(abs(height - y0) > 0.05 or left > x1 or right < x0 for x0, x1, y0 in taken)
        if free and right < 1.05:
            taken.append((left, right, height))
            axis.annotate(
                names[code],
                (x[code], y[code]),
                textcoords="offset points",
                xytext=(5, 3),
                fontsize=7,
                color=INK,
            )
