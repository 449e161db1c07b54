"""What can be restored at best under each column, where the data are the synthetic hospital's."""

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cvmae.arrays import Floats, Ints
from cvmae.batches.columns import LEAVE_ONE_OUT, Column
from cvmae.batches.evaluation import EvaluationBatch, column_batches
from cvmae.meds.dataset import Source
from cvmae.meds.reading import read_unit
from cvmae.meds.units import Unit
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.storage.folders import is_file, join
from cvmae.storage.places import is_remote
from cvmae.synthetic.hospital import read_synthetic_config
from cvmae.synthetic.process import CodeLaws, SyntheticConfig, code_laws
from cvmae.synthetic.reference import conditional_variance, reference_name, single_variance

__all__ = ["Truth", "find_truth", "merge_unexplained", "truth_of", "unexplained_of_unit"]

SETTINGS_FILE = "metadata/synthetic.json"

logger = logging.getLogger("cvmae")

# Shape letters beside those of `cvmae.arrays`: J columns.


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What is known of the codes of a synthetic hospital."""

    name: str  # what the best R2 is called: see `reference_name`
    cv_C: Floats
    r2_JC: Floats  # best R2 of the scored values of each column; NaN where there is none
    pooled_J: Floats


def find_truth(root: str, statistics: CodeStatistics) -> SyntheticConfig | None:
    """Return the settings of the hospital that a data set is, None where it is none.

    The truth is known of a data set on this machine that `synthesize` wrote, and of a vocabulary
    of its own codes, one by one.
    """
    if is_remote(root) or not is_file(join(root, SETTINGS_FILE)):
        return None
    try:
        config = read_synthetic_config(root)
        code_laws(config).index(statistics.codes)
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("what can be attained on %s is not known (%s)", root, error)
        return None
    if any(len(members) > 1 for members in statistics.members):
        logger.warning("what can be attained is not known of entries of several codes")
        return None
    return config


def unexplained_of_unit(
    unit: Unit,
    *,
    source: Source,
    split: str,
    seed: int,
    statistics: CodeStatistics,
    sequence_length: int,
    columns: Sequence[Column],
    config: SyntheticConfig,
) -> Floats:
    """Return the squared error that no estimate can avoid, by column and code, and its count.

    Returns:
        Expected sums of squared errors on z and numbers of scored values, ``[J, 2, C]``.
    """
    measurements, _ = read_unit(source, unit, statistics.lookup, split)
    laws = code_laws(config)
    found_JXC = np.zeros((len(columns), 2, statistics.num_codes))
    for place, column in enumerate(columns):
        for batch in column_batches(
            measurements, statistics, column, sequence_length=sequence_length, seed=seed
        ):
            _add_batch(found_JXC[place], batch, column, laws, laws.index(statistics.codes))
    return found_JXC


def _add_batch(
    found_XC: Floats, batch: EvaluationBatch, column: Column, laws: CodeLaws, place_C: Ints
) -> None:
    hidden_M, scored_M = batch.batch.hidden_M.numpy(), batch.scored_M
    hidden_N = np.zeros(batch.batch.num_measurements, dtype=np.bool_)
    hidden_N[hidden_M] = True
    variance_M = np.empty(len(hidden_M))
    minutes_N = batch.time_us_N // 60_000_000
    ends_B = zip(
        itertools.pairwise(batch.batch.offsets_B.tolist()),
        itertools.pairwise(batch.batch.hidden_offsets_B.tolist()),
        strict=True,
    )
    window, single_N = b"", np.zeros(0)
    for (first, last), (begin, end) in ends_B:
        own = slice(first, last)
        code_N, at_N = place_C[batch.code_index_N[own]], minutes_N[own]
        if column.kind != LEAVE_ONE_OUT:
            variance_M[begin:end] = conditional_variance(laws, code_N, at_N, hidden_N[own])
            continue
        # The targets of a window follow one another, and one inverse serves all of them.
        if (key := code_N.tobytes() + at_N.tobytes()) != window:
            window, single_N = key, single_variance(laws, code_N, at_N)
        variance_M[begin:end] = single_N[hidden_N[own]]
    code_M = batch.code_index_N[hidden_M][scored_M]
    num_codes = found_XC.shape[1]
    found_XC[0] += np.bincount(code_M, variance_M[scored_M], minlength=num_codes)
    found_XC[1] += np.bincount(code_M, minlength=num_codes)


def merge_unexplained(parts: Iterable[Floats]) -> Floats:
    """Add what units gave."""
    return np.asarray(sum(parts), dtype=np.float64)


def truth_of(unexplained_JXC: Floats, config: SyntheticConfig, statistics: CodeStatistics) -> Truth:
    """Turn sums of unavoidable errors into the best R2 by column and code."""
    laws = code_laws(config)
    place_C = laws.index(statistics.codes)
    error_JC, count_JC = unexplained_JXC[:, 0], unexplained_JXC[:, 1]
    # Standardised values have variance 1: the share that is left is the mean variance.
    left_JC = np.divide(error_JC, count_JC, out=np.full_like(error_JC, np.nan), where=count_JC > 0)
    total_J = count_JC.sum(axis=1)
    pooled_J = np.divide(
        error_JC.sum(axis=1), total_J, out=np.full(len(total_J), np.nan), where=total_J > 0
    )
    return Truth(
        name=reference_name(config),
        cv_C=(laws.std_C / np.abs(laws.mean_C))[place_C],
        r2_JC=1 - left_JC,
        pooled_J=1 - pooled_J,
    )
