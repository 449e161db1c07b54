"""The learning rate as a function of the step: nothing to save, nothing to restore."""

import math

from cvmae.settings import OptimConfig

__all__ = ["learning_rate", "peak_learning_rate"]

PUBLISHED_BATCH = 256  # sequences a step, for which learning rates are stated


def peak_learning_rate(config: OptimConfig, batch_sequences: int) -> float:
    """Return the learning rate after warm-up, as `optim.lr_scaling` has it follow the batch.

    The noise of Adam's normalised updates falls with the square root of the batch, so that is its
    rule (Malladi et al. 2022, arXiv 2205.10287); in proportion is the rule of plain SGD.

    Example:
        >>> peak_learning_rate(OptimConfig(lr=1e-4, lr_scaling="sqrt"), 1024)
        0.0002
    """
    power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[config.lr_scaling]
    factor: float = (batch_sequences / PUBLISHED_BATCH) ** power
    return config.lr * factor


def learning_rate(
    config: OptimConfig, step: int, total_steps: int, batch_sequences: int = PUBLISHED_BATCH
) -> float:
    """Return the learning rate of a step.

    Linear warm-up over ``optim.warmup_steps`` (at most a tenth of the run, so that short runs
    train, too), then constant, or half a cosine down to zero after the last step.

    Example:
        >>> [learning_rate(OptimConfig(lr=1.0, warmup_steps=2), s, 100) for s in range(3)]
        [0.5, 1.0, 1.0]
    """
    peak = peak_learning_rate(config, batch_sequences)
    warmup = min(config.warmup_steps, total_steps // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    if config.schedule == "constant":
        return peak
    share = (step - warmup) / max(total_steps - warmup, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * share))
