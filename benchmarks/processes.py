"""CPU time and memory of a tree of processes, from Linux's /proc; work in a fresh process."""

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

__all__ = ["Watcher", "in_fresh_process", "peak_memory", "process_tree", "tree_cpu_seconds"]

Result = TypeVar("Result")
PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a new interpreter, whose memory and Ray are its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def process_tree(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for pid, fields in _all_stats():
        children.setdefault(int(fields[1]), []).append(pid)
    found = [root]
    for pid in found:  # grows as it goes
        found += children.get(pid, [])
    return found


def tree_cpu_seconds(root: int) -> dict[int, float]:
    """Return the CPU seconds, user and system, of each process of a tree."""
    tree = set(process_tree(root))
    return {pid: (int(f[11]) + int(f[12])) / TICKS for pid, f in _all_stats() if pid in tree}


def peak_memory() -> int:
    """Return the most memory that this process ever held, in bytes.

    Not `getrusage`: its maximum is that of the parent where a process was forked off it.
    """
    return _status_bytes(os.getpid(), "VmHWM")


@dataclass
class Watcher:
    """Samples a tree of processes in a thread: CPU of those that end, peaks of memory.

    Memory is resident and not shared: what a process has for itself. The object store, which is
    shared, is not in it.
    """

    root: int
    interval_s: float
    peak_of: dict[int, int] = field(default_factory=dict)  # process -> most bytes
    peak_total: int = 0
    own_cpu_s: float = 0.0  # what watching itself has cost
    _name_of: dict[int, str] = field(default_factory=dict)
    _cpu_of: dict[int, float] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watcher")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of the tree so far, watching apart."""
        self._cpu_of |= tree_cpu_seconds(self.root)
        return sum(self._cpu_of.values()) - self.own_cpu_s

    def workers(self) -> set[int]:
        """Return the processes that were workers of Ray."""
        return {pid for pid, name in self._name_of.items() if name.startswith("ray::")}

    def _watch(self) -> None:
        while not self._stopped.wait(self.interval_s):
            begin = time.thread_time()
            self._cpu_of |= tree_cpu_seconds(self.root)
            memory = {pid: own_memory(pid) for pid in process_tree(self.root)}
            for pid, size in memory.items():
                self.peak_of[pid] = max(size, self.peak_of.get(pid, 0))
                if not self._name_of.get(pid, "").startswith("ray::"):  # a worker is renamed
                    self._name_of[pid] = _command_of(pid)
            self.peak_total = max(self.peak_total, sum(memory.values()))
            self.own_cpu_s += time.thread_time() - begin


def own_memory(pid: int) -> int:
    """Return the bytes of a process that are resident and not shared, 0 if it has ended."""
    return _status_bytes(pid, "RssAnon")


def _command_of(pid: int) -> str:
    """Return what a process calls itself, '' if it has ended."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""


def _all_stats() -> Iterator[tuple[int, list[str]]]:
    """Yield every process and the fields of its stat from the state on."""
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # ended meanwhile
                # The name, in parentheses, may hold spaces.
                text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                yield int(entry.name), text.rpartition(")")[2].split()


def _status_bytes(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
