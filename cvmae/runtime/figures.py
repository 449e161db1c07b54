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

from cvmae.runtime.tables import printable

__all__ = ["Axes", "Figure", "MaxNLocator", "as_label", "attempted", "matplotlib"]

LONGEST_LABEL = 60

logger = logging.getLogger("cvmae")


def as_label(name: str) -> str:
    r"""Return a name of anybody's as a figure shows it: one short line, and no formula.

    Example:
        >>> print(as_label("$a$ of\nall"))
        \$a\$ of all
    """
    line = printable(" ".join(name.split()))
    cut = line if len(line) <= LONGEST_LABEL else f"{line[: LONGEST_LABEL - 3]}..."
    return cut.replace("$", r"\$")


@contextmanager
def attempted(figure: str) -> Iterator[None]:
    """Let a figure that cannot be drawn cost a warning: what it shows is worth more."""
    try:
        yield
    except Exception as error:
        logger.warning("%s is not drawn (%s: %s)", figure, type(error).__name__, error)
