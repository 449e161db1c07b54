"""Code statistics -> mask weight of each code: the policies of volatility-aware masking.

A policy gives weights (`policy_weights`), settings temper them (`tempered`), and an epoch hides by
what comes out (`EpochWeights`). sigma and mu are of clipped values of train; workshop and later
version are those of the paper, arXiv 2512.05216.

* ``random``: 1 (workshop, 2.3).
* ``variance``: sigma^2 (workshop, 2.3).
* ``cv``: sigma / |mu| (workshop, 2.3).
* ``cv_two_level``: 0.8 where the CV is above its 75th percentile over codes, else 0.2 (later
  version); see `_two_levels`.
* ``robust_cv``: 1.4826 MAD / |median|, which outliers do not move (for the factor Rousseeuw and
  Croux 1993).
* ``within_subject_cv``: root of the pooled variance around each subject's own mean / |mu|: how a
  lab moves in a patient, not how patients differ (as in studies of biological variation).
* ``entropy``: Shannon entropy of z, see `statistics.entropy` (a next check that the paper's summary
  names).
* ``shuffled_cv``: CVs of other codes of similar frequency; see `_shuffled` (a control).
* ``inverse_cv``: |mu| / sigma: stable codes most often (a control).
* ``table``: a user's own, from `mask.weights_file`.
* ``adaptive``: 1 in the first epoch, then the error of the epoch before (`_by_error`).
"""

from dataclasses import dataclass
from typing import Protocol, assert_never

import numpy as np

from cvmae.arrays import Float32s, Floats, Ints
from cvmae.batches.code_metrics import CodeMetrics
from cvmae.batches.keys import stream_keys, uniform
from cvmae.settings import MaskConfig
from cvmae.statistics.code_statistics import CodeStatistics, flagged_codes

__all__ = [
    "ChangingWeights",
    "EpochWeights",
    "FixedWeights",
    "epoch_weights",
    "mask_weights",
    "policy_weights",
    "sharpness_of",
    "tempered",
]

FLOOR = 1e-6  # of the largest weight: no code is never hidden
ALIKE = 5  # codes of similar frequency, about, among which shuffled_cv permutes weights


class EpochWeights(Protocol):
    """Mask weight of each code in each epoch, on every rank the same."""

    def change_after(self, epoch: int) -> bool:
        """Tell whether any later epoch's weights may differ from this one's: none is read ahead."""
        ...

    def of_epoch(self, epoch: int, last: CodeMetrics | None) -> Float32s | None:
        """Return the weights of an epoch, from 0 on; None: all equal.

        Args:
            epoch: That comes.
            last: What the epoch before has shown, which a checkpoint holds, so that a resumed run
                hides what it would have hidden; None before the first.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedWeights:
    """The same weights in every epoch."""

    weight_C: Float32s | None

    def change_after(self, epoch: int) -> bool:
        """Return that they never do."""
        return False

    def of_epoch(self, epoch: int, last: CodeMetrics | None) -> Float32s | None:
        """Return the weights, whatever came before."""
        return self.weight_C


@dataclass(frozen=True, kw_only=True, eq=False)
class ChangingWeights:
    """Weights that follow from the epoch before, or whose sharpness moves (or both)."""

    weight_C: Floats | None  # of the policy; None: adaptive
    num_values_C: Ints
    mask: MaskConfig

    def change_after(self, epoch: int) -> bool:
        """Return True for adaptive ones, and for others until sharpness has arrived."""
        return self.weight_C is None or epoch < self.mask.anneal_epochs

    def of_epoch(self, epoch: int, last: CodeMetrics | None) -> Float32s | None:
        """Return the weights of the epoch, tempered by its sharpness."""
        weight_C = self.weight_C
        if weight_C is None:
            if last is None:
                return None
            weight_C = _by_error(last.train_mse_C)
        sharpness, uniform_share = sharpness_of(self.mask, epoch), self.mask.uniform_share
        return tempered(weight_C, self.num_values_C, sharpness, uniform_share)


def sharpness_of(mask: MaskConfig, epoch: int) -> float:
    """Return the sharpness of an epoch, from 0 on: its end from `mask.anneal_epochs` on."""
    if epoch >= mask.anneal_epochs:
        return mask.sharpness
    moved = epoch / mask.anneal_epochs
    return mask.anneal_from + (mask.sharpness - mask.anneal_from) * moved


def epoch_weights(
    statistics: CodeStatistics, mask: MaskConfig, *, seed: int, table_C: Floats | None = None
) -> EpochWeights:
    """Return the weights of every epoch; see `policy_weights` for arguments and errors."""
    if mask.policy == "random":
        return FixedWeights(weight_C=None)
    if mask.policy == "adaptive":
        return ChangingWeights(weight_C=None, num_values_C=statistics.num_values, mask=mask)
    if mask.anneal_epochs:
        weight_C = policy_weights(statistics, mask, seed=seed, table_C=table_C)
        return ChangingWeights(weight_C=weight_C, num_values_C=statistics.num_values, mask=mask)
    return FixedWeights(weight_C=mask_weights(statistics, mask, seed=seed, table_C=table_C))


def mask_weights(
    statistics: CodeStatistics, mask: MaskConfig, *, seed: int = 0, table_C: Floats | None = None
) -> Float32s:
    """Return a policy's weights as values are hidden by, tempered and at their full sharpness.

    The largest is 1, and equal ones come out as exactly 1, so that masks equal those of ``random``
    bit for bit. Where `mask.draws_independently` they are the chances themselves.
    """
    weight_C = policy_weights(statistics, mask, seed=seed, table_C=table_C)
    if mask.draws_independently:
        return weight_C.astype(np.float32)
    return tempered(weight_C, statistics.num_values, mask.sharpness, mask.uniform_share)


def tempered(
    weight_C: Floats, num_values_C: Ints, sharpness: float, uniform_share: float
) -> Float32s:
    """Return (1 - s) w^p / (mean of w^p over the values of train) + s, the largest being 1.

    Weights proportional to CVs of 0.01 to 5 hide stable codes almost never: p = `mask.sharpness`
    brings them together (0: all alike), and s = `mask.uniform_share` lets each code be hidden at
    s times the rate of `random` or more. No weight is below a millionth of the largest.

    Args:
        weight_C: From 0, not all 0.
        num_values_C: Of train.
        sharpness: Power, from 0.
        uniform_share: From 0 to 1.
    """
    if sharpness != 1:
        weight_C = (weight_C / weight_C.max()) ** sharpness
    if uniform_share > 0:
        mean = np.average(weight_C, weights=num_values_C)
        weight_C = (1 - uniform_share) * weight_C / mean + uniform_share
    weight_C = np.maximum(weight_C, FLOOR * weight_C.max())
    return np.asarray(weight_C / weight_C.max(), np.float32)


def policy_weights(
    statistics: CodeStatistics, mask: MaskConfig, *, seed: int, table_C: Floats | None = None
) -> Floats:
    """Return how often a policy wants each code's values hidden; only ratios between codes matter.

    The list above has the formulas. Weights that are divided by a mean or a median do not depend on
    units of measurement, those of ``variance`` do; a code whose mean says nothing about its scale
    (see `flagged_codes`) gets, where one is divided by, the median weight of the others.

    Args:
        statistics: Of train.
        mask: Policy and its settings.
        seed: Of the run; only ``shuffled_cv`` draws.
        table_C: What the file says of each code, above 0; for ``table``.

    Returns:
        Weights from 0; chances where `mask.draws_independently`.

    Raises:
        ValueError: The statistics are too old to know an entropy.
    """
    match mask.policy:
        case "random" | "adaptive":
            return np.ones(statistics.num_codes)
        case "variance":
            return statistics.std**2
        case "cv":
            return _or_median(statistics.cv, statistics)
        case "cv_two_level":
            return _two_levels(statistics, mask)
        case "robust_cv":
            return _or_median(statistics.robust_cv, statistics)
        case "within_subject_cv":
            return _or_median(statistics.within_subject_cv, statistics)
        case "entropy":
            return _known_entropy(statistics)
        case "shuffled_cv":
            cv_C = _or_median(statistics.cv, statistics)
            return _shuffled(cv_C, statistics.num_values, seed)
        case "inverse_cv":
            return _or_median(1 / statistics.cv, statistics)
        case "table":
            assert table_C is not None, "read before anything is started"
            return table_C
        case _:
            assert_never(mask.policy)


def _or_median(weight_C: Floats, statistics: CodeStatistics) -> Floats:
    """Give flagged codes, and those without a weight, the median of the others.

    Divided by a mean near zero a weight is any number: base excess would be the most hidden code
    of a hospital. Where no code can be trusted, all are treated alike.
    """
    trusted_C = ~flagged_codes(statistics) & np.isfinite(weight_C)
    if not trusted_C.any():
        return np.ones_like(weight_C)
    return np.where(trusted_C, weight_C, np.median(weight_C[trusted_C]))


def _two_levels(statistics: CodeStatistics, mask: MaskConfig) -> Floats:
    """Return the upper level for codes whose CV is above a quantile over codes, else the lower.

    Strictly above, and over codes, not rows: the later version states neither. Its levels, 0.8 and
    0.2, are chances, and the overall ratio follows from the data: 0.25 where the volatile codes
    are 8.3% of the rows, 0.35 where they are a quarter. With `mask.two_level_ratio` matched they
    are weights of 4 to 1 at `mask.ratio`, which can be compared with other policies. The quantile
    is that of the codes that are not flagged.
    """
    high, low = mask.two_level_chances
    trusted_C = ~flagged_codes(statistics)
    if not trusted_C.any():
        return np.full(statistics.num_codes, low)
    limit = np.quantile(statistics.cv[trusted_C], mask.two_level_quantile)
    return np.where(_or_median(statistics.cv, statistics) > limit, high, low)


def _known_entropy(statistics: CodeStatistics) -> Floats:
    if np.isnan(statistics.entropy).any():
        raise ValueError(
            "mask.policy=entropy needs the entropy of each code, which these statistics lack: they "
            "were fitted by an earlier version. Fit them again (jobs/fit_statistics.py, or a new "
            "output_dir with data.statistics empty), or take another policy"
        )
    return statistics.entropy


def _shuffled(weight_C: Floats, num_values_C: Ints, seed: int) -> Floats:
    """Give each code the weight of another one that has about as many values.

    Codes in order of their number of values are cut into blocks of about five, and each block's
    weights go round in one random cycle (Sattolo 1986), so that no code keeps its own. How often
    values are hidden overall stays about the same, and with which code they belong together is
    lost: what `cv` does beyond that, volatility does. Every seed has cycles of its own.
    """
    by_count_C = np.argsort(-num_values_C, kind="stable")
    draw_C = uniform(stream_keys(seed, 0, np.arange(len(weight_C)), stream="shuffle"))
    shuffled_C = np.empty_like(weight_C)
    first = 0
    for block in np.array_split(by_count_C, max(1, round(len(weight_C) / ALIKE))):
        source = block.copy()
        for last in range(len(block) - 1, 0, -1):
            place = int(draw_C[first + last] * last)  # below `last`: one cycle through all
            source[[last, place]] = source[[place, last]]
        shuffled_C[block] = weight_C[source]
        first += len(block)
    return shuffled_C


def _by_error(train_mse_C: Floats) -> Floats:
    """Return the epoch's mean squared error on z of each code's hidden values.

    A code of which none was hidden gets the median of the others. What is hard to restore is
    hidden more often (after self-paced and automated curricula: Graves et al. 2017).
    """
    known_C = np.isfinite(train_mse_C)
    if not known_C.any() or not train_mse_C[known_C].any():
        return np.ones_like(train_mse_C)
    return np.where(known_C, train_mse_C, np.median(train_mse_C[known_C]))
