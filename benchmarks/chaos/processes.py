"""Every process that the suite starts ends with it, whatever becomes of those between."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from benchmarks.processes import process_tree

__all__ = ["is_alive", "kill", "leaving_no_process"]

ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of Linux
GIVE_UP_S = 30.0


@contextlib.contextmanager
def leaving_no_process() -> Iterator[None]:
    """Kill what is left of the processes that began within, at the end and at SIGTERM.

    Processes whose parent is killed become ours, so that none is lost sight of.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(ADOPT_ORPHANS, 1, 0, 0, 0)
    before = set(process_tree(os.getpid()))
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGTERM, _end) if in_main else None
    try:
        yield
    finally:
        deadline = time.monotonic() + GIVE_UP_S
        while (left := _ours(before)) and time.monotonic() < deadline:
            for pid in left:
                kill(pid)
            _reap(left)
            time.sleep(0.05)
        libc.prctl(ADOPT_ORPHANS, 0, 0, 0, 0)
        if in_main:
            signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def kill(pid: int) -> bool:
    """Kill a process that descends from this one outright; False if there is none such (any more).

    Numbers are used again: one from a note may belong to a stranger by now.
    """
    # A signal to one that waits for its parent raises nothing.
    if not is_alive(pid) or not _descends(pid):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return True


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and waits for its parent does not."""
    state, _ = _state_and_parent(pid)
    return state not in "ZX"


def _descends(pid: int) -> bool:
    while pid not in (os.getpid(), 0):
        _, pid = _state_and_parent(pid)
    return pid != 0


def _state_and_parent(pid: int) -> tuple[str, int]:
    """Return a process's state and the number of its parent, those of a dead one if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state, parent = file.read().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", 0
    return state, int(parent)


def _ours(before: set[int]) -> list[int]:
    return [pid for pid in process_tree(os.getpid()) if pid not in before]


def _reap(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _end(*_: Any) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)
