"""The verb `benchmark`: run a suite, print its table, write its rows."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module

import tyro

from benchmarks.rows import Row, format_table, machine_rows, write_rows
from benchmarks.settings import BenchmarkConfig
from cvmae.runtime.logs import setup_logging

__all__ = ["SUITES", "benchmark", "main"]


def _run(module: str, function: str, config: BenchmarkConfig) -> Iterator[Row]:
    """Import a suite when it is run: what others need may not be installed."""
    suite: Callable[[BenchmarkConfig], Iterator[Row]]
    suite = getattr(import_module(f"benchmarks.{module}"), function)
    yield from suite(config)


SUITES: dict[str, Callable[[BenchmarkConfig], Iterator[Row]]] = {
    name: partial(_run, name, f"run_{name}") for name in ("chaos", "data", "gpu", "plan", "step")
}


def main(argv: Sequence[str]) -> str:
    """Run a suite with command-line flags; user errors end the process with one line."""
    setup_logging()
    try:
        return benchmark(tyro.cli(BenchmarkConfig, args=list(argv), use_underscores=True))
    except (ValueError, OSError) as error:
        raise SystemExit(f"cvmae: {error}") from None


def benchmark(config: BenchmarkConfig) -> str:
    """Run a suite, write its rows to `output` as they come, and return their table.

    Raises:
        ValueError: A setting is not allowed.
        FileNotFoundError: A file that is named is not there.
        SystemExit: A part failed; the table is its message.
    """
    rows = machine_rows()
    num_facts = len(rows)
    for row in SUITES[config.suite](config):
        rows.append(row)
        if config.output:
            write_rows(config.output, rows)
    facts = ", ".join(
        f"{row.name} {row.value}" for row in rows[:num_facts] if row.value is not None
    )
    written = [f"written to {config.output}"] if config.output else []
    text = "\n\n".join([format_table(rows[num_facts:]), facts, *written])
    failed = [row.name for row in rows if row.failed]
    if failed:
        raise SystemExit(f"{text}\n\ncvmae: {', '.join(failed)}: see the notes")
    return text
