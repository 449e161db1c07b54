"""Two methods compared: what is claimed of them, and what is only described.

Claims rest on runs and subjects at once (`two_way`) and on p that are adjusted for how many were
asked (`multiplicity`). Win rates, Wilcoxon's test over codes and Cohen's d are shown as the paper
does, and describe: codes are no sample of anything, and seeds of one policy win them by luck.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from cvmae.arrays import Bools, Floats
from cvmae.evaluate.multiplicity import benjamini_hochberg, holm
from cvmae.evaluate.two_way import Figure, Interval, Over, Runs, estimate

__all__ = [
    "LEVEL",
    "Comparison",
    "Correlation",
    "Family",
    "Verdict",
    "adjusted",
    "cohens_d",
    "compare",
    "correlate",
    "wilcoxon_p",
]

# primary: named before anybody looked, by Holm; further: everything else, by false discovery rate.
Family = Literal["primary", "further"]
Verdict = Literal["better", "worse", "no clear difference", "undecided"]

LEVEL = 0.05  # of claims after adjustment, and of false discoveries among codes


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The first method minus the second. NaN where there is nothing to compare on.

    A code is *clearly* better where its own difference is, at a false discovery rate of 5% over
    the codes of this pair. Differences of R2 are pooled, mean over codes, and of each code.
    """

    first: str
    second: str
    kind: Literal["model", "baseline"]  # of the first
    family: Family
    num_runs: tuple[int, int]  # 0 of a baseline
    over: Over  # what the intervals are over
    verdict: Verdict  # on the first, pooled; undecided: too few seeds to say
    pooled_difference: float
    pooled_interval: Interval
    p: float  # of the pooled difference; NaN where undecided, as the next
    p_adjusted: float
    degrees_of_freedom: float
    macro_difference: float
    macro_interval: Interval
    num_codes: int
    wins: int
    losses: int
    ties: int
    win_rate: float  # of the codes that are won or lost
    clear_wins: int
    clear_losses: int
    wilcoxon_p: float
    cohens_d: float
    difference: tuple[float, ...]  # of each code, as all that follow
    difference_low: tuple[float, ...]
    difference_high: tuple[float, ...]
    difference_p_adjusted: tuple[float, ...]

    @property
    def num_decided_codes(self) -> int:
        """Return how many codes are won or lost."""
        return self.wins + self.losses


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Pearson's r and its two-sided p; NaN for fewer than three pairs or no spread."""

    r: float
    p: float
    num_codes: int  # finite pairs


def wilcoxon_p(difference_C: Floats) -> float:
    """Return the two-sided p of the signed-rank test that differences centre on zero.

    NaN without a code: nothing was tested. 1 where all are ties.
    """
    if not len(difference_C):
        return float("nan")
    # Without a non-zero difference there is nothing to rank, and scipy would return NaN.
    if not np.any(difference_C):
        return 1.0
    return float(stats.wilcoxon(difference_C).pvalue)


def cohens_d(difference_C: Floats) -> float:
    """Return the mean difference in units of the differences' standard deviation (paired d)."""
    if len(difference_C) < 2:
        return float("nan")
    spread = float(difference_C.std(ddof=1))
    return float(difference_C.mean()) / spread if spread > 0 else float("nan")


def correlate(x_C: Floats, y_C: Floats) -> Correlation:
    """Correlate two figures of codes over those that have both."""
    finite = np.isfinite(x_C) & np.isfinite(y_C)
    x, y = x_C[finite], y_C[finite]
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return Correlation(r=float("nan"), p=float("nan"), num_codes=len(x))
    result = stats.pearsonr(x, y)
    return Correlation(r=float(result.statistic), p=float(result.pvalue), num_codes=len(x))


def compare(
    runs: dict[str, Runs],
    *,
    pooled: Figure,
    macro: Figure,
    codes: Sequence[Figure],
    counted_C: Bools,
    first: str,
    second: str,
    family: Family = "further",
) -> Comparison:
    """Compare two methods; the verdict follows from p as it is, until `adjusted` was called.

    Args:
        runs: Of each name.
        pooled: R2 of every run over all values.
        macro: Its mean over counted codes.
        codes: That of each code.
        counted_C: Codes to compare on.
        first: One of the names.
        second: Another of them.
        family: Whether the pair was named beforehand.
    """
    one, other = runs[first], runs[second]
    whole, mean = estimate(pooled, one, other), estimate(macro, one, other)
    each = [estimate(codes[code], one, other) for code in np.flatnonzero(counted_C).tolist()]
    difference_C = np.array([code.value for code in each])
    p_C = benjamini_hochberg([code.p for code in each])
    wins, losses = int((difference_C > 0).sum()), int((difference_C < 0).sum())
    clear_C = p_C < LEVEL
    return Comparison(
        first=first,
        second=second,
        kind="model" if one.is_trained else "baseline",
        family=family,
        num_runs=(_number(one), _number(other)),
        over=whole.over,
        verdict=_verdict(whole.p, whole.value),
        pooled_difference=whole.value,
        pooled_interval=whole.interval,
        p=whole.p,
        p_adjusted=whole.p,
        degrees_of_freedom=whole.degrees_of_freedom,
        macro_difference=mean.value,
        macro_interval=mean.interval,
        num_codes=len(each),
        wins=wins,
        losses=losses,
        ties=len(each) - wins - losses,
        win_rate=wins / (wins + losses) if wins + losses else float("nan"),
        clear_wins=int((clear_C & (difference_C > 0)).sum()),
        clear_losses=int((clear_C & (difference_C < 0)).sum()),
        wilcoxon_p=wilcoxon_p(difference_C),
        cohens_d=cohens_d(difference_C),
        difference=tuple(difference_C.tolist()),
        difference_low=tuple(code.interval[0] for code in each),
        difference_high=tuple(code.interval[1] for code in each),
        difference_p_adjusted=tuple(p_C.tolist()),
    )


def adjusted(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Adjust p and verdicts for how many are asked: Holm in the family, else false discovery."""
    p = np.array([pair.p for pair in comparisons])
    is_primary = np.array([pair.family == "primary" for pair in comparisons], dtype=np.bool_)
    raised = np.full(len(p), np.nan)
    raised[is_primary], raised[~is_primary] = (
        holm(p[is_primary]),
        benjamini_hochberg(p[~is_primary]),
    )
    return tuple(
        replace(pair, p_adjusted=float(own), verdict=_verdict(own, pair.pooled_difference))
        for pair, own in zip(comparisons, raised, strict=True)
    )


def _verdict(p: float, difference: float) -> Verdict:
    if not np.isfinite(p):
        return "undecided"
    if p >= LEVEL:
        return "no clear difference"
    return "better" if difference > 0 else "worse"


def _number(runs: Runs) -> int:
    return len(runs.columns) if runs.is_trained else 0
