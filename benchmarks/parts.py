"""A suite made of parts: those asked for are run one after another, in a folder for their data."""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from benchmarks.clock import progress
from benchmarks.rows import Row
from benchmarks.settings import BenchmarkConfig
from cvmae.config import resolved_path

__all__ = ["run_parts"]


def run_parts(
    config: BenchmarkConfig,
    suite: str,
    parts: Mapping[str, Callable[[Path], Iterator[Row]]],
    needs_proc: Collection[str],
) -> Iterator[Row]:
    """Yield the figures of the parts asked for, as they come.

    Args:
        config: Which parts, and the folder, a temporary one where it names none.
        suite: What the parts are of.
        parts: Folder for data -> figures, by name.
        needs_proc: Parts that measure processes through Linux's /proc.

    Raises:
        ValueError: There is no part of that name.
    """
    unknown = [name for name in config.only if name not in parts]
    if unknown:
        raise ValueError(
            f"only={unknown[0]!r} is no part of the suite {suite}: give some of {', '.join(parts)}"
        )
    with contextlib.ExitStack() as stack:
        kept = resolved_path(config.root)
        folder = Path(kept or stack.enter_context(tempfile.TemporaryDirectory(prefix="cvmae-")))
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in parts.items():
            if config.only and name not in config.only:
                continue
            progress("part %s", name)
            if name in needs_proc and sys.platform != "linux":
                yield Row(suite=suite, name=name, value=None, note="needs Linux's /proc")
            else:
                yield from part(folder)
