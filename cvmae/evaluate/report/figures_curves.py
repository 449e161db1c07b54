"""The figure of learning curves."""

from collections.abc import Mapping, Sequence

import numpy as np

from cvmae.evaluate.convergence import Curve
from cvmae.evaluate.report.figure_style import GREY, Drawing, colours, frame
from cvmae.evaluate.report.wording import epochs, number
from cvmae.evaluate.results import Results
from cvmae.runtime.figures import Axes, Figure, MaxNLocator

__all__ = ["draw_curves"]


def draw_curves(results: Results) -> Drawing | None:
    """Draw tuning error against epochs, and to where the reference came."""
    convergence, tint = results.convergence, colours(results)
    curves = {name: curve for name, curve in convergence.names.items() if curve.epoch}
    if not curves:
        return None
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    axis, ends = figure.subplots(), []
    for name, curve in curves.items():
        epoch, error = curve.epoch, curve.tuning_mse
        axis.plot(epoch, error, color=tint[name], linewidth=2, marker="o", markersize=3)
        if curve.num_runs > 1:
            axis.fill_between(
                epoch, curve.lowest, curve.highest, color=tint[name], alpha=0.15, linewidth=0
            )
        ends.append((float(error[-1]), float(epoch[-1]), name))
    best, reference = convergence.reference_best, convergence.reference
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
    cut = _cut_first_epoch(axis, list(curves.values()))
    _label_ends(axis, ends, tint)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("Squared error on tuning (standardised)")
    frame(axis, "Epoch")
    reached = [
        f"{name} {epochs(curve.epochs_to_reference_best, curve.num_reached, curve.num_runs)}"
        for name, curve in convergence.names.items()
    ]
    return Drawing(
        name="learning_curves",
        title="How fast each policy learns",
        caption=f"Tuning error on one fixed uniform mask, the same for all. Epochs to come within "
        f"1% of {reference}'s best: {', '.join(reached)}. Bands are the least and greatest of "
        f"several seeds, where there are several.{cut}",
        figure=figure,
    )


def _cut_first_epoch(axis: Axes, curves: Sequence[Curve]) -> str:
    """Leave a high first epoch out of the frame, since the race is decided below it."""
    later = [error for curve in curves for error in curve.highest[1:]]
    longest = max(len(curve.epoch) for curve in curves)
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
