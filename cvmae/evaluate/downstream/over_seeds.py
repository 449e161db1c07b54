"""Are two ways to predict more than luck apart: over seeds and over subjects.

The variance of a mean over seeds has two sources, the subjects that were drawn and the seeds that
were run. Each is estimated by itself: that of subjects by resampling them (all labels of a subject
stay together, the same draw for every model), that of seeds from how far the seeds lie apart; what
both contain, seeds that differ by subject, is counted once. Three or five seeds are too few to
resample: the interval is Student's t with Satterthwaite's degrees of freedom. As `two_way` does for
sums of errors; ranks have no such sums.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from cvmae.arrays import Floats, Ints
from cvmae.evaluate.seeds import CONFIDENCE, MIN_SEEDS
from cvmae.evaluate.significance import LEVEL
from cvmae.evaluate.two_way import Estimate, by_t

__all__ = ["Verdict", "are_enough", "estimate", "resample_labels", "verdict"]

# Shape letters: L labels, S subjects with labels, T resamples, K runs (seeds of a method).

CHUNK = 20_000_000  # weights at a time: 160 MB

Verdict = Literal["higher", "lower", "no clear difference", "undecided"]


def resample_labels(
    subject_id_L: Ints,
    scores: Sequence[Callable[[Floats], Floats]],
    *,
    samples: int,
    seed: int,
) -> Floats:
    """Draw subjects with replacement and score every run on each draw: ``[T, K]``.

    Args:
        subject_id_L: Whose each label is; a subject's labels stay together.
        scores: Of each run: weights ``[T, L]`` to scores ``[T]``.
        samples: Number of draws.
        seed: Of the draws, which are the same for all runs.
    """
    rng = np.random.default_rng(seed)
    subject_S, place_L = np.unique(subject_id_L, return_inverse=True)
    shares_S = np.full(len(subject_S), 1.0 / max(len(subject_S), 1))
    at_once = max(1, CHUNK // max(len(place_L), 1))
    parts = []
    for done in range(0, samples, at_once):
        size = min(at_once, samples - done)
        drawn_TS = rng.multinomial(len(subject_S), shares_S, size=size).astype(np.float64)
        weight_TL = drawn_TS[:, place_L]
        parts.append(np.stack([score(weight_TL) for score in scores], axis=1))
    return np.concatenate(parts)


def estimate(sides: Sequence[tuple[Floats, Floats, float]], num_subjects: int) -> Estimate:
    """Return a signed sum of means over seeds, with its interval over seeds and subjects.

    Args:
        sides: Of each method: its score by seed ``[K]``, the same in resamples ``[T, K]``, and
            its sign. A method of one seed has no variance over seeds.
        num_subjects: With a label.
    """
    nothing = float("nan")
    value = sum(sign * float(score_K.mean()) for score_K, _, sign in sides)
    draws_T = np.sum([sign * drawn_TK.mean(axis=1) for _, drawn_TK, sign in sides], axis=0)
    draws_T = draws_T[np.isfinite(draws_T)]
    seeded = [_over_seeds(score_K, drawn_TK) for score_K, drawn_TK, _ in sides]
    has_any = np.isfinite(value) and len(draws_T) >= 2
    if not has_any or not any(between for between, _, _ in seeded):
        tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        low, high = np.quantile(draws_T, tails) if has_any else (nothing, nothing)
        return Estimate(
            value=value,
            interval=(float(low), float(high)),
            over="subjects",
            degrees_of_freedom=nothing,
            p=_share_beyond(draws_T) if has_any else nothing,
        )
    subjects = float(draws_T.var(ddof=1))
    seeds = sum(between for between, _, _ in seeded)
    both = sum(shared for _, shared, _ in seeded)
    # The difference of estimates may come out below what one source alone is.
    total = max(subjects + seeds - both, subjects, seeds)
    spread = subjects**2 / max(num_subjects - 1, 1)
    spread += sum(between**2 / freedom for between, _, freedom in seeded if freedom)
    return by_t(value, total, spread, "seeds and subjects")


def are_enough(num_seeds: Sequence[int | None]) -> bool:
    """Tell whether seeds can be told from policies; None: nothing in that side is random."""
    return all(number is None or number >= MIN_SEEDS for number in num_seeds)


def verdict(value: float, p: float) -> Verdict:
    """Say what a p of a difference, adjusted for how many were asked, allows to say of it."""
    if not np.isfinite(p):
        return "undecided"
    if p >= LEVEL:
        return "no clear difference"
    return "higher" if value > 0 else "lower"


def _share_beyond(draws_T: Floats) -> float:
    """Return p by resamples: twice the share of the draws on the rarer side of 0, never 0."""
    rarer = min((draws_T <= 0).sum(), (draws_T >= 0).sum())
    return min(1.0, 2 * float(rarer + 1) / (len(draws_T) + 1))


def _over_seeds(score_K: Floats, drawn_TK: Floats) -> tuple[float, float, int]:
    """Return the variance of a mean over seeds, what of it is by subject, and its freedom."""
    num_seeds = len(score_K)
    if num_seeds < 2:
        return 0.0, 0.0, 0
    between = float(score_K.var(ddof=1)) / num_seeds
    apart_TK = drawn_TK - drawn_TK.mean(axis=1, keepdims=True)
    by_subject = float(np.nanvar(apart_TK, axis=0, ddof=1).sum())
    return between, by_subject / (num_seeds * (num_seeds - 1)), num_seeds - 1
