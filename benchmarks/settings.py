"""The settings of the benchmark: a small tree of their own, parsed by tyro."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["BenchmarkConfig"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Measure cvmae against floors and ceilings taken in the same run, and print a table."""

    suite: Literal["data", "step", "gpu", "chaos", "inference"] = "data"
    """data: the way from files to batches; step: what a training step costs; gpu: all that only a
    GPU shows; chaos: runs that are killed again and again; inference: how often intervals hold."""
    output: str = ""
    """File to write the rows to as JSON, part after part; empty: only the table."""
    only: tuple[str, ...] = ()
    """Parts of the suite to run; empty: all."""
    root: str = ""
    """Folder to keep synthetic data in, for another run; empty: a temporary one."""
    num_rows: int = 15_000_000
    """Rows of the synthetic hospital, about; half of them are measurements."""
    rounds: int = 5
    """Rounds in which floors and ours take turns; medians are over them (gpu: 3 at most)."""
    budget_s: float = 480
    """gpu: seconds that all its parts may take; what is not done then is reported as failed."""

    def __post_init__(self) -> None:
        for name, least in (("num_rows", 10_000), ("rounds", 1), ("budget_s", 1)):
            value = getattr(self, name)
            if not value >= least:
                raise ValueError(f"{name}={value!r} is not allowed: give at least {least}")
