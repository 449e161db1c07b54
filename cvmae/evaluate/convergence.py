"""How fast a model learns: tuning error on the fixed mask against epochs.

The target is 1% above the lowest mean error over the seeds of a reference, `random`. A run's error
is smoothed by a running median of three epochs, so that one lucky epoch reaches nothing, and the
crossing is interpolated between epochs. A run that never gets there is counted, not averaged away.
A run's *own* best, as a target, favours worse models, which have less far to go: it is descriptive.
Under a schedule that lowers the learning rate a crossing measures the schedule; `optim.schedule
constant` is the setting for this question. Hours are those of the machine, which other trials may
have shared: compare them only where trials ran alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cvmae.arrays import Floats
from cvmae.evaluate.seeds import estimate_mean

__all__ = [
    "Convergence",
    "Curve",
    "History",
    "Reached",
    "final_slope",
    "learning_curves",
    "reach",
    "smoothed",
]

History = Sequence[Mapping[str, Any]]

WITHIN = 1.01  # "to 1% of": an error at most 1% above the target
SCHEDULE_NOTE = (
    "Under optim.schedule=cosine the epochs to a target measure the schedule, which lowers every "
    "error towards the last epoch: to ask who learns faster, train with optim.schedule constant."
)
WHOLE = 0.999  # of the median epoch's measurements: all epochs have the same, but for rounding
SLOPE_EPOCHS = 5  # over which the slope at the end is taken


@dataclass(frozen=True, kw_only=True)
class MeanErrors:
    """Tuning error of a name's runs by epoch, as far as the shortest of them goes."""

    epoch: tuple[float, ...]
    tuning_mse: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What a run had taken when its error came down to a target."""

    epochs: float
    measurements: float | None  # of train, each as often as it was seen; None if nobody counted
    hours: float | None  # of training, as fast as this run's machine was, shared or not


@dataclass(frozen=True, kw_only=True)
class Curve(MeanErrors):
    """How fast a name's runs (seeds) learned; None for what one of them never reached."""

    num_runs: int
    num_reached: int  # of the runs, that reached the reference's best
    epochs_to_reference_best: float | None
    epochs_to_reference_best_interval: tuple[float, float] | None  # t, over three seeds or more
    measurements_to_reference_best: float | None
    hours_to_reference_best: float | None
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


def reach(history: History, target: float) -> Reached | None:
    """Return where a run's smoothed tuning error first came down to the target, None if never.

    Between two epochs the error is taken as a straight line; before the first there is none, so
    that a run whose first epoch is good enough is said to have needed one.

    Example:
        >>> reach([{"epoch": e + 1, "tuning_mse": 1.0 - 0.2 * e} for e in range(4)], 0.7).epochs
        2.5
    """
    epochs = np.array([entry["epoch"] for entry in history], np.float64)
    errors = smoothed([entry["tuning_mse"] for entry in history])
    below = np.flatnonzero(errors <= target)
    if not len(below):
        return None
    at = int(below[0])
    share = 1.0 if at == 0 else (errors[at - 1] - target) / (errors[at - 1] - errors[at])
    epoch = epochs[at] - (1 - share) * (epochs[at] - epochs[at - 1] if at else 0)
    return Reached(
        epochs=float(epoch),
        measurements=_taken(_measurements(history), at, share),
        hours=_taken(_hours(history), at, share),
    )


def smoothed(errors: Sequence[float]) -> Floats:
    """Return the running median of three epochs; the first and the last stay as they are."""
    out = np.array(errors, np.float64)
    if len(out) > 2:
        out[1:-1] = np.median([out[:-2], out[1:-1], out[2:]], axis=0)
    return out


def learning_curves(runs: Mapping[str, Sequence[History]], reference: str) -> Convergence:
    """Summarise the histories of every name's runs (seeds).

    A name's curve is the mean over its runs, with their least and greatest. The reference's best
    is the minimum of its mean curve.

    Args:
        runs: Name -> histories of its runs, one entry per epoch.
        reference: Name whose best error others are timed against; where there is none of this
            name, nobody is timed against another.
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
    found = [reach(run, WITHIN * best) if best is not None else None for run in histories]
    own = [
        reach(run, WITHIN * float(smoothed([entry["tuning_mse"] for entry in run]).min()))
        if run
        else None
        for run in histories
    ]
    per_run = tuple(run.epochs if run else None for run in found)
    own_per_run = tuple(run.epochs if run else None for run in own)
    return Curve(
        **asdict(mean),
        num_runs=len(histories),
        num_reached=sum(run is not None for run in found),
        epochs_to_reference_best=_mean_of_all(per_run),
        epochs_to_reference_best_interval=_interval(per_run),
        measurements_to_reference_best=_mean_of_all(
            [run.measurements if run else None for run in found]
        ),
        hours_to_reference_best=_mean_of_all([run.hours if run else None for run in found]),
        epochs_to_reference_best_per_run=per_run,
        epochs_to_own_best=_mean_of_all(own_per_run),
        epochs_to_own_best_per_run=own_per_run,
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


def _mean_of_all(reached: Sequence[float | None]) -> float | None:
    """Return the mean over runs; None as soon as one run never got there."""
    found = [taken for taken in reached if taken is not None]
    return float(np.mean(found)) if found and len(found) == len(reached) else None


def _interval(reached: Sequence[float | None]) -> tuple[float, float] | None:
    """Return the t interval of the mean over runs, if all got there and there are enough."""
    found = [taken for taken in reached if taken is not None]
    if not found or len(found) < len(reached):
        return None
    mean = estimate_mean(found)
    return None if mean.low is None or mean.high is None else (mean.low, mean.high)


def _measurements(history: History) -> Floats | None:
    """Return the measurements of each epoch, if they were counted."""
    counts = _counted(history)
    return None if counts is None else np.full(len(counts), np.median(counts))


def _hours(history: History) -> Floats | None:
    """Return the hours of each epoch; one that a resume cut counts as long as the median one."""
    if not all("train_s" in entry for entry in history):
        return None
    hours, counts = np.array([entry["train_s"] for entry in history]) / 3600, _counted(history)
    if counts is None:
        return hours
    is_whole = counts >= WHOLE * np.median(counts)
    return np.where(is_whole, hours, np.median(hours[is_whole]))


def _counted(history: History) -> Floats | None:
    """Return the measurements that each epoch counted: since the resume, where one cut it."""
    if not all("measurements_per_s" in entry and "train_s" in entry for entry in history):
        return None
    return np.array([entry["measurements_per_s"] * entry["train_s"] for entry in history])


def _taken(per_epoch: Floats | None, at: int, share: float) -> float | None:
    """Return the sum over the epochs before one, and over a share of it."""
    return None if per_epoch is None else float(per_epoch[:at].sum() + share * per_epoch[at])


def _throughput(histories: Sequence[History]) -> float | None:
    """Return the median over epochs, the first left out (it warms up) where there are others."""
    rates = [
        float(entry["measurements_per_s"])
        for run in histories
        for entry in (run[1:] if len(run) > 1 else run)
        if entry.get("measurements_per_s") is not None
    ]
    return float(np.median(rates)) if rates else None
