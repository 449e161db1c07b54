"""The settings of `plan`: a small tree of their own."""

from dataclasses import dataclass

__all__ = ["PlanConfig"]


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Say what a hospital costs on a cluster, each line with its arithmetic and its source."""

    root: str = ""
    """MEDS data set to plan for, whose footers are read; empty: `num_measurements` is given."""
    num_measurements: float = 0
    """Measurements of train to plan for; 0: those of `root`, estimated from its rows."""
    num_gpus: int = 8
    """GPUs, a rank each."""
    measured: str = ""
    """File that `jobs/benchmark.py --suite data --output FILE` wrote on a machine like those of the
    cluster; empty: rates that were measured elsewhere, which is said with each."""

    def __post_init__(self) -> None:
        if self.num_gpus < 1:
            raise ValueError(f"num_gpus={self.num_gpus} is not allowed: give at least 1")
        if not 0 <= self.num_measurements < float("inf"):
            raise ValueError(
                f"num_measurements={self.num_measurements} is not allowed: give 0 or more"
            )
