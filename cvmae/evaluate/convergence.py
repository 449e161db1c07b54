"""How fast a model learns: tuning error on the fixed mask against epochs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["Convergence", "Curve", "History", "epochs_to", "final_slope", "learning_curves"]

History = Sequence[Mapping[str, Any]]

WITHIN = 1.01  # "to 1% of": an error at most 1% above the target
SLOPE_EPOCHS = 5  # over which the slope at the end is taken


@dataclass(frozen=True, kw_only=True)
class MeanErrors:
    """Tuning error of a name's runs by epoch, as far as the shortest of them goes."""

    epoch: tuple[float, ...]
    tuning_mse: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Curve(MeanErrors):
    """How fast a name's runs (seeds) learned; None for what one of them never reached."""

    num_runs: int
    epochs_to_reference_best: float | None
    epochs_to_reference_best_per_run: tuple[float | None, ...]
    epochs_to_own_best: float | None
    epochs_to_own_best_per_run: tuple[float | None, ...]
    final_slope: float | None
    measurements_per_s: float | None


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """The curves of all names, timed against the best of one of them."""

    reference: str
    names: dict[str, Curve]
    reference_best: float | None


def epochs_to(history: History, target: float) -> float | None:
    """Return the first epoch whose tuning error is at most the target, None if there is none."""
    reached = (entry["epoch"] for entry in history if entry["tuning_mse"] <= target)
    return next(reached, None)


def learning_curves(runs: Mapping[str, Sequence[History]], reference: str) -> Convergence:
    """Summarise the histories of every name's runs (seeds).

    A name's curve is the mean over its runs, with their least and greatest. The reference's best
    is the minimum of its mean curve.

    Args:
        runs: Name -> histories of its runs, one entry per epoch.
        reference: Name whose best error others are timed against.
    """
    means = {name: _mean_errors(histories) for name, histories in runs.items()}
    best = min(means[reference].tuning_mse, default=None) if reference in means else None
    curves = {name: _curve(histories, means[name], best) for name, histories in runs.items()}
    return Convergence(reference=reference, names=curves, reference_best=best)


def final_slope(errors: Sequence[float]) -> float | None:
    """Return the change of the tuning error per epoch over the last five, by least squares.

    Far from zero, training stopped before it converged. None for fewer than two epochs.

    Example:
        >>> final_slope([9.0, 5.0, 4.0, 3.0, 2.0, 1.0])
        -1.0
    """
    last = errors[-SLOPE_EPOCHS:]
    if len(last) < 2:
        return None
    epochs = np.arange(len(last)) - (len(last) - 1) / 2
    return float(epochs @ np.asarray(last) / (epochs @ epochs))


def _curve(histories: Sequence[History], mean: MeanErrors, best: float | None) -> Curve:
    reached = [epochs_to(run, WITHIN * best) if best is not None else None for run in histories]
    own = [
        epochs_to(run, WITHIN * min(entry["tuning_mse"] for entry in run)) if run else None
        for run in histories
    ]
    return Curve(
        **asdict(mean),
        num_runs=len(histories),
        epochs_to_reference_best=_mean_epochs(reached),
        epochs_to_reference_best_per_run=tuple(reached),
        epochs_to_own_best=_mean_epochs(own),
        epochs_to_own_best_per_run=tuple(own),
        final_slope=final_slope(mean.tuning_mse),
        measurements_per_s=_throughput(histories),
    )


def _mean_errors(histories: Sequence[History]) -> MeanErrors:
    length = min((len(run) for run in histories), default=0)
    if not length:
        return MeanErrors(epoch=(), tuning_mse=(), lowest=(), highest=())
    errors = np.array([[entry["tuning_mse"] for entry in run[:length]] for run in histories])
    return MeanErrors(
        epoch=tuple(float(entry["epoch"]) for entry in histories[0][:length]),
        tuning_mse=tuple(errors.mean(axis=0).tolist()),
        lowest=tuple(errors.min(axis=0).tolist()),
        highest=tuple(errors.max(axis=0).tolist()),
    )


def _mean_epochs(reached: Sequence[float | None]) -> float | None:
    """Return the mean over runs; None as soon as one run never got there."""
    found = [epochs for epochs in reached if epochs is not None]
    return float(np.mean(found)) if found and len(found) == len(reached) else None


def _throughput(histories: Sequence[History]) -> float | None:
    """Return the median over epochs, the first left out (it warms up) where there are others."""
    rates = [
        float(entry["measurements_per_s"])
        for run in histories
        for entry in (run[1:] if len(run) > 1 else run)
        if entry.get("measurements_per_s") is not None
    ]
    return float(np.median(rates)) if rates else None
