"""Progress lines of this process, and of the libraries under it, on standard error."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cvmae.runtime.tables import printable

__all__ = ["PrintableFormatter", "setup_logging", "warnings_only"]

logger = logging.getLogger("cvmae")


class PrintableFormatter(logging.Formatter):
    """Shows what a terminal would obey, such as a sign within a code."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return printable(super().format(record))


def setup_logging(level: int = logging.INFO) -> None:
    """Let this process's progress lines reach standard error."""
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    # Ray Train lets the root logger of a worker report every result, between which ours drown.
    logging.getLogger().setLevel(logging.WARNING)


@contextmanager
def warnings_only() -> Iterator[None]:
    """Keep back progress lines while the block lasts: another line tells of it."""
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
