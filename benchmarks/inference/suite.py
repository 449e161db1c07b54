"""The suite `inference`: coverage of intervals on real subjects, where CVMAE_REAL_DATA has them."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.hospitals import synthetic_hospital
from benchmarks.inference.coverage import Sizes, seed_rows, subject_rows
from benchmarks.inference.population import baseline_sums
from benchmarks.parts import run_parts
from benchmarks.rows import Row
from benchmarks.settings import BenchmarkConfig
from cvmae.evaluate.reconstruction import Sums

__all__ = ["PARTS", "run_inference"]

PARTS: dict[str, Callable[[Sums, Sizes], Iterator[Row]]] = {
    "subjects": subject_rows,
    "seeds": seed_rows,
}


def run_inference(config: BenchmarkConfig, sizes: Sizes | None = None) -> Iterator[Row]:
    """Yield the figures of the parts asked for, as they come.

    Args:
        config: Which parts.
        sizes: How much is simulated; None: as much as tells 0.95 from 0.91.

    Raises:
        ValueError: There is no part of that name.
    """
    real = Path(os.environ.get("CVMAE_REAL_DATA", "")) / "physionet2012"

    def run(part: Callable[[Sums, Sizes], Iterator[Row]], folder: Path) -> Iterator[Row]:
        root = str(real) if real.is_dir() else synthetic_hospital(folder, config.num_rows)
        population = baseline_sums(root, folder)  # statistics are fitted once
        yield Row(
            suite="inference",
            name=f"subjects of {Path(root).name}",
            value=population.num_subjects,
        )
        yield from part(population, sizes or Sizes())

    parts = {name: partial(run, part) for name, part in PARTS.items()}
    yield from run_parts(config, "inference", parts, ())
