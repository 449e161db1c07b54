"""How long a run on CPUs will take, said before it begins where that is long."""

import logging
from collections.abc import Sequence

from cvmae.checkpoint import Progress
from cvmae.config import Config
from cvmae.plan import one_run as plan
from cvmae.runtime.start_ray import trains_on_gpu
from cvmae.runtime.tables import counted
from cvmae.statistics.fitted import FittedData

__all__ = ["cpu_hours", "epoch_amount", "warn_of_long_run"]

logger = logging.getLogger("cvmae")

LONG_H = 12.0


def warn_of_long_run(
    runs: Sequence[tuple[Config, Progress]], fitted: FittedData, num_at_once: int = 1
) -> None:
    """Warn of runs that CPUs will need more than half a day for, and say what is faster.

    Args:
        runs: Settings and progress of one run, or of the trials of a sweep.
        fitted: What all of them train on.
        num_at_once: Of them that train side by side, each on its own cores.
    """
    runs = [(config, progress) for config, progress in runs if not progress.is_finished(config)]
    if not runs or trains_on_gpu(runs[0][0].scaling):
        return
    shares = [1 - progress.epoch / config.train.epochs for config, progress in runs]
    each = [
        cpu_hours(config, fitted) * share for (config, _), share in zip(runs, shares, strict=True)
    ]
    hours = sum(each) / min(num_at_once, len(runs))
    if hours > LONG_H:
        config = runs[0][0]
        took = f"{hours / 24:.1f} days" if hours > 48 else f"{hours:.0f} hours"
        logger.warning(
            "%s about %s on CPUs (%s, model.width=%d, model.num_layers=%d): for "
            "CPUs there is --base small; a GPU is used with --scaling.use_gpu True, or in this "
            "process (--scaling.num_workers 0) where there is one",
            "this run takes" if len(runs) == 1 else f"these {len(runs)} trials take",
            took,
            counted(sum(config.train.epochs for config, _ in runs), "epoch"),
            config.model.width,
            config.model.num_layers,
        )


def cpu_hours(config: Config, fitted: FittedData) -> float:
    """Estimate the hours of all epochs on CPUs."""
    return plan.cpu_hours(config, epoch_amount(fitted))


def epoch_amount(fitted: FittedData) -> plan.Amount:
    """Return what an epoch of train holds."""
    index = fitted.unit_index
    return plan.Amount(
        num_sequences=int(index.num_sequences["train"].sum()),
        num_measurements=int(index.num_measurements["train"].sum()),
    )
