"""Subjects of the synthetic hospital as arrays: severity, draws of blood, laboratory rows.

Everything is an array operation over the subjects of a chunk. Random numbers are keyed by
(seed, subject, counter), so a subject's rows do not depend on shards, chunks or processes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from cvmae.arrays import Bools, Float32s, Floats, Ints
from cvmae.synthetic.process import (
    FACTOR_HOURS_K,
    ILLNESS,
    INFORMATIVENESS,
    OUTLIER_FACTOR,
    CodeLaws,
    SyntheticConfig,
    code_laws,
    mix,
    normals,
    uniforms,
)

__all__ = ["Draws", "Labs", "Subjects", "num_draws", "sample_subjects", "subject_keys"]

# Shape letters beside those of `cvmae.arrays`: D draws of blood, N laboratory rows, K shared
# factors, P panels.
Keys = npt.NDArray[np.uint64]

MINUTES_2110 = 73_632_960  # 2110-01-01: dates of MIMIC are shifted to about then
DRAW_HOURS, STAY_CHANCE, STAY_DAYS = 8.0, 0.04, 60.0
MAX_SPAN_MINUTES = 25 * 365.25 * 1440
# Streams of random numbers of a subject; `synthetic_rows` has those from 100 on.
COUNT, START, GAP, NEW_STAY, PANEL, MADE, INCLUDED, LEVEL, OWN, NOISE = range(10)
MISSING, OUTLIER, SEVERITY, FACTOR = range(10, 14)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Draws of blood; under informative ordering those that were not made are among them."""

    offsets_S: Ints
    subject_D: Ints  # index into the chunk's subjects
    key_D: Keys
    number_D: Ints  # within the subject
    minutes_D: Ints  # since 1970
    stay_minutes_D: Ints  # when the draw's stay began
    panel_D: Ints
    factor_DK: Floats
    made_D: Bools


@dataclass(frozen=True, kw_only=True)
class Labs:
    """Laboratory rows, subject after subject, in order of time."""

    offsets_S: Ints
    subject_N: Ints
    key_N: Keys
    number_N: Ints  # within the subject, the same whatever else is generated
    draw_N: Ints
    code_N: Ints
    minutes_N: Ints
    value_N: Float32s
    null_N: Bools


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """Some subjects, all that is random about their laboratory rows drawn."""

    key_S: Keys
    severity_S: Floats
    draws: Draws
    labs: Labs


def sample_subjects(config: SyntheticConfig, subject_S: Ints) -> Subjects:
    """Draw severity, times and values of the subjects with these numbers."""
    key_S = subject_keys(config, subject_S)
    severity_S = normals(key_S, SEVERITY, np.zeros(len(key_S), np.int64))
    draws = _sample_draws(config, key_S, severity_S)
    labs = _sample_labs(config, draws, severity_S)
    return Subjects(key_S=key_S, severity_S=severity_S, draws=draws, labs=labs)


def subject_keys(config: SyntheticConfig, subject_S: Ints) -> Keys:
    """Return what a subject's random numbers are keyed by."""
    seed_key = mix(np.array([config.seed + 1], dtype=np.uint64))
    with np.errstate(over="ignore"):
        return mix(seed_key + subject_S.astype(np.uint64) * np.uint64(0xD1342543DE82EF95))


def num_draws(config: SyntheticConfig, key_S: Keys) -> Ints:
    """Return how many draws of blood are considered for each subject, one at least."""
    normal_S = normals(key_S, COUNT, np.zeros(len(key_S), np.int64))
    rows_S = config.median_measurements * np.exp(config.spread * normal_S)
    rows_S = np.minimum(rows_S, config.max_measurements)
    # With informative ordering half of the draws considered are made.
    considered = 2.0 if config.ordering == "informative" else 1.0
    draws_S = np.rint(considered * rows_S / code_laws(config).rows_per_draw)
    return np.asarray(np.maximum(1, draws_S), dtype=np.int64)


def _sample_draws(config: SyntheticConfig, key_S: Keys, severity_S: Floats) -> Draws:
    num_S = num_draws(config, key_S)
    offsets_S = np.concatenate([[0], np.cumsum(num_S)])
    subject_D = np.repeat(np.arange(len(num_S)), num_S)
    key_D, number_D = key_S[subject_D], np.arange(len(subject_D)) - offsets_S[subject_D]
    first_D = number_D == 0
    new_stay_D = first_D | (uniforms(key_D, NEW_STAY, number_D) < STAY_CHANCE)
    # Gaps of whole minutes; very long records are denser, so that nobody lives for centuries.
    exponential_D = -np.log(uniforms(key_D, GAP, number_D))
    gap_D = exponential_D * DRAW_HOURS * 60
    gap_D = np.where(new_stay_D, 1440 + exponential_D * STAY_DAYS * 1440, gap_D)
    mean_gap = DRAW_HOURS * 60 + STAY_CHANCE * STAY_DAYS * 1440
    gap_D *= np.minimum(1.0, MAX_SPAN_MINUTES / (num_S * mean_gap))[subject_D]
    gap_D = np.where(first_D, 0, np.maximum(1, np.rint(gap_D))).astype(np.int64)
    elapsed_D = np.cumsum(gap_D)
    start_S = uniforms(key_S, START, np.zeros(len(key_S), np.int64)) * 40 * 365.25 * 1440
    start_S = MINUTES_2110 + start_S.astype(np.int64) - elapsed_D[offsets_S[:-1]]
    minutes_D = elapsed_D + start_S[subject_D]
    stay_D = np.maximum.accumulate(np.where(new_stay_D, np.arange(len(gap_D)), 0))
    cumulative_P = np.cumsum(code_laws(config).panel_weight_P)[:-1]
    factor_DK = np.stack(
        [
            _ornstein_uhlenbeck(gap_D / 60, first_D, hours, normals(key_D, FACTOR + k, number_D))
            for k, hours in enumerate(FACTOR_HOURS_K)
        ],
        axis=1,
    )
    made_D = np.ones(len(subject_D), dtype=np.bool_)
    if config.ordering == "informative":
        illness_D = ILLNESS * (severity_S[subject_D] + factor_DK[:, 0])
        made_D = uniforms(key_D, MADE, number_D) < ndtr(INFORMATIVENESS * illness_D)
    return Draws(
        offsets_S=offsets_S,
        subject_D=subject_D,
        key_D=key_D,
        number_D=number_D,
        minutes_D=minutes_D,
        stay_minutes_D=minutes_D[stay_D],
        panel_D=np.searchsorted(cumulative_P, uniforms(key_D, PANEL, number_D), "right"),
        factor_DK=factor_DK,
        made_D=made_D,
    )


def _ornstein_uhlenbeck(
    gap_hours_N: Floats, first_N: Bools, hours_N: Floats | float, normal_N: Floats
) -> Floats:
    """Return stationary processes of unit variance that start anew where ``first_N`` says."""
    decay_N = np.exp(-np.where(first_N, np.inf, gap_hours_N) / hours_N)
    value_N = normal_N * np.sqrt(1 - decay_N**2)
    # The recurrence value[i] += decay[i] * value[i - 1] in log2(longest run) passes. Runs do not
    # touch each other: a decay is 0 as soon as it would reach before its run's first place.
    step = 1
    while step < len(value_N) and decay_N.any():
        value_N[step:] += decay_N[step:] * value_N[:-step]
        decay_N[step:] = decay_N[step:] * decay_N[:-step]
        decay_N[decay_N < 1e-30] = 0.0  # far below a double's precision, and denormals are slow
        step *= 2
    return np.asarray(value_N)


def _sample_labs(config: SyntheticConfig, draws: Draws, severity_S: Floats) -> Labs:
    laws = code_laws(config)
    size_P = np.bincount(laws.panel_C, minlength=len(laws.panel_weight_P))
    first_code_P = np.cumsum(size_P) - size_P
    num_D = size_P[draws.panel_D]
    draw_N = np.repeat(np.arange(len(num_D)), num_D)
    slot_N = np.arange(len(draw_N)) - (np.cumsum(num_D) - num_D)[draw_N]
    code_N = first_code_P[draws.panel_D[draw_N]] + slot_N
    number_N = draws.number_D[draw_N] * int(size_P.max()) + slot_N
    included_N = uniforms(draws.key_D[draw_N], INCLUDED, number_N) < laws.inclusion_C[code_N]
    # The limit counts rows of draws that were not made as well: what is cut must not depend on
    # illness, or the closed forms would not hold.
    draw_N, code_N, number_N = draw_N[included_N], code_N[included_N], number_N[included_N]
    subject_N = draws.subject_D[draw_N]
    before_S = np.searchsorted(subject_N, np.arange(len(severity_S)))
    place_N = np.arange(len(subject_N)) - before_S[subject_N]
    kept_N = (place_N < config.max_measurements) & draws.made_D[draw_N]
    draw_N, code_N, number_N = draw_N[kept_N], code_N[kept_N], number_N[kept_N]
    subject_N, key_N = draws.subject_D[draw_N], draws.key_D[draw_N]
    minutes_N = draws.minutes_D[draw_N]
    z_N = (
        laws.severity_C[code_N] * severity_S[subject_N]
        + (laws.factor_CK[code_N] * draws.factor_DK[draw_N]).sum(axis=1)
        + laws.baseline_C[code_N] * normals(key_N, LEVEL, code_N)
        + laws.own_C[code_N] * _own_process(laws, subject_N, code_N, minutes_N, key_N, number_N)
        + laws.noise_C[code_N] * normals(key_N, NOISE, number_N)
    )
    value_N = laws.mean_C[code_N] + laws.std_C[code_N] * z_N
    if config.outlier_rate > 0:
        value_N[uniforms(key_N, OUTLIER, number_N) < config.outlier_rate] *= OUTLIER_FACTOR
    return Labs(
        offsets_S=np.searchsorted(subject_N, np.arange(len(severity_S) + 1)),
        subject_N=subject_N,
        key_N=key_N,
        number_N=number_N,
        draw_N=draw_N,
        code_N=code_N,
        minutes_N=minutes_N,
        value_N=value_N.astype(np.float32),
        null_N=uniforms(key_N, MISSING, number_N) < config.missing_rate,
    )


def _own_process(
    laws: CodeLaws, subject_N: Ints, code_N: Ints, minutes_N: Ints, key_N: Keys, number_N: Ints
) -> Floats:
    """Return each row's value of the process that belongs to its subject and code alone."""
    series_N = subject_N * laws.num_codes + code_N
    order_N = np.argsort(series_N, kind="stable")
    first_N = np.diff(series_N[order_N], prepend=-1) != 0
    gap_hours_N = np.diff(minutes_N[order_N], prepend=0) / 60
    value_N = np.empty(len(order_N))
    value_N[order_N] = _ornstein_uhlenbeck(
        gap_hours_N,
        first_N,
        laws.own_hours_C[code_N[order_N]],
        normals(key_N, OWN, number_N)[order_N],
    )
    return value_N
