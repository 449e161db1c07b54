"""Figures of the columns: the cross-mask matrix, gains by volatility, and the paper's pairs."""

import numpy as np

from cvmae.evaluate.report.figure_style import (
    GREY,
    INK,
    RULE,
    Drawing,
    code_labels,
    colours,
    finite,
    frame,
)
from cvmae.evaluate.report.wording import noun, number, signed
from cvmae.evaluate.results import Results
from cvmae.evaluate.volatility import PublishedPair, Quartile
from cvmae.runtime.figures import Axes, Figure

__all__ = ["draw_columns", "draw_pairs", "draw_quartiles"]

TITLES = {"cv": "CV", "within_subject_cv": "Within-subject CV"}
FRAME_X, FRAME_Y = (-1, 1, 1, -1, -1), (-1, -1, 1, 1, -1)  # once around a cell
LEAST_RANGE = 0.02  # of R2 at the ends of the colours: smaller differences stay pale


def draw_columns(results: Results) -> Drawing | None:
    """Draw every model's R2 under every column; colours compare within a column."""
    columns, models = results.columns, [method.name for method in results.models]
    if len(columns) < 2:
        return None
    reference = results.reference
    r2 = np.array([[column.r2_pooled[name] for column in columns] for name in models])
    difference = r2 - np.array([column.r2_pooled[reference] for column in columns])
    widest = max(LEAST_RANGE, float(np.nanmax(np.abs(difference), initial=0.0)))
    figure = Figure(
        figsize=(2.2 + 1.5 * len(columns), 1.7 + 0.62 * len(models)), layout="constrained"
    )
    axis = figure.subplots()
    axis.imshow(difference, cmap="PuOr", vmin=-widest, vmax=widest, aspect="auto")
    axis.autoscale(False)  # frames would widen it
    for row, name in enumerate(models):
        for place, column in enumerate(columns):
            own = name in column.own_of
            text = number(r2[row, place])
            if name != reference:
                text += f"\n({signed(difference[row, place])})"
            pale = abs(finite(difference[row, place], 0.0)) < 0.6 * widest
            axis.text(
                place,
                row,
                text,
                ha="center",
                va="center",
                fontsize=9,
                color=INK if pale else "white",
                fontstyle="italic" if own else "normal",
            )
            if own:
                x, y = place + 0.46 * np.array(FRAME_X), row + 0.45 * np.array(FRAME_Y)
                axis.plot(x, y, "--", color=INK, linewidth=1)
    axis.set_yticks(range(len(models)), models, fontsize=9)
    names = [column.name.replace(" of ", " of\n", 1).replace(" (", "\n(") for column in columns]
    axis.set_xticks(range(len(columns)), names, fontsize=8.5)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    tint = colours(results)
    for label, name in zip(axis.get_yticklabels(), models, strict=True):
        label.set_color(tint[name])
    return Drawing(
        name="columns",
        title="Every model under every mask",
        caption=f"Pooled R2, and in brackets the difference to {reference} on the same hidden "
        f"values: orange is worse, purple better. Read down a column; columns hide different "
        "values. Framed: a model under the mask it was trained by, which other models were not "
        "prepared for (not a comparison of policies). Claims rest on the uniform column.",
        figure=figure,
    )


def draw_quartiles(results: Results) -> Drawing | None:
    """Draw each model's difference to the reference by quartile of volatility."""
    told = results.volatility
    if told is None or not told.quartiles or len(results.models) < 2:
        return None
    shown = [by for by in TITLES if any(q.by == by for q in told.quartiles)]
    figure = Figure(figsize=(4.6 * len(shown) + 1, 4.0), layout="constrained")
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    tint = colours(results)
    for axis, by in zip(axes, shown, strict=True):
        quartiles = [quartile for quartile in told.quartiles if quartile.by == by]
        _draw_quartiles(axis, quartiles, told.reference, tint)
        frame(axis, f"{TITLES[by]} of codes, by quartile")
    axes[0].set_ylabel(f"R2 minus {told.reference}'s", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return Drawing(
        name="quartiles",
        title="Who pays for a gain on volatile codes",
        caption="Pooled R2 over the values of each quarter of the codes, minus that of "
        f"{told.reference}; uniform mask. Lines are means of a policy's runs, small dots its runs, "
        f"grey dots those of {told.reference}: what lies among these is luck of training.",
        figure=figure,
    )


def _draw_quartiles(
    axis: Axes, quartiles: list[Quartile], reference: str, tint: dict[str, str]
) -> None:
    axis.axhline(0, color=INK, linewidth=0.8)
    places = np.arange(len(quartiles))
    for name in quartiles[0].r2_difference:
        own = name == reference
        for place, quartile in zip(places, quartiles, strict=True):
            runs = quartile.r2_difference_runs[name]
            if len(runs) > 1:
                shade = GREY if own else tint[name]
                axis.plot([place] * len(runs), runs, ".", color=shade, markersize=5, alpha=0.7)
        if not own:
            values = [quartile.r2_difference[name] for quartile in quartiles]
            axis.plot(places, values, "o-", color=tint[name], label=name, markersize=6)
    labels = [
        f"{'stable' if q.quartile == 1 else 'volatile' if q.quartile == 4 else ''}\n"
        f"{q.lowest:.2g} to {q.highest:.2g}\n{q.num_codes} codes"
        for q in quartiles
    ]
    axis.set_xticks(places, labels, fontsize=8)
    axis.margins(x=0.12)
    axis.grid(axis="y", color=RULE, linewidth=0.6)


def draw_pairs(results: Results) -> Drawing | None:
    """Draw the paper's figure 1: shares of codes won, and the ends of the first pair."""
    told = results.volatility
    pairs = [pair for pair in told.pairs if pair.num_codes] if told else []
    if not pairs:
        return None
    first = pairs[0]
    ends = [*first.top, *first.bottom[::-1]]
    figure = Figure(figsize=(9.5, max(3.0, 1.4 + 0.24 * len(ends))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.5])
    tint, label_of = colours(results), code_labels(results)
    _draw_rates(left, pairs, tint)
    for row, end in enumerate(reversed(ends)):
        shade = tint[first.first if end.difference > 0 else first.second]
        right.barh(row, end.difference, color=shade, height=0.7)
    right.set_yticks(range(len(ends)), [label_of[end.code] for end in reversed(ends)], fontsize=8)
    right.axvline(0, color=INK, linewidth=0.8)
    frame(right, f"R2 of {first.first} minus R2 of {first.second}")
    called = noun(code.code for code in results.codes)
    return Drawing(
        name="pairs",
        title=f"Figure 1 of the paper: {called} won, and the largest gains and losses",
        caption=f"Left: share of {called} that the first policy restores better (ties left out), "
        "beside what is published on MIMIC-IV. Right: up to ten largest gains and ten largest "
        f"losses of {first.first} against {first.second}. Descriptive: over {called}, on the "
        "uniform mask.",
        figure=figure,
    )


def _draw_rates(axis: Axes, pairs: list[PublishedPair], tint: dict[str, str]) -> None:
    for row, pair in enumerate(pairs):
        place = len(pairs) - 1 - row
        axis.barh(place, 100 * finite(pair.win_rate, 0.0), color=tint[pair.first], height=0.55)
        label = "published on MIMIC-IV" if row == 0 else None
        axis.plot(
            [100 * pair.published_win_rate] * 2,
            [place - 0.36, place + 0.36],
            color=INK,
            linewidth=2,
            label=label,
        )
    axis.axvline(50, color=GREY, linewidth=0.8, linestyle="--")
    axis.set_xlim(0, 100)
    axis.set_yticks(
        range(len(pairs)), [f"{p.first} against\n{p.second}" for p in reversed(pairs)], fontsize=9
    )
    axis.set_ylim(len(pairs) - 3.6, len(pairs) - 0.4)  # room for three, however many there are
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8)
    called = f"{pairs[0].num_codes} codes"
    frame(axis, f"% of {called} won")
