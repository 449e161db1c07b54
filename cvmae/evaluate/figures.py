"""Figures of an evaluation, each with the sentence that says what to see in it.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; a policy has the same
colour everywhere, baselines are grey, and lines are labelled where they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvmae.evaluate.wording import noun, number, p_value, short_code, signed

__all__ = ["Drawing", "draw", "write_figures"]

Results = Mapping[str, Any]
Floats = npt.NDArray[np.float64]

POLICY_COLOURS = {"random": "#0072B2", "cv": "#D55E00", "variance": "#009E73"}
FURTHER_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#3D3D3D")
GREY, INK, RULE = "#8A8A8A", "#222222", "#DDDDDD"
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
LOWEST_R2 = -0.25  # drawn R2 ends here: a method may be arbitrarily bad
MOST_CODES = 40  # codes in one figure; with more, the ends of the ranking are shown
PIXELS_PER_INCH = 160


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure, its title and what to see in it."""

    name: str
    title: str
    caption: str
    figure: Figure


def write_figures(results: Results, folder: str | Path) -> list[tuple[Drawing, Path]]:
    """Draw every figure that the results allow and write each as PNG."""
    written = []
    for drawing in draw(results):
        path = Path(folder) / f"{drawing.name}.png"
        drawing.figure.savefig(path, dpi=PIXELS_PER_INCH, facecolor="white")
        written.append((drawing, path))
    return written


def draw(results: Results) -> list[Drawing]:
    """Return the figures that the results allow: no pair, no curve or no code, no figure."""
    drawings = [_scores(results)]
    if results["pairs"] and results["pairs"][0]["num_codes"]:
        drawings.append(_differences(results, results["pairs"][0]))
    if any(code["counted"] for code in results["codes"]):
        drawings += [_codes(results), _cv_against_r2(results)]
    if any(curve["epoch"] for curve in results["convergence"]["names"].values()):
        drawings.append(_curves(results))
    return drawings


def colours(results: Results) -> dict[str, str]:
    """Return a colour for every method."""
    chosen, further = {}, list(FURTHER_COLOURS)
    for method in results["methods"]:
        if method["kind"] == "baseline":
            chosen[method["name"]] = GREY
        elif method["name"] in POLICY_COLOURS:
            chosen[method["name"]] = POLICY_COLOURS[method["name"]]
        else:
            chosen[method["name"]] = further.pop(0) if further else INK
    return chosen


def _scores(results: Results) -> Drawing:
    methods = [m for m in results["methods"] if m["kind"] != "best weights"]
    methods.sort(key=lambda m: _finite(m["r2_pooled"], -np.inf))
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
        _frame(axis, title + ": R2")
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
    ranked = sorted(others, key=lambda pair: _finite(pair["pooled_difference"], -np.inf))
    for row, pair in enumerate(ranked):
        tint = colour[pair["first"]]
        for offset, kind, marker in ((0.16, "pooled", "o"), (-0.16, "macro", "s")):
            low, high = (_finite(bound, np.nan) for bound in pair[f"{kind}_interval"])
            value = _finite(pair[f"{kind}_difference"], np.nan)
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
    _frame(axis, f"R2 minus {reference}'s")


def _differences(results: Results, pair: Results) -> Drawing:
    names = [code["code"] for code in results["codes"] if code["counted"]]
    difference, low, high = (
        np.array(pair[key], dtype=np.float64)
        for key in ("difference", "difference_low", "difference_high")
    )
    order = np.argsort(difference)
    if len(order) > MOST_CODES:  # both ends: gains alone would flatter
        order = np.concatenate([order[: MOST_CODES // 2], order[-MOST_CODES // 2 :]])
    tint, first, second = colours(results), pair["first"], pair["second"]
    figure = Figure(figsize=(8.5, 1.4 + 0.24 * len(order)), layout="constrained")
    axis = figure.subplots()
    for row, code in enumerate(order):
        clear = low[code] > 0 or high[code] < 0
        shade = tint[first if difference[code] > 0 else second] if clear else GREY
        axis.plot([low[code], high[code]], [row, row], color=shade, linewidth=1.4)
        axis.plot(
            difference[code], row, "o", color=shade, markerfacecolor=shade if clear else "white"
        )
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.set_yticks(range(len(order)), [short_code(names[code]) for code in order], fontsize=8)
    axis.set_ylim(-0.8, len(order) - 0.2)
    side: dict[str, Any] = {"fontsize": 9, "fontweight": "bold"}
    axis.set_title(f"{second} better", loc="left", color=tint[second], **side)
    axis.set_title(f"{first} better", loc="right", color=tint[first], **side)
    _frame(axis, f"R2 of {first} minus R2 of {second}")
    shown = "" if len(order) == len(names) else f" Shown: both ends of {len(names)} codes."
    undecided = pair["num_codes"] - pair["clear_wins"] - pair["clear_losses"]
    return Drawing(
        name="differences",
        title=f"{noun(names).capitalize()} that {first} restores better, and worse, than {second}",
        caption=f"One dot per code with its 95% interval over resampled subjects. Coloured: the "
        f"interval excludes zero ({pair['clear_wins']} for {first}, {pair['clear_losses']} for "
        f"{second}); hollow: undecided ({undecided}).{shown}",
        figure=figure,
    )


def _codes(results: Results) -> Drawing:
    counted = [code for code in results["codes"] if code["counted"]]
    shown = sorted(counted, key=lambda code: -code["num_scored"])[:MOST_CODES]
    reference = results["reference"]
    shown.sort(key=lambda code: code["r2"][reference])
    methods = [m for m in results["methods"] if m["kind"] == "model"]
    line, tint = "linear interpolation", colours(results)
    figure = Figure(figsize=(8.5, 1.6 + 0.24 * len(shown)), layout="constrained")
    axis, rows = figure.subplots(), np.arange(len(shown))
    best = [max(code["r2"][m["name"]] for m in methods) for code in shown]
    guess = _drawn([code["r2"][line] for code in shown])
    axis.hlines(rows, np.minimum(guess, _drawn(best)), np.maximum(guess, _drawn(best)), color=RULE)
    axis.plot(guess, rows, "|", color=INK, label=line, markersize=9, markeredgewidth=1.6)
    for method, marker in zip(methods, MARKERS * len(methods), strict=False):
        r2 = _drawn([code["r2"][method["name"]] for code in shown])
        label = method["name"]
        axis.plot(r2, rows, marker, color=tint[label], label=label, markersize=5, alpha=0.85)
    axis.axvline(0, color=RULE, zorder=0)
    axis.set_yticks(rows, [short_code(code["code"]) for code in shown], fontsize=8)
    axis.set_ylim(-0.8, len(shown) - 0.2)
    figure.legend(loc="outside upper center", ncols=len(methods) + 1, frameon=False, fontsize=9)
    _frame(axis, f"R2 (values below {LOWEST_R2} drawn at {LOWEST_R2})")
    ahead = sum(code["r2"][reference] > code["r2"][line] for code in counted)
    most = f" The {MOST_CODES} with most values are shown." if len(counted) > MOST_CODES else ""
    return Drawing(
        name="codes",
        title="Every code, hardest at the bottom",
        caption=f"Training pays where coloured marks stand right of the black tick: {reference} "
        f"is ahead of linear interpolation on {ahead} of {len(counted)} codes.{most}",
        figure=figure,
    )


def _cv_against_r2(results: Results) -> Drawing:
    counted = [code for code in results["codes"] if code["counted"]]
    methods = [m for m in results["methods"] if m["kind"] == "model"][:4]
    cv = np.array([_finite(code["cv"], np.nan) for code in counted])
    figure = Figure(figsize=(3.6 * len(methods) + 1, 3.9), layout="constrained")
    axes = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    tint, said = colours(results), []
    for axis, method in zip(axes, methods, strict=True):
        r2 = _drawn([code["r2"][method["name"]] for code in counted])
        axis.plot(cv, r2, "o", color=tint[method["name"]], alpha=0.75, markersize=5)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        found = results["cv_against_r2"][method["name"]]
        axis.set_title(
            f"{method['name']}: r = {number(found['r'], 2)}",
            color=tint[method["name"]],
            fontsize=10,
        )
        said.append(f"{number(found['r'], 2)} for {method['name']} ({p_value(found['p'])})")
        _frame(axis, "CV on train (log scale)")
        axis.margins(x=0.15, y=0.1)
        _label_extremes(axis, cv, r2, [short_code(c["code"], unit=False) for c in counted])
    axes[0].set_ylabel("R2")
    return Drawing(
        name="cv_against_r2",
        title="Are volatile codes harder to restore?",
        caption="One dot per code. Pearson's r of CV (not its logarithm) with R2: "
        + ", ".join(said)
        + ". The paper reports -0.49 over 100 labs of MIMIC-IV.",
        figure=figure,
    )


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
    axis.set_ylabel("Squared error on tuning (standardised)")
    _frame(axis, "Epoch")
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
    middle, (low, high) = _finite(value, np.nan), (_finite(b, np.nan) for b in bounds)
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


def _frame(axis: Axes, label: str) -> None:
    axis.set_xlabel(label, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8, length=3)


def _label_extremes(axis: Axes, x: Floats, y: Floats, names: Sequence[str]) -> None:
    """Name the dots at the extremes of both axes, leaving out what would overlap."""
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    by_x, by_y = finite[np.argsort(x[finite])], finite[np.argsort(y[finite])]
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


def _finite(value: float | None, otherwise: float) -> float:
    return float(value) if value is not None and np.isfinite(value) else otherwise


def _drawn(values: Sequence[float | None]) -> Floats:
    return np.maximum([_finite(value, np.nan) for value in values], LOWEST_R2)
