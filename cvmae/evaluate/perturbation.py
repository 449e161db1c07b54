"""How much errors grow when a patient's history is corrupted (Fig. 2).

One target a pass, the last measurement of a code with three earlier ones or more; all else is
visible. Noise of 0.9 standard deviations of the earlier values is added to them, in the code's
unit, and the result clipped as all inputs are: the same noise for every model, since a draw is a
hash of seed, subject and position. As a control the history of another code is corrupted alike.

Degradation is not benefit: it says how much of an error is owed to the history, not that the error
is small. A model that copies the last value degrades most. And a percentage rewards who starts
from a small error, so the change itself stands beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri

from cvmae.arrays import Bools, Float32s, Floats, Ints
from cvmae.batches.keys import counter_hash, stream_keys, uniform
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.contrasts import Contrast, contrast, ratio, total_by_subject
from cvmae.evaluate.one_target import Examination, TargetErrors, restore_targets
from cvmae.evaluate.targets import Variant, Window
from cvmae.evaluate.two_way import Figure
from cvmae.meds.units import Unit
from cvmae.settings import ScalingConfig
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = [
    "CodeDegradation",
    "Degradation",
    "DegradationPair",
    "Perturbation",
    "corruptions",
    "measure_perturbation",
]

# Shape letters beside those of `cvmae.arrays`: T targets, K methods (runs of models, then
# baselines), L measurements of one window, P some of them.

NOISE = 0.9  # in standard deviations of the earlier values: 0.6 x (1 + 0.5), as published
MIN_PRIORS = 3
MAX_TARGETS = 2_000
MIN_CODE_TARGETS = 30  # for a row of its own
CLEAN, OWN, OTHER = range(3)  # variants
SHOWN = ("code mean", "last value")


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What corruption does to one method; errors in standard deviations."""

    name: str
    kind: str
    error: float  # with the history as it is
    change: Contrast  # of the mean error; the code's own history corrupted
    percent: Contrast  # the same over the error before
    control_change: Contrast  # another code's history corrupted
    control_percent: Contrast


@dataclass(frozen=True, kw_only=True)
class DegradationPair:
    """The first policy's degradation minus the second's."""

    first: str
    second: str
    change: Contrast
    percent: Contrast


@dataclass(frozen=True, kw_only=True)
class CodeDegradation:
    """Degradation on one code."""

    code: str
    num_targets: int
    num_subjects: int
    error: dict[str, float]  # by method, as all that follow
    change: dict[str, Contrast]
    percent: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """Errors with history as it is, and corrupted."""

    reference: str
    noise: float
    min_priors: int
    num_found: int
    num_targets: int
    num_subjects: int
    num_controls: int  # targets with another code whose history could be corrupted
    methods: tuple[Degradation, ...]
    pairs: tuple[DegradationPair, ...]
    codes: tuple[CodeDegradation, ...]  # those with enough targets, most targets first


def measure_perturbation(
    examination: Examination,
    units: Sequence[Unit],
    scaling: ScalingConfig,
    *,
    reference: str,
) -> Perturbation | None:
    """Corrupt histories and restore; None where no code has history enough.

    Args:
        examination: Models and data.
        units: All of the data set.
        scaling: How units are spread.
        reference: Name of the policy that others are compared with.
    """
    errors = restore_targets(
        examination,
        units,
        scaling,
        label="perturbation",
        min_priors=MIN_PRIORS,
        limit=MAX_TARGETS,
        num_variants=3,
        vary=corruptions,
    )
    if not len(errors.code_T):
        return None
    return summarise(errors, examination.runs, reference, examination.statistics.codes)


def corruptions(window: Window, statistics: CodeStatistics, seed: int) -> list[Variant | None]:
    """Return the window as it is, with the target's history corrupted, and with another code's.

    The other code is drawn among those with as many values before the target; None where there is
    none.
    """
    everything = np.ones(len(window.code_L), bool)
    own_L = _corrupted(window, window.priors_P, statistics, seed)
    variants: list[Variant | None] = [
        Variant(value_L=value_L, kept_L=everything) for value_L in (window.value_L, own_L)
    ]
    priors_P = _control(window, seed)
    if priors_P is None:
        return [*variants, None]
    other_L = _corrupted(window, priors_P, statistics, seed)
    return [*variants, Variant(value_L=other_L, kept_L=everything)]


def _control(window: Window, seed: int) -> Ints | None:
    """Return the places of another code's values before the target."""
    before_P = window.code_L[: window.place]
    codes, count = np.unique(before_P, return_counts=True)
    eligible = codes[(count >= MIN_PRIORS) & (codes != window.code_L[window.place])]
    if not len(eligible):
        return None
    draw = _draw(window, np.array([window.place]), seed, "control")[0]
    return np.flatnonzero(before_P == eligible[int(draw * len(eligible))])


def _corrupted(window: Window, place_P: Ints, statistics: CodeStatistics, seed: int) -> Float32s:
    """Return the window's values with noise at some places, all of one code."""
    code = int(window.code_L[place_P[0]])
    low, high = statistics.clip_low[code], statistics.clip_high[code]
    # Clipped first: a slip of units among three values would make the noise as large as itself.
    clean_P = np.clip(window.value_L[place_P].astype(np.float64), low, high)
    noise_P = NOISE * clean_P.std(ddof=1) * ndtri(_draw(window, place_P, seed, "noise"))
    value_L = window.value_L.copy()
    value_L[place_P] = np.clip(clean_P + noise_P, low, high)
    return value_L


def _draw(window: Window, place_P: Ints, seed: int, stream: Literal["noise", "control"]) -> Floats:
    """Return a number in (0, 1) for each place, the same whatever the target."""
    key = stream_keys(seed, 0, np.array([window.subject_id]), stream=stream)
    return uniform(counter_hash(key, window.first_position + place_P))


def summarise(
    errors: TargetErrors, runs: dict[str, list[int]], reference: str, codes: Sequence[str]
) -> Perturbation:
    """Turn errors into degradations.

    Args:
        errors: Of every target in the three variants.
        runs: Name -> columns of its runs.
        reference: One of the names.
        codes: Of the vocabulary.
    """
    first = sum(len(own) for own in runs.values())
    columns = runs | {name: [first + BASELINES.index(name)] for name in SHOWN}
    everything = np.ones(len(errors.code_T), bool)
    controlled = np.isfinite(errors.error_TXK[:, OTHER, 0])  # of all methods or none
    change, percent = _degradation(errors, OWN, everything)
    control_change, control_percent = _degradation(errors, OTHER, controlled)
    error_K = errors.error_TXK[:, CLEAN].mean(axis=0)
    return Perturbation(
        reference=reference,
        noise=NOISE,
        min_priors=MIN_PRIORS,
        num_found=errors.num_found,
        num_targets=len(errors.code_T),
        num_subjects=len(np.unique(errors.subject_T)),
        num_controls=int(controlled.sum()),
        methods=tuple(
            Degradation(
                name=name,
                kind="model" if name in runs else "baseline",
                error=float(error_K[own].mean()),
                change=contrast(change, own, is_trained=name in runs),
                percent=contrast(percent, own, is_trained=name in runs),
                control_change=contrast(control_change, own, is_trained=name in runs),
                control_percent=contrast(control_percent, own, is_trained=name in runs),
            )
            for name, own in columns.items()
        ),
        pairs=tuple(
            DegradationPair(
                first=name,
                second=reference,
                change=contrast(change, own, runs[reference]),
                percent=contrast(percent, own, runs[reference]),
            )
            for name, own in runs.items()
            if name != reference
        ),
        codes=_codes(errors, columns, set(runs), codes),
    )


def _codes(
    errors: TargetErrors, columns: dict[str, list[int]], trained: set[str], codes: Sequence[str]
) -> tuple[CodeDegradation, ...]:
    rows = []
    count_C = np.bincount(errors.code_T, minlength=len(codes))
    for code in np.argsort(-count_C, kind="stable"):
        if count_C[code] < MIN_CODE_TARGETS:
            break
        own_T = np.asarray(errors.code_T == code)
        change, percent = _degradation(errors, OWN, own_T)
        error_K = errors.error_TXK[own_T, CLEAN].mean(axis=0)
        rows.append(
            CodeDegradation(
                code=codes[code],
                num_targets=int(count_C[code]),
                num_subjects=len(np.unique(errors.subject_T[own_T])),
                error={name: float(error_K[own].mean()) for name, own in columns.items()},
                change={
                    name: contrast(change, own, is_trained=name in trained)
                    for name, own in columns.items()
                },
                percent={name: float(percent.value_K[own].mean()) for name, own in columns.items()},
            )
        )
    return tuple(rows)


def _degradation(errors: TargetErrors, variant: int, chosen_T: Bools) -> tuple[Figure, Figure]:
    """Return the change of the mean error and that in percent, both ratios of sums by subject."""
    subject_T = errors.subject_T[chosen_T]
    clean_TK = errors.error_TXK[chosen_T, CLEAN]
    change_TK = errors.error_TXK[chosen_T, variant] - clean_TK
    change_SK, clean_SK, count_SK = (
        total_by_subject(subject_T, part_TK, errors.num_subjects)
        for part_TK in (change_TK, clean_TK, np.ones_like(clean_TK))
    )
    return ratio(change_SK, count_SK), ratio(100 * change_SK, clean_SK)
