"""What all figures share: colours, frames, and what a drawing is.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; a policy has the same
colour everywhere, and baselines are grey.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cvmae.arrays import Floats
from cvmae.evaluate.results import Results
from cvmae.runtime.figures import Axes, Figure, as_label

__all__ = [
    "GREY",
    "INK",
    "LOWEST_R2",
    "RULE",
    "Drawing",
    "code_labels",
    "colours",
    "drawn",
    "finite",
    "frame",
    "name_colours",
]


POLICY_COLOURS = {"random": "#0072B2", "cv": "#D55E00", "variance": "#009E73"}
FURTHER_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#3D3D3D")
GREY, INK, RULE = "#8A8A8A", "#222222", "#DDDDDD"
LOWEST_R2 = -0.25  # drawn R2 ends here: a method may be arbitrarily bad


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure, its title and what to see in it."""

    name: str
    title: str
    caption: str
    figure: Figure


def code_labels(results: Results, *, unit: bool = True) -> dict[str, str]:
    """Return what each code is called in a figure."""
    return {code: as_label(label) for code, label in results.labels(unit=unit).items()}


def colours(results: Results) -> dict[str, str]:
    """Return a colour for every method."""
    models = [method.name for method in results.methods if method.kind != "baseline"]
    tasks = results.downstream.tasks if results.downstream else ()
    rows = [row for task in tasks for row in task.probes]
    models += [row.method for row in rows if row.kind in ("model", "fine-tuned")]
    return {method.name: GREY for method in results.methods} | name_colours(models)


def name_colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name; the palette begins again where there are many."""
    chosen, further = {}, itertools.cycle(FURTHER_COLOURS)
    for name in dict.fromkeys(names):
        chosen[name] = POLICY_COLOURS[name] if name in POLICY_COLOURS else next(further)
    return chosen


def frame(axis: Axes, label: str) -> None:
    """Label the horizontal axis and leave out what holds no data."""
    axis.set_xlabel(label, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8, length=3)


def finite(value: float | None, otherwise: float) -> float:
    """Return the value, or another one where it is None or not finite."""
    return float(value) if value is not None and np.isfinite(value) else otherwise


def drawn(values: Sequence[float | None]) -> Floats:
    """Return R2 as it is drawn: no lower than `LOWEST_R2`, NaN where there is none."""
    return np.maximum([finite(value, np.nan) for value in values], LOWEST_R2)
