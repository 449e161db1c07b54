"""A look at the evaluated split before models are: how many targets, and which codes are copies.

Leave-one-out takes so many targets at most, which a limit on their draws ensures. Near-copies are
pairs of codes whose values agree in rank wherever both were measured at once, as INR and PT do:
where one is visible, restoring the other is easy for every policy.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from cvmae.arrays import Float32s, Floats, Ints
from cvmae.batches.columns import choose_targets, has_twin
from cvmae.batches.keys import counter_hash, stream_keys, uniform
from cvmae.meds.dataset import Source
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_unit
from cvmae.meds.units import Unit
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = [
    "NearCopies",
    "NearCopy",
    "Survey",
    "draw_limit",
    "merge_surveys",
    "near_copies",
    "shared_times",
    "survey_unit",
]

MOST_TIMES = 50_000  # at which several codes were measured: bounds memory and time
LEAST_TIMES, LEAST_SUBJECTS = 100, 10  # that a pair of codes needs to be judged
ALIKE = 0.98  # Spearman's rank correlation, either way

# Shape letters beside those of `cvmae.arrays`: T targets, D times of subjects, E values at them.


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What units give: draws of targets, and values of codes that were measured at one time."""

    draw_T: Floats
    draw_D: Floats  # of each time, by which they are chosen
    subject_D: Ints  # running number
    time_E: Ints  # which of the times
    code_E: npt.NDArray[np.integer]
    numeric_value_E: Float32s


@dataclass(frozen=True, kw_only=True)
class NearCopy:
    """Two codes whose values agree in rank, or run opposite."""

    first: str
    second: str
    spearman: float
    num_times: int  # at which a subject has both
    num_subjects: int


@dataclass(frozen=True, kw_only=True)
class NearCopies:
    """The pairs that were found, among how many that could be judged."""

    pairs: tuple[NearCopy, ...]
    num_judged: int


def survey_unit(
    unit: Unit,
    *,
    source: Source,
    split: str,
    seed: int,
    statistics: CodeStatistics,
    most_targets: int,
) -> Survey:
    """Look at one unit; see `Survey`."""
    measurements, _ = read_unit(source, unit, statistics.lookup, split)
    # One more than are taken: the first that is not is the limit.
    draw_T = np.sort(choose_targets(measurements, seed=seed).draw_T)[: most_targets + 1]
    return shared_times(measurements, draw_T, seed)


def shared_times(m: Measurements, draw_T: Floats, seed: int) -> Survey:
    """Keep the values of times at which a subject has several codes, of `MOST_TIMES` times."""
    lengths_S = np.diff(m.offsets_S)
    subject_N = np.repeat(np.arange(len(lengths_S)), lengths_S)
    starts_N = np.ones(len(subject_N), bool)
    starts_N[1:] = (np.diff(m.time_us_N) != 0) | (np.diff(subject_N) != 0)
    time_N = np.cumsum(starts_N) - 1
    single_N = ~has_twin(m)
    num_D = np.bincount(time_N[single_N], minlength=int(starts_N.sum()))
    first_D = np.flatnonzero(starts_N)
    subject_D, position_D = subject_N[first_D], first_D - m.offsets_S[subject_N[first_D]]
    keys_S = stream_keys(seed, 2, m.subject_id_S, stream="target")
    draw_D = uniform(counter_hash(keys_S[subject_D], position_D))
    chosen = np.flatnonzero(num_D >= 2)
    chosen = np.sort(chosen[np.argsort(draw_D[chosen], kind="stable")[:MOST_TIMES]])
    place_D = np.full(len(num_D), -1)
    place_D[chosen] = np.arange(len(chosen))
    kept_E = np.flatnonzero(single_N & (place_D[time_N] >= 0)) if len(time_N) else time_N
    return Survey(
        draw_T=draw_T,
        draw_D=draw_D[chosen],
        subject_D=subject_D[chosen],
        time_E=place_D[time_N[kept_E]],
        code_E=m.code_index_N[kept_E],
        numeric_value_E=m.numeric_value_N[kept_E],
    )


def merge_surveys(parts: Iterable[Survey]) -> Survey:
    """Join what units gave, and keep no more times than of one.

    Raises:
        ValueError: There are no parts.
    """
    units = list(parts)
    if not units:
        raise ValueError("nothing to look at: the data set has no unit")
    subjects = np.cumsum([0, *(int(u.subject_D.max(initial=-1)) + 1 for u in units)])
    times = np.cumsum([0, *(len(u.draw_D) for u in units)])
    draw_D = np.concatenate([u.draw_D for u in units])
    subject_D = np.concatenate([u.subject_D + n for u, n in zip(units, subjects, strict=False)])
    time_E = np.concatenate([u.time_E + n for u, n in zip(units, times, strict=False)])
    chosen = np.sort(np.argsort(draw_D, kind="stable")[:MOST_TIMES])
    place_D = np.full(len(draw_D), -1)
    place_D[chosen] = np.arange(len(chosen))
    kept_E = np.flatnonzero(place_D[time_E] >= 0) if len(time_E) else time_E
    return Survey(
        draw_T=np.concatenate([u.draw_T for u in units]),
        draw_D=draw_D[chosen],
        subject_D=subject_D[chosen],
        time_E=place_D[time_E[kept_E]],
        code_E=np.concatenate([u.code_E for u in units])[kept_E],
        numeric_value_E=np.concatenate([u.numeric_value_E for u in units])[kept_E],
    )


def draw_limit(survey: Survey, most_targets: int) -> float:
    """Return the limit below which at most so many draws of targets lie."""
    if len(survey.draw_T) <= most_targets:
        return 1.0
    return float(np.partition(survey.draw_T, most_targets)[most_targets])


def near_copies(survey: Survey, codes: Sequence[str]) -> NearCopies:
    """Return the pairs of codes whose values agree in rank above 0.98, most alike first."""
    value_DC = np.full((len(survey.draw_D), len(codes)), np.nan)
    value_DC[survey.time_E, survey.code_E] = survey.numeric_value_E
    known_DC = np.isfinite(value_DC)
    times_CC = known_DC.T.astype(np.float32) @ known_DC.astype(np.float32)
    # Ranks over all values of a code, not of a pair's: a first look, which costs one product.
    rank_DC = np.where(known_DC, stats.rankdata(value_DC, axis=0, nan_policy="omit"), 0.0)
    candidates = np.argwhere(np.triu(times_CC >= LEAST_TIMES, k=1))
    rough_CC = _rough_correlation(rank_DC, known_DC)
    found, num_judged = [], 0
    for one, other in candidates:
        both_D = known_DC[:, one] & known_DC[:, other]
        num_subjects = 1 + int(np.count_nonzero(np.diff(survey.subject_D[both_D])))  # in order
        if num_subjects < LEAST_SUBJECTS:
            continue
        num_judged += 1
        if not abs(rough_CC[one, other]) > ALIKE - 0.2:
            continue
        rho = float(stats.spearmanr(value_DC[both_D, one], value_DC[both_D, other]).statistic)
        if abs(rho) > ALIKE:
            found.append(
                NearCopy(
                    first=codes[one],
                    second=codes[other],
                    spearman=rho,
                    num_times=int(both_D.sum()),
                    num_subjects=num_subjects,
                )
            )
    found.sort(key=lambda pair: -abs(pair.spearman))
    return NearCopies(pairs=tuple(found), num_judged=num_judged)


def _rough_correlation(rank_DC: Floats, known_DC: npt.NDArray[np.bool_]) -> Floats:
    """Return Pearson's correlation of ranks for all pairs at once, over times that have both."""
    known = known_DC.astype(np.float64)
    scaled = rank_DC / np.maximum(rank_DC.max(axis=0, initial=1.0), 1.0)
    count = np.maximum(known.T @ known, 1.0)
    mean = scaled.T @ known / count  # of the row's code, over times that the column's has, too
    square = (scaled**2).T @ known / count - mean**2
    product = scaled.T @ scaled / count - mean * mean.T
    spread = np.sqrt(np.maximum(square * square.T, 0.0))
    rough_CC: Floats = np.zeros_like(product)
    np.divide(product, spread, out=rough_CC, where=spread > 1e-9)
    return rough_CC
