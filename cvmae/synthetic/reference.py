"""How well hidden values of the synthetic hospital can be reconstructed at best.

Given its times a sequence's values are jointly Gaussian with a covariance known in closed form
(`synthetic_process`), so no estimate of a hidden value has a smaller squared error than its
conditional mean given the visible values, and that error is the conditional variance. This
holds under independent ordering and without outliers; elsewhere the same figure is no bound and
is called the Gaussian reference.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from cvmae.arrays import Bools, Floats, Ints
from cvmae.synthetic.process import (
    FACTOR_HOURS_K,
    CodeLaws,
    SyntheticConfig,
    code_laws,
)

__all__ = [
    "Attainable",
    "attainable_r2",
    "conditional_variance",
    "covariance",
    "reference_name",
    "single_variance",
]

# Shape letters beside those of `cvmae.arrays`: N measurements of one sequence.


@dataclass(frozen=True, kw_only=True)
class Attainable:
    """Best reconstruction of the hidden values that were given, on standardised values."""

    name: str  # "best attainable R2", or "Gaussian reference" where it is no bound
    num_hidden_C: Ints
    r2_C: Floats  # of each code; NaN without hidden values
    r2_pooled: float  # over all hidden values
    r2_macro: float  # mean over codes with `min_scored` hidden values or more


def reference_name(config: SyntheticConfig) -> str:
    """Return what `attainable_r2` computes for this hospital: a bound or a reference."""
    exact = config.ordering == "independent" and config.outlier_rate == 0
    return "best attainable R2" if exact else "Gaussian reference"


def covariance(laws: CodeLaws, code_N: Ints, minutes_N: Ints) -> Floats:
    """Return the covariance [N, N] of one subject's standardised values.

    Args:
        laws: `code_laws` of the hospital.
        code_N: Number of each measurement's code in ``laws``.
        minutes_N: Times in minutes; only differences matter.
    """
    hours_NN = np.abs(minutes_N[:, None] - minutes_N[None, :]) / 60.0
    severity_N, factor_NK = laws.severity_C[code_N], laws.factor_CK[code_N]
    total_NN = np.outer(severity_N, severity_N)
    for k, relaxation_hours in enumerate(FACTOR_HOURS_K):
        loading_N = factor_NK[:, k]
        total_NN += np.outer(loading_N, loading_N) * np.exp(-hours_NN / relaxation_hours)
    own_NN = laws.own_C[code_N] ** 2 * np.exp(-hours_NN / laws.own_hours_C[code_N])
    same_NN = code_N[:, None] == code_N[None, :]
    total_NN += np.where(same_NN, laws.baseline_C[code_N] ** 2 + own_NN, 0.0)
    total_NN[np.diag_indices(len(code_N))] += laws.noise_C[code_N] ** 2
    return total_NN


def conditional_variance(laws: CodeLaws, code_N: Ints, minutes_N: Ints, hidden_N: Bools) -> Floats:
    """Return the variance [M] of each hidden standardised value given the visible values.

    Arguments are those of `covariance` for one sequence; ``hidden_N`` is True where a value is
    hidden. Without visible values the variances are 1; without hidden ones there are none.
    """
    total_NN = covariance(laws, code_N, minutes_N)
    across_VM = total_NN[np.ix_(~hidden_N, hidden_N)]
    prior_M = np.diag(total_NN)[hidden_N]
    if across_VM.size == 0:
        return prior_M
    # Noise of every measurement keeps the matrix well conditioned.
    factor = cho_factor(total_NN[np.ix_(~hidden_N, ~hidden_N)], lower=True)
    explained_M: Floats = np.einsum("vm,vm->m", across_VM, cho_solve(factor, across_VM))
    return np.asarray(prior_M - explained_M)


def single_variance(laws: CodeLaws, code_N: Ints, minutes_N: Ints) -> Floats:
    """Return the variance [N] of each standardised value given all others of the sequence.

    That of `conditional_variance` with one value hidden, of every value at once: the inverse of
    the diagonal of the inverse covariance.
    """
    factor = cho_factor(covariance(laws, code_N, minutes_N), lower=True)
    inverse_NN = cho_solve(factor, np.eye(len(code_N)))
    return np.asarray(1.0 / np.diag(inverse_NN))


def attainable_r2(
    config: SyntheticConfig,
    codes: Sequence[str],
    sequences: Iterable[tuple[npt.NDArray[np.integer], Ints, Bools]],
    *,
    min_scored: int = 1,
) -> Attainable:
    """Return the best R2 that any model can reach on these hidden values, in expectation.

    Args:
        config: Settings of the hospital (`read_synthetic_config`).
        codes: The vocabulary: the MEDS code of each ``code_index``.
        sequences: Of each sequence ``code_index_N``, ``time_us_N`` and ``hidden_N``, as the
            model is given them.
        min_scored: Hidden values that a code needs to count in the macro average.

    Raises:
        ValueError: A code is none of the hospital's laboratory codes.
    """
    laws = code_laws(config)
    place_C = laws.index(tuple(codes))
    error_C, count_C = np.zeros(len(codes)), np.zeros(len(codes), dtype=np.int64)
    for code_index_N, time_us_N, hidden_N in sequences:
        minutes_N = time_us_N // 60_000_000
        variance_M = conditional_variance(laws, place_C[code_index_N], minutes_N, hidden_N)
        hidden_codes_M = code_index_N[hidden_N]
        error_C += np.bincount(hidden_codes_M, variance_M, minlength=len(codes))
        count_C += np.bincount(hidden_codes_M, minlength=len(codes))
    # Standardised values have variance 1, so a code's expected R2 is 1 - its mean variance.
    r2_C = 1 - np.divide(error_C, count_C, out=np.full(len(codes), np.nan), where=count_C > 0)
    scored_C = count_C >= max(1, min_scored)
    return Attainable(
        name=reference_name(config),
        num_hidden_C=count_C,
        r2_C=r2_C,
        r2_pooled=float(1 - error_C.sum() / count_C.sum()) if count_C.any() else np.nan,
        r2_macro=float(r2_C[scored_C].mean()) if scored_C.any() else np.nan,
    )
