"""The verb `benchmark`: run a suite, print its table, write its rows."""

from collections.abc import Callable, Iterator, Sequence

import tyro

from benchmarks.chaos import run_chaos
from benchmarks.data import run_data
from benchmarks.plan import run_plan
from benchmarks.rows import Row, format_table, machine_rows, write_rows
from benchmarks.settings import BenchmarkConfig
from benchmarks.step import run_step
from cvmae.runtime.logs import setup_logging

__all__ = ["SUITES", "benchmark", "main"]

SUITES: dict[str, Callable[[BenchmarkConfig], Iterator[Row]]] = {
    "chaos": run_chaos,
    "data": run_data,
    "plan": run_plan,
    "step": run_step,
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
    return "\n\n".join([format_table(rows[num_facts:]), facts, *written])
