"""Does a policy use a patient's history better (Fig. 5): errors against prior values of the code.

Two ways, both with the same targets for all models. *Observed*: hidden values under the uniform
mask, by how many earlier values of their code are visible and by the length of the sequence. Later
values come from sicker patients, so this alone shows no cause. *Truncated*: one target at a time,
with its history cut to the last k values of the code by experiment; its other measurements stay.

Whether the gap between policies widens with history is the slope of the difference of their errors
on log(1 + history), within codes (observed) or within targets (truncated).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cvmae.arrays import Bools, Floats, Ints
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.contrasts import Contrast, contrast, fit_slopes, ratio, total_by_subject
from cvmae.evaluate.history import Observed, observe
from cvmae.evaluate.one_target import Examination, TargetErrors, restore_targets
from cvmae.evaluate.small_cells import SMALLEST_CELL
from cvmae.evaluate.targets import Variant, Window
from cvmae.meds.units import Unit
from cvmae.settings import ScalingConfig
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["Bin", "Context", "Slope", "Truncated", "measure_context", "truncations"]

# Shape letters beside those of `cvmae.arrays`: T targets, X variants of each, K methods (runs of
# models, then baselines).

MAX_WINDOWS = 4_000  # observed
MAX_TARGETS = 1_000  # whose history is truncated
KEPT = (0, 1, 2, 4, 8, None)  # last values of the code that stay; None: all
MIN_PRIORS = 8  # so that all targets have every k
PRIORS = ((0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (9, None))  # first and last of a bin
NUM_LENGTHS = 4  # bins of about equally many targets
SHOWN = ("last value", "linear interpolation")  # beside the models


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Targets with alike context, and how they are restored."""

    label: str
    num_targets: int
    num_subjects: int
    # Mean absolute error in standard deviations, by model and baseline; NaN where there are fewer
    # than `SMALLEST_CELL` subjects, as the gap.
    error: dict[str, float]
    gap: dict[str, Contrast]  # of other policies, minus the reference


@dataclass(frozen=True, kw_only=True)
class Slope:
    """How a policy's error, minus the reference's, goes with context; below 0: its lead grows.

    In standard deviations for each unit of log(1 + prior values), or of log(length).
    """

    first: str
    second: str
    history: Contrast
    length: Contrast | None  # None: sequences are all of one length, or it was not asked


@dataclass(frozen=True, kw_only=True)
class Truncated:
    """The same targets with only the last k values of their code as history."""

    num_found: int
    num_targets: int
    num_subjects: int
    min_priors: int
    by_kept: tuple[Bin, ...]
    slopes: tuple[Slope, ...]


@dataclass(frozen=True, kw_only=True)
class Context:
    """Errors by context, as it is observed and as it is truncated."""

    reference: str
    num_windows_found: int
    num_windows: int
    num_targets: int
    num_subjects: int
    by_history: tuple[Bin, ...]
    by_length: tuple[Bin, ...]
    slopes: tuple[Slope, ...]
    truncated: Truncated | None  # None: no code has so many values in a subject


def measure_context(
    examination: Examination,
    units: Sequence[Unit],
    scaling: ScalingConfig,
    *,
    reference: str,
) -> Context | None:
    """Restore values with more and less context; None where there is nothing to restore.

    Args:
        examination: Models and data.
        units: All of the data set.
        scaling: How units are spread.
        reference: Name of the policy that others are compared with.
    """
    observed = observe(examination, units, scaling, limit=MAX_WINDOWS)
    if not len(observed.code_T):
        return None
    truncated = restore_targets(
        examination,
        units,
        scaling,
        label="context",
        min_priors=MIN_PRIORS,
        limit=MAX_TARGETS,
        num_variants=len(KEPT),
        vary=truncations,
    )
    return summarise(observed, truncated, examination.runs, reference)


def truncations(window: Window, statistics: CodeStatistics, seed: int) -> list[Variant]:
    """Return the window with the last k earlier values of the target's code, for every k."""
    variants = []
    for kept in KEPT:
        kept_L = np.ones(len(window.code_L), bool)
        if kept is not None:
            kept_L[window.priors_P[: max(len(window.priors_P) - kept, 0)]] = False
        variants.append(Variant(value_L=window.value_L, kept_L=kept_L))
    return variants


def summarise(
    observed: Observed,
    truncated: TargetErrors,
    runs: dict[str, list[int]],
    reference: str,
) -> Context:
    """Turn errors into bins and slopes.

    Args:
        observed: Hidden values under the uniform mask.
        truncated: Targets with truncated history, an error for every entry of `KEPT`.
        runs: Name -> columns of its runs.
        reference: One of the names.
    """
    columns = _columns(runs)
    bins = functools.partial(
        _bin, subject_T=observed.subject_T, error_TK=observed.error_TK, columns=columns
    )
    length_T = observed.length_T
    edges = np.unique(np.quantile(length_T, np.linspace(0, 1, NUM_LENGTHS + 1)).astype(np.int64))
    lengths = _ranges(edges)
    by_length = [bins(_label(*r), _within(length_T, *r), reference=reference) for r in lengths]
    by_history = [
        bins(_label(*r), _within(observed.prior_T, *r), reference=reference) for r in PRIORS
    ]
    return Context(
        reference=reference,
        num_windows_found=observed.num_found,
        num_windows=observed.num_windows,
        num_targets=len(observed.code_T),
        num_subjects=len(np.unique(observed.subject_T)),
        by_history=tuple(found for found in by_history if found.num_targets),
        by_length=tuple(found for found in by_length if found.num_targets),
        slopes=_observed_slopes(observed, runs, reference),
        truncated=_truncated(truncated, runs, reference) if len(truncated.code_T) else None,
    )


def _truncated(errors: TargetErrors, runs: dict[str, list[int]], reference: str) -> Truncated:
    num_targets, num_variants, num_methods = errors.error_TXK.shape
    everything = np.ones(num_targets, bool)
    labels = ["all" if kept is None else str(kept) for kept in KEPT]
    by_kept = [
        _bin(
            label,
            everything,
            subject_T=errors.subject_T,
            error_TK=errors.error_TXK[:, place],
            columns=_columns(runs),
            reference=reference,
        )
        for place, label in enumerate(labels)
    ]
    left_X = np.array([np.inf if kept is None else kept for kept in KEPT])
    history_TX = np.minimum(left_X[None, :], errors.num_prior_T[:, None])
    figures = fit_slopes(
        errors.error_TXK.reshape(-1, num_methods),
        np.log1p(history_TX).reshape(-1, 1),
        np.repeat(np.arange(num_targets), num_variants),
        np.repeat(errors.subject_T, num_variants),
        errors.num_subjects,
    )
    assert figures is not None, "every target has several histories"
    return Truncated(
        num_found=errors.num_found,
        num_targets=num_targets,
        num_subjects=len(np.unique(errors.subject_T)),
        min_priors=MIN_PRIORS,
        by_kept=tuple(by_kept),
        slopes=tuple(
            Slope(
                first=name,
                second=reference,
                history=contrast(figures[0], own, runs[reference]),
                length=None,
            )
            for name, own in runs.items()
            if name != reference
        ),
    )


def _observed_slopes(
    observed: Observed, runs: dict[str, list[int]], reference: str
) -> tuple[Slope, ...]:
    covariate_TP = np.column_stack([np.log1p(observed.prior_T), np.log(observed.length_T)])
    grouped = observed.code_T, observed.subject_T, observed.num_subjects
    figures = fit_slopes(observed.error_TK, covariate_TP, *grouped)
    if figures is None:  # sequences of one length, say
        figures = fit_slopes(observed.error_TK, covariate_TP[:, :1], *grouped)
    if figures is None:
        return ()
    return tuple(
        Slope(
            first=name,
            second=reference,
            history=contrast(figures[0], own, runs[reference]),
            length=contrast(figures[1], own, runs[reference]) if len(figures) > 1 else None,
        )
        for name, own in runs.items()
        if name != reference
    )


def _bin(
    label: str,
    chosen_T: Bools,
    *,
    subject_T: Ints,
    error_TK: Floats,
    columns: dict[str, list[int]],
    reference: str,
) -> Bin:
    """Return the mean errors of some targets, and how much others differ from the reference."""
    subjects, subject_N = np.unique(subject_T[chosen_T], return_inverse=True)
    error_NK = error_TK[chosen_T].astype(np.float64)
    total_SK = total_by_subject(subject_N, error_NK, len(subjects))
    count_SK = total_by_subject(subject_N, np.ones_like(error_NK), len(subjects))
    # The error of a single value is as good as the value.
    figure = ratio(total_SK, count_SK if len(subjects) >= SMALLEST_CELL else 0 * count_SK)
    return Bin(
        label=label,
        num_targets=len(error_NK),
        num_subjects=len(subjects),
        error={name: float(figure.value_K[own].mean()) for name, own in columns.items()},
        gap={
            name: contrast(figure, own, columns[reference])
            for name, own in columns.items()
            if name not in SHOWN and name != reference
        },
    )


def _columns(runs: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return the columns of models and of the baselines that are shown beside them."""
    first = sum(len(own) for own in runs.values())
    return runs | {name: [first + BASELINES.index(name)] for name in SHOWN}


def _within(value_T: Ints, low: int, high: int | None) -> Bools:
    return np.asarray((value_T >= low) & (value_T <= (math.inf if high is None else high)))


def _label(low: int, high: int | None) -> str:
    """Name a range of counts.

    Example:
        >>> _label(1, 1), _label(3, 4), _label(9, None)
        ('1', '3 to 4', '9 or more')
    """
    if high is None:
        return f"{low} or more"
    return str(low) if low == high else f"{low} to {high}"


def _ranges(edge_E: Ints) -> list[tuple[int, int]]:
    """Return first and last whole number of each bin between ascending edges.

    Example:
        >>> _ranges(np.array([2, 5, 9]))
        [(2, 5), (6, 9)]
    """
    if len(edge_E) == 1:
        return [(int(edge_E[0]), int(edge_E[0]))]
    starts = [int(edge_E[0]), *(int(edge) + 1 for edge in edge_E[1:-1])]
    return list(zip(starts, edge_E[1:].tolist(), strict=True))
