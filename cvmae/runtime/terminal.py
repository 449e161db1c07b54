"""A table at the foot of a terminal that is drawn anew in place, with other lines above it."""

import contextlib
import io
import logging
import shutil
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

__all__ = ["Foot", "foot_of_terminal"]


class Foot(io.TextIOBase):
    """Stands for the terminal: what is written to it appears above the table."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal, self._lock = terminal, threading.RLock()
        self._shown: list[str] = []
        self._begun = ""  # a line that has no end yet

    @property
    def size(self) -> tuple[int, int]:
        """Return the terminal's columns and lines."""
        return shutil.get_terminal_size()

    def show(self, table: str) -> None:
        """Draw a table in the place of the one before."""
        with self._lock:
            self._draw("", [line[: self.size[0] - 1] for line in table.splitlines()])

    def write(self, text: str) -> int:
        """Write whole lines above the table; a part of a line waits for its end."""
        with self._lock:
            whole, end, self._begun = (self._begun + text).rpartition("\n")
            if end:
                self._draw(f"{whole}\n", self._shown)
        return len(text)

    def end(self) -> None:
        """Write what has no end of a line yet."""
        if self._begun:
            self.write("\n")

    def flush(self) -> None:
        """Let the terminal show what it has."""
        self._terminal.flush()

    def isatty(self) -> bool:
        """Return False: who draws in place would tear the table."""
        return False

    def _draw(self, above: str, table: list[str]) -> None:
        up = f"\x1b[{len(self._shown)}A\r\x1b[J" if self._shown else ""
        self._terminal.write(up + above + "".join(f"{line}\n" for line in table))
        self._terminal.flush()
        self._shown = table


@contextlib.contextmanager
def foot_of_terminal() -> Iterator[Foot | None]:
    """Yield the foot of this process's terminal, None where standard error is none.

    Meanwhile all that this process prints and logs goes through it.
    """
    terminal = sys.stderr
    if not terminal.isatty():
        yield None
        return
    foot = Foot(terminal)
    handlers = [
        handler
        for handler in logging.getLogger("cvmae").handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is terminal
    ]
    with contextlib.ExitStack() as shared:
        shared.enter_context(contextlib.redirect_stderr(foot))
        if sys.stdout.isatty():
            shared.enter_context(contextlib.redirect_stdout(foot))
        for handler in handlers:
            handler.setStream(foot)
            shared.callback(handler.setStream, terminal)
        shared.callback(foot.end)
        yield foot
