"""Figures of a patient's history: errors with more of it, and with it corrupted (Figs. 5, 2)."""

from collections.abc import Mapping, Sequence
from typing import Any

from cvmae.evaluate.context import SHOWN, Bin, Slope
from cvmae.evaluate.contrasts import Contrast
from cvmae.evaluate.report.figure_style import GREY, INK, RULE, Drawing, code_labels, colours, frame
from cvmae.evaluate.report.wording import count, signed, spread
from cvmae.evaluate.results import Results
from cvmae.evaluate.small_cells import SMALLEST_CELL
from cvmae.runtime.figures import Axes, Figure

__all__ = ["draw_context", "draw_perturbation", "draw_truncated"]

LINES = {"last value": ":", "linear interpolation": "--"}
MOST_CODES = 20


def draw_context(results: Results) -> Drawing | None:
    """Draw errors against prior values of the code and against the sequence's length."""
    context = results.context
    if context is None:
        return None
    figure = Figure(figsize=(9.5, 3.9), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    tint = colours(results)
    _errors(axes[0], context.by_history, tint, "earlier visible values of the same code")
    _errors(axes[1], context.by_length, tint, "measurements of the sequence")
    axes[0].set_ylabel("mean absolute error, SD", fontsize=9)
    _legend(figure, axes[0])
    return Drawing(
        name="context",
        title="Errors with more of a patient's history (the paper's Fig. 5)",
        caption=f"{count(context.num_targets)} hidden values of {count(context.num_subjects)} "
        "subjects, the same for all. As observed: bins hold different codes and patients, and more "
        f"is measured of the sicker; bins of fewer than {SMALLEST_CELL} subjects have no mark."
        f"{_said(context.slopes)} A slope below 0 would be a lead that "
        "grows with history.",
        figure=figure,
    )


def draw_truncated(results: Results) -> Drawing | None:
    """Draw errors of the same targets with the last k values of their code."""
    truncated = results.context.truncated if results.context else None
    if truncated is None:
        return None
    figure = Figure(figsize=(9.5, 3.9), layout="constrained")
    axes = figure.subplots(1, 2)
    tint, reference = colours(results), results.reference
    label = "last values of the same code that are left"
    _errors(axes[0], truncated.by_kept, tint, label)
    axes[0].set_ylabel("mean absolute error, SD", fontsize=9)
    for number, name in enumerate(truncated.by_kept[0].gap):
        gaps = [found.gap[name] for found in truncated.by_kept]
        places = [place + 0.06 * number for place in range(len(gaps))]
        axes[1].plot(places, [gap.value for gap in gaps], "o-", color=tint[name])
        for place, gap in zip(places, gaps, strict=True):
            axes[1].plot([place, place], gap.interval, color=tint[name], linewidth=1.2)
    axes[1].axhline(0, color=INK, linewidth=0.8)
    axes[1].set_xticks(range(len(truncated.by_kept)), [found.label for found in truncated.by_kept])
    axes[1].set_ylabel(f"error minus {reference}'s, SD", fontsize=9)
    frame(axes[1], label)
    _legend(figure, axes[0])
    return Drawing(
        name="truncated",
        title="The same values, with their history cut short",
        caption=f"{count(truncated.num_targets)} values of {count(truncated.num_subjects)} "
        f"subjects with {truncated.min_priors} earlier values or more, each restored alone, from "
        "its whole sequence but the code's own history, of which the last values are left."
        f"{_said(truncated.slopes)} Linear interpolation is the last value here: nothing later of "
        "the code is there.",
        figure=figure,
    )


def draw_perturbation(results: Results) -> Drawing | None:
    """Draw how errors change when histories are corrupted: over all codes, and code by code."""
    found = results.perturbation
    if found is None:
        return None
    tint, codes = colours(results), found.codes[:MOST_CODES]
    names = [method.name for method in found.methods if method.kind == "model"]
    height = max(3.2, 1.2 + 0.22 * len(codes))
    figure = Figure(figsize=(10, height), layout="constrained")
    axes = figure.subplots(1, 3 if codes else 2, squeeze=False)[0]
    rows = list(reversed(found.methods))
    for axis, kind in zip(axes, ("change", "percent"), strict=False):
        for row, method in enumerate(rows):
            _whisker(axis, row + 0.12, getattr(method, kind), tint.get(method.name, GREY))
            control = getattr(method, f"control_{kind}")
            _whisker(axis, row - 0.18, control, tint.get(method.name, GREY), hollow=True)
        axis.axvline(0, color=RULE, zorder=0)
        axis.set_yticks(range(len(rows)), [method.name for method in rows], fontsize=8)
        frame(axis, "change of the error, SD" if kind == "change" else "change in percent")
    axes[1].tick_params(labelleft=False)
    if codes:
        label_of = code_labels(results)
        for row, code in enumerate(reversed(codes)):
            for name in names:
                axes[2].plot(code.change[name].value, row, "o", color=tint[name], markersize=5)
        labels = [label_of[code.code] for code in reversed(codes)]
        axes[2].set_yticks(range(len(codes)), labels, fontsize=8)
        axes[2].axvline(0, color=RULE, zorder=0)
        frame(axes[2], "change by code, SD")
    return Drawing(
        name="perturbation",
        title="Errors when the history is corrupted (the paper's Fig. 2)",
        caption=f"{count(found.num_targets)} values of {count(found.num_subjects)} subjects, each "
        f"restored alone; noise of {found.noise:g} standard deviations of its earlier values on "
        "the code's own history (filled) or on another code's (hollow), the same for all. "
        "Whiskers: 95% intervals. This shows what an error is owed to, not who restores better: "
        "degradation is not benefit.",
        figure=figure,
    )


def _errors(axis: Axes, bins: Sequence[Bin], tint: Mapping[str, str], label: str) -> None:
    for name in bins[0].error:
        style: dict[str, Any] = {"color": tint.get(name, GREY), "linestyle": LINES.get(name, "-")}
        marker = "" if name in SHOWN else "o"
        axis.plot(
            range(len(bins)), [b.error[name] for b in bins], label=name, marker=marker, **style
        )
    axis.set_xticks(range(len(bins)), [b.label for b in bins], fontsize=8)
    frame(axis, label)


def _whisker(axis: Axes, row: float, found: Contrast, colour: str, *, hollow: bool = False) -> None:
    axis.plot(found.interval, [row, row], color=colour, linewidth=1.3)
    fill = "white" if hollow else colour
    axis.plot(found.value, row, "o", color=colour, markerfacecolor=fill, markersize=5)


def _legend(figure: Figure, axis: Axes) -> None:
    handles, names = axis.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper center", ncols=len(names), frameon=False, fontsize=9
    )


def _said(slopes: Sequence[Slope]) -> str:
    """Return the slopes as a sentence."""
    if not slopes:
        return ""
    told = [
        f"{s.first} {signed(s.history.value)} ({spread(s.history.interval)}"
        f"{'; undecided' if s.history.verdict == 'undecided' else ''})"
        for s in slopes
    ]
    return f" Slope of the error minus {slopes[0].second}'s on log(1 + values): {', '.join(told)}."
