"""The verb `benchmark`: run a suite, print its table, write its rows."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module

from benchmarks.rows import Row, format_table, machine_rows, write_rows
from benchmarks.settings import BenchmarkConfig
from cvmae.plan.lines import Line, Section
from cvmae.storage.output import absolute_output

__all__ = ["SUITES", "benchmark", "benchmark_asked"]


def _run(name: str, config: BenchmarkConfig) -> Iterator[Row]:
    """Import a suite when it is run: what others need may not be installed."""
    suite: Callable[[BenchmarkConfig], Iterator[Row]]
    suite = getattr(import_module(f"benchmarks.{name}.suite"), f"run_{name}")
    yield from suite(config)


SUITES: dict[str, Callable[[BenchmarkConfig], Iterator[Row]]] = {
    name: partial(_run, name) for name in ("chaos", "data", "gpu", "inference", "step")
}


def benchmark(config: BenchmarkConfig) -> str:
    """Run a suite, write its rows to `output` as they come, and return their table.

    Raises:
        ValueError: A setting is not allowed.
        FileNotFoundError: A file that is named is not there.
        SystemExit: A part failed; the table is its message.
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
    text = "\n\n".join([format_table(rows[num_facts:]), facts, *written])
    failed = [row.name for row in rows if row.failed]
    if failed:
        raise SystemExit(f"{text}\n\ncvmae: {', '.join(failed)}: see the notes")
    return text


def benchmark_asked(config: BenchmarkConfig) -> Iterator[Section]:
    """Yield what a suite would do, for a dry run."""
    output = absolute_output(config.output, "output") if config.output else ""
    lines = [
        Line(name="suite", value=config.suite, why=", ".join(config.only) or "all its parts"),
        Line(name="rows", value=config.num_rows, why="num_rows, of a synthetic hospital"),
        Line(name="rounds", value=config.rounds, why="rounds"),
        Line(name="data", value=config.root or "a temporary folder", why="root"),
        Line(name="rows of figures", value=output or "the terminal alone", why="output"),
    ]
    yield Section(title="what is measured", lines=lines)
