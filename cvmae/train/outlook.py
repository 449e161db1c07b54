"""How long a run on CPUs will take, said before it begins where that is long."""

import logging

import numpy as np

from cvmae.checkpoint import Progress
from cvmae.config import Config
from cvmae.model.flops import flops
from cvmae.runtime.start_ray import trains_on_gpu
from cvmae.statistics.fitted import FittedData

__all__ = ["cpu_hours", "warn_of_long_run"]

logger = logging.getLogger("cvmae")

# Operations a second of one thread: what preset paper came to on cores of a server (AVX-512).
CPU_FLOPS = 5e10
LONG_H = 12.0


def warn_of_long_run(config: Config, fitted: FittedData, progress: Progress) -> None:
    """Warn of a run that CPUs will need more than half a day for, and say what is faster."""
    if trains_on_gpu(config.scaling) or progress.is_finished(config):
        return
    hours = cpu_hours(config, fitted) * (1 - progress.epoch / config.train.epochs)
    if hours > LONG_H:
        took = f"{hours / 24:.1f} days" if hours > 48 else f"{hours:.0f} hours"
        logger.warning(
            "this run takes about %s on CPUs (%d epochs, model.width=%d, model.num_layers=%d): for "
            "CPUs there is --base small; a GPU is used with --scaling.use_gpu True, or in this "
            "process (--scaling.num_workers 0) where there is one",
            took,
            config.train.epochs,
            config.model.width,
            config.model.num_layers,
        )


def cpu_hours(config: Config, fitted: FittedData) -> float:
    """Estimate the hours of all epochs on CPUs: training steps alone, each thread on its own core.

    All sequences count as of the mean length, which leaves out a little of what attention takes.
    """
    num_sequences = int(fitted.unit_index.num_sequences["train"].sum())
    num_measurements = int(fitted.unit_index.num_measurements["train"].sum())
    length = num_measurements / max(num_sequences, 1)
    hidden = config.mask.ratio * length
    work = num_sequences * flops(config.model, np.array([length - hidden]), np.array([hidden]))
    num_threads = max(config.scaling.num_workers, 1) * config.train.num_threads
    return work * config.train.epochs / (CPU_FLOPS * num_threads) / 3600
