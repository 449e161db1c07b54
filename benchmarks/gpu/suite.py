"""The suite `gpu`: all that only a GPU can show, in one command of minutes that needs no Ray.

Each part is a process of its own: one that fails, hangs or breaks its GPU's context costs its own
figures and no others, and the whole keeps to its time.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from benchmarks.clock import progress
from benchmarks.gpu.sizes import NO_GPU, Sizes, gpu_row
from benchmarks.gpu.steps import absent_step_rows
from benchmarks.rows import Row, write_rows
from benchmarks.settings import BenchmarkConfig
from cvmae.runtime.logs import setup_logging

__all__ = ["PARTS", "run_gpu", "run_processes"]

# Part -> module and function of it: (device, sizes, folder for data) -> figures; what matters most
# comes first, since the last may find no time left.
PARTS = {
    "captured": ("agreement", "captured_rows"),
    "parity": ("agreement", "parity_rows"),
    "golden": ("agreement", "golden_rows"),
    "group": ("agreement", "group_rows"),
    "speed": ("steps", "speed_rows"),
    "capture": ("steps", "capture_rows"),
    "attention": ("kernels", "attention_rows"),
    "fused": ("kernels", "fused_rows"),
    "input": ("steps", "input_rows"),
    "tests": ("marked", "marked_test_rows"),
    "replaced": ("kernels", "replaced_rows"),
    "deepspeed": ("agreement", "deepspeed_rows"),
}

MOST = 1 / 3  # of the time that a part may take


def run_gpu(config: BenchmarkConfig) -> Iterator[Row]:
    """Yield the figures of the parts asked for, part after part; without a GPU, rows without.

    Raises:
        ValueError: There is no part of that name.
    """
    unknown = [name for name in config.only if name not in PARTS]
    if unknown:
        raise ValueError(
            f"only={unknown[0]!r} is no part of the suite gpu: give some of {', '.join(PARTS)}"
        )
    parts = config.only or tuple(PARTS)
    if not torch.cuda.is_available():
        yield from absent_step_rows()
        for name in parts:
            yield gpu_row(f"{name}: the whole part", None, note=NO_GPU)
        return
    sizes = Sizes()
    sizes = replace(
        sizes,
        rounds=min(config.rounds, sizes.rounds),
        input_rows=min(config.num_rows, sizes.input_rows),
    )
    yield from run_processes(parts, torch.device("cuda", 0), sizes, config.budget_s)


def run_processes(
    parts: Sequence[str], device: torch.device, sizes: Sizes, budget_s: float
) -> Iterator[Row]:
    """Yield the figures of parts, each in a process; those of a failed part tell of it."""
    end = time.monotonic() + budget_s
    with tempfile.TemporaryDirectory(prefix="cvmae-") as folder:
        for name in parts:
            begin = time.monotonic()
            progress("gpu: part %s, %.0f s left", name, end - begin)
            # So that one that hangs leaves time to the others.
            limit_s = min(end - begin, budget_s * MOST)
            yield from _run_process(name, device, sizes, Path(folder), limit_s)
            took = time.monotonic() - begin
            yield gpu_row(f"{name}: the whole part", took, "s", note="with its start")


def _run_process(
    name: str, device: torch.device, sizes: Sizes, folder: Path, limit_s: float
) -> Iterator[Row]:
    """Yield what a part has written when it ends, or its time does."""
    if limit_s <= 0:
        yield failed_row(name, "not begun: no time is left of budget_s")
        return
    path = folder / f"{name}.json"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_process, args=(name, device, sizes, folder, path))
    process.start()
    try:
        process.join(limit_s)
        is_late = process.is_alive()
    finally:  # an interrupted suite waits for nothing; a part that broke may leave some
        _kill(process)
    if is_late:
        why = f"stopped after {limit_s:.0f} s: give more budget_s (a third is a part's at most)"
    else:
        why = f"its process ended with {process.exitcode}" if process.exitcode else ""
    rows = _read(path) if path.is_file() else []
    yield from rows
    if why and not any(row.failed for row in rows):
        yield failed_row(name, why)


def _kill(process: BaseProcess) -> None:
    """End a process and those that it has started, which would keep the GPU busy."""
    with contextlib.suppress(ProcessLookupError):  # it may not have a group yet
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()
    process.join()


def _read(path: Path) -> list[Row]:
    found = json.loads(path.read_text(encoding="utf-8"))
    names = {field.name for field in fields(Row)}
    kept = [{name: value for name, value in row.items() if name in names} for row in found]
    return [Row(**row | {"sense": row["sense"] or "<="}) for row in kept]


def _process(name: str, device: torch.device, sizes: Sizes, folder: Path, path: Path) -> None:
    os.setpgrp()
    setup_logging()
    run_part(name, device, sizes, folder, path)
    # Threads of DeepSpeed's and gloo's, ended with the interpreter, now and then abort the process.
    os._exit(0)


def run_part(name: str, device: torch.device, sizes: Sizes, folder: Path, path: Path) -> None:
    """Run a part here and write its figures as they come; the last row tells of an error."""
    rows: list[Row] = []
    try:
        for row in _part(name)(device, sizes, folder):
            rows.append(row)
            write_rows(path, rows)
    except Exception:  # whatever it is: other parts go on
        rows.append(failed_row(name, traceback.format_exc()[-4000:]))
        write_rows(path, rows)


def failed_row(name: str, why: str) -> Row:
    """Return the row of a part that did not come to its end."""
    return Row(suite="gpu", name=f"{name}: failed", value=None, note=why, failed=True)


def _part(name: str) -> Callable[[torch.device, Sizes, Path], Iterator[Row]]:
    module, function = PARTS[name]
    part: Callable[[torch.device, Sizes, Path], Iterator[Row]]
    part = getattr(import_module(f"benchmarks.gpu.{module}"), function)
    return part
