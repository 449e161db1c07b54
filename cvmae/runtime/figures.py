"""What figures are drawn with, whatever the surroundings name as matplotlib's backend.

Figures are drawn into files, which needs none. Import matplotlib from here: it refuses to be
imported where MPLBACKEND names one that is not installed, as inside of Jupyter it often does.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

if "matplotlib" in sys.modules or "MPLBACKEND" not in os.environ:
    import matplotlib
else:
    _backend = os.environ.pop("MPLBACKEND")
    import matplotlib

    os.environ["MPLBACKEND"] = _backend
    with suppress(ValueError):  # what matplotlib does itself, and fails at
        matplotlib.rcParams["backend"] = _backend

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["Axes", "Figure", "MaxNLocator", "attempted", "matplotlib"]

logger = logging.getLogger("cvmae")


@contextmanager
def attempted(figure: str) -> Iterator[None]:
    """Let a figure that cannot be drawn cost a warning: what it shows is worth more."""
    try:
        yield
    except Exception as error:
        logger.warning("%s is not drawn (%s: %s)", figure, type(error).__name__, error)
