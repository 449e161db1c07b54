"""The verb `benchmark`: run a suite, print its table, write its rows."""

from collections.abc import Callable, Iterator

from benchmarks.chaos import run_chaos
from benchmarks.data import run_data
from benchmarks.plan import run_plan
from benchmarks.rows import Row, format_table, machine_rows, write_rows
from benchmarks.settings import BenchmarkConfig
from benchmarks.step import run_step
from cvmae.storage.output import absolute_output

__all__ = ["SUITES", "benchmark"]

SUITES: dict[str, Callable[[BenchmarkConfig], Iterator[Row]]] = {
    "chaos": run_chaos,
    "data": run_data,
    "plan": run_plan,
    "step": run_step,
}


def benchmark(config: BenchmarkConfig) -> str:
    """Run a suite, write its rows to `output` as they come, and return their table.

    Raises:
        ValueError: A setting is not allowed.
        FileNotFoundError: A file that is named is not there.
    """
    output = absolute_output(config.output, "output") if config.output else ""
    rows = machine_rows()
    num_facts = len(rows)
    if output:
        write_rows(output, rows)  # a place that cannot be written to shows before the work
    for row in SUITES[config.suite](config):
        rows.append(row)
        if output:
            write_rows(output, rows)
    facts = ", ".join(
        f"{row.name} {row.value}" for row in rows[:num_facts] if row.value is not None
    )
    written = [f"written to {output}"] if output else []
    return "\n\n".join([format_table(rows[num_facts:]), facts, *written])
