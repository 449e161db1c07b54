"""Progress lines of this process, and of the libraries under it, on standard error."""

import logging
import sys

__all__ = ["setup_logging"]

logger = logging.getLogger("cvmae")


def setup_logging() -> None:
    """Let this process's progress lines reach standard error."""
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    # Ray Train lets the root logger of a worker report every result, between which ours drown.
    logging.getLogger().setLevel(logging.WARNING)
