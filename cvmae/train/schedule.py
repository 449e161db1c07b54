"""The learning rate as a function of the step: nothing to save, nothing to restore."""

import math

from cvmae.config import OptimConfig

__all__ = ["learning_rate"]


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """Return the learning rate of a step.

    Linear warm-up over ``optim.warmup_steps`` (at most a tenth of the run, so that short runs
    train, too), then constant, or half a cosine down to zero after the last step.

    Example:
        >>> [learning_rate(OptimConfig(lr=1.0, warmup_steps=2), s, 100) for s in range(3)]
        [0.5, 1.0, 1.0]
    """
    warmup = min(config.warmup_steps, total_steps // 10)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    share = (step - warmup) / max(total_steps - warmup, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * share))
