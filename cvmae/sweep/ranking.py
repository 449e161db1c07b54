"""Which settings did best, how sure that is, and how fast they got there."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cvmae.evaluate.convergence import Convergence, Curve, learning_curves
from cvmae.evaluate.seeds import Estimate, estimate_mean
from cvmae.sweep.axes import axes_of
from cvmae.sweep.summary import Summary, TrialRecord

__all__ = ["Ranked", "curves", "metrics_by_epoch", "rank"]


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One label: its finished seeds together."""

    label: str
    policy: str
    epochs: int
    axes: dict[str, Any]
    num_planned: int
    last_tuning_mse: Estimate
    last_tuning_r2: Estimate
    minus_random: Estimate | None  # its last error minus that of random like it, seed by seed
    best_tuning_mse: float  # mean over seeds
    tuning_mse_by_quartile: tuple[float, ...]  # by CV, stable first; then codes without a rank
    reference: str  # the label against which it is timed; "" where there is no random like it
    reference_best: float | None
    curve: Curve


def rank(summary: Summary) -> list[Ranked]:
    """Return the labels with finished trials, the least mean tuning error first."""
    timed, planned = curves(summary), summary.labels()
    ranked = [
        _ranked(summary, label, len(planned[label]), timed[label]) for label in summary.finished()
    ]
    return sorted(ranked, key=lambda one: one.last_tuning_mse.mean)


def curves(summary: Summary) -> dict[str, Convergence]:
    """Return for each label the convergence of the cell that it belongs to.

    Labels of one cell differ in their policy, and in what `random` ignores; they are timed against
    the cell's `random`.
    """
    cells: dict[Any, dict[str, list[TrialRecord]]] = {}
    for label, trials in summary.finished().items():
        axes = axes_of("random", trials[0].axes)
        # Under random all chances are alike, and so are their inverses, but in short sequences.
        axes.pop("train.loss_weighting", None)
        cell = (trials[0].epochs, *map(str, sorted(axes.items())))
        cells.setdefault(cell, {})[label] = trials
    found: dict[str, Convergence] = {}
    for labels in cells.values():
        random = [label for label, trials in labels.items() if trials[0].policy == "random"]
        runs = {label: [trial.history for trial in trials] for label, trials in labels.items()}
        convergence = learning_curves(runs, random[0] if random else "")
        found |= dict.fromkeys(labels, convergence)
    return found


def metrics_by_epoch(summary: Summary) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield for each epoch the mean over seeds of every label's tuning error, last and best so far.

    Only labels all of whose trials are finished: a store keeps the first value that it is told. The
    names of metrics have the label in them, of characters that MLflow allows, and the number of
    seeds, so that a sweep to which seeds were added does not keep the mean of the fewer.
    """
    lines = {}
    planned = summary.labels()
    for given, trials in summary.finished().items():
        if len(trials) == len(planned[given]):
            label = re.sub(r"[^A-Za-z0-9_. -]", "-", given)
            label += f" {len(trials)} seeds" if len(trials) > 1 else ""
            length = min(trial.num_epochs for trial in trials)
            errors = np.array([trial.curve["tuning_mse"][:length] for trial in trials])
            lines[f"tuning_mse/{label}"] = errors.mean(axis=0)
            lines[f"best_tuning_mse/{label}"] = np.minimum.accumulate(errors, axis=1).mean(axis=0)
    for place in range(max(map(len, lines.values()), default=0)):
        yield (
            place + 1,
            {name: float(line[place]) for name, line in lines.items() if place < len(line)},
        )


def _ranked(summary: Summary, label: str, num_planned: int, convergence: Convergence) -> Ranked:
    finished, quartile_C = summary.finished(), summary.quartile_C
    trials = finished[label]
    groups = [*(quartile_C == number for number in (1, 2, 3, 4)), np.isnan(quartile_C)]
    is_timed = convergence.reference_best is not None
    return Ranked(
        label=label,
        policy=trials[0].policy,
        epochs=trials[0].epochs,
        axes=trials[0].axes,
        num_planned=num_planned,
        last_tuning_mse=estimate_mean([trial.curve["tuning_mse"][-1] for trial in trials]),
        last_tuning_r2=estimate_mean(
            [trial.curve.get("tuning_r2", (math.nan,))[-1] for trial in trials]
        ),
        minus_random=_difference(trials, finished.get(convergence.reference, ()))
        if label != convergence.reference
        else None,
        best_tuning_mse=float(np.mean([min(trial.curve["tuning_mse"]) for trial in trials])),
        tuning_mse_by_quartile=tuple(
            float(np.mean([trial.of_codes("tuning_mse", where_C) for trial in trials]))
            for where_C in groups
        ),
        reference=convergence.reference if is_timed else "",
        reference_best=convergence.reference_best,
        curve=convergence.names[label],
    )


def _difference(trials: Sequence[TrialRecord], others: Sequence[TrialRecord]) -> Estimate | None:
    """Compare trials of the same seed, which begin with the same weights and see the same order."""
    last = {trial.seed: trial.curve["tuning_mse"][-1] for trial in others}
    pairs = [t.curve["tuning_mse"][-1] - last[t.seed] for t in trials if t.seed in last]
    return estimate_mean(pairs) if pairs else None
