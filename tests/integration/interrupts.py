"""Ctrl-C to this process at a moment of a run."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ctrl_c_once_there_is(folder: Path, pattern: str) -> Iterator[None]:
    """Send SIGINT when a path of the pattern appears; none is sent after the block has ended."""
    ended = threading.Event()

    def interrupt() -> None:
        while not ended.wait(0.05):
            if list(folder.glob(pattern)):
                os.kill(os.getpid(), signal.SIGINT)
                return

    hand = threading.Thread(target=interrupt)
    hand.start()
    try:
        yield
    finally:
        ended.set()
        hand.join()
