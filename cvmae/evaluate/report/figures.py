"""The figures of a report, in its order, each with the sentence that says what to see in it."""

from collections.abc import Callable
from pathlib import Path

from cvmae.evaluate.report.figure_style import Drawing
from cvmae.evaluate.report.figures_codes import (
    draw_codes,
    draw_cv_against_r2,
    draw_differences,
)
from cvmae.evaluate.report.figures_context import draw_context, draw_perturbation, draw_truncated
from cvmae.evaluate.report.figures_curves import draw_curves
from cvmae.evaluate.report.figures_downstream import draw_calibration, draw_probes
from cvmae.evaluate.report.figures_scores import draw_scores
from cvmae.evaluate.results import Results
from cvmae.runtime.figures import attempted

__all__ = ["FIGURES", "draw", "write_figures"]

PIXELS_PER_INCH = 160

# Each returns None where the results do not allow it.
FIGURES: tuple[Callable[[Results], Drawing | None], ...] = (
    draw_scores,
    draw_differences,
    draw_codes,
    draw_cv_against_r2,
    draw_curves,
    draw_context,
    draw_truncated,
    draw_perturbation,
    draw_probes,
    draw_calibration,
)


def draw(results: Results) -> list[Drawing]:
    """Return the figures that the results allow: no pair, no curve or no code, no figure."""
    drawings = []
    for figure in FIGURES:
        with attempted(f"a figure of the report ({figure.__name__})"):
            if (drawing := figure(results)) is not None:
                drawings.append(drawing)
    return drawings


def write_figures(results: Results, folder: str | Path) -> list[tuple[Drawing, Path]]:
    """Draw every figure that the results allow and write each as PNG that can be."""
    written = []
    for drawing in draw(results):
        path = Path(folder) / f"{drawing.name}.png"
        with attempted(f"figure {drawing.name}"):
            drawing.figure.savefig(path, dpi=PIXELS_PER_INCH, facecolor="white")
            written.append((drawing, path))
    return written
