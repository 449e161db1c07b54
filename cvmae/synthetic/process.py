"""The law of the synthetic hospital, and everything that it makes known in closed form.

Given its times, a subject's laboratory values are jointly Gaussian. The standardised value of
code c of a subject at time t is

    z_c(t) = severity_c S + sum_k factor_ck F_k(t) + baseline_c B_c + own_c U_c(t) + noise_c e

with S (latent severity), B_c (the subject's own level of a code) and e standard normal, F_k and
U_c Ornstein-Uhlenbeck processes of unit variance. S and F_k are shared by all codes and carry
what one laboratory value says about another. Squared loadings of a code add up to 1, so the
value mean_c + std_c z_c(t) has the mean and std that the code was given. With a CV above about
0.3 some values are negative, as no laboratory value is: kept, since the law would not be
Gaussian, and the best attainable reconstruction not known, without them.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import ndtr, ndtri

from cvmae.arrays import Floats, Ints

__all__ = [
    "CodeLaws",
    "SyntheticConfig",
    "code_laws",
    "code_truth",
    "mix",
    "mortality",
    "normals",
    "uniforms",
]

# Shape letters beside those of `cvmae.arrays`: K shared factors, P panels.

FACTOR_HOURS_K = np.array([18.0, 72.0, 360.0, 2160.0])  # relaxation times of the factors
CODES_PER_PANEL = 6
OUTLIER_FACTOR = 100.0  # a unit slip, as 735 for a pH of 7.35
ILLNESS = np.sqrt(0.5)  # illness = ILLNESS (S + F_0), standard normal
INFORMATIVENESS = 1.0  # a draw is made with chance ndtr(INFORMATIVENESS * illness)
DEATH = (-1.66, 1.0)  # a subject dies with chance ndtr(DEATH[0] + DEATH[1] * S)
UNITS = ("mg/dL", "mmol/L", "mEq/L", "K/uL", "g/dL", "%", "IU/L", "sec")


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Size and kind of a synthetic hospital in MEDS format; made-up data, of no patient."""

    root: str
    """New folder of the data set."""
    num_subjects: int = 1000
    """Subjects over all splits."""
    num_codes: int = 100
    """Laboratory codes."""
    median_measurements: int = 100
    """Median over subjects of laboratory rows."""
    spread: float = 1.2
    """Standard deviation of the logarithm of a subject's laboratory rows (the heavy tail)."""
    max_measurements: int = 60_000
    """Most laboratory rows of a subject; later ones are not written."""
    ordering: Literal["independent", "informative"] = "independent"
    """When blood is drawn: at times that know nothing of the values, or more often when ill."""
    outlier_rate: float = 0.0
    """Share of laboratory values that are 100 times too large (unit slips)."""
    missing_rate: float = 0.02
    """Share of laboratory rows without a value."""
    other_row_share: float = 0.5
    """Share of rows that are no laboratory rows (diagnoses, drugs, copies by ICU charts)."""
    split_shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of subjects in train, tuning and held_out."""
    num_shards: int = 1
    """Shards of train; tuning and held_out get theirs in proportion, one at least."""
    row_group_rows: int = 131_072
    """Rows of a parquet row group; a subject may lie in two."""
    num_processes: int = 1
    """Processes that write shards; what they write does not depend on it."""
    seed: int = 0
    """Seed of everything; a subject's rows depend on it and the subject only."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_subjects", 3, 10**9),
            ("num_codes", 1, 9_000),
            ("median_measurements", 1, 10**6),
            ("max_measurements", 1, 10**7),
            ("num_shards", 1, 10**6),
            ("row_group_rows", 1, 10**9),
            ("num_processes", 1, 1024),
            ("seed", 0, 2**32 - 1),
        ):
            _require(low <= getattr(self, name) <= high, self, name, f"{low} to {high}")
        for name in ("outlier_rate", "missing_rate", "other_row_share"):
            _require(0 <= getattr(self, name) < 1, self, name, "a share from 0 to below 1")
        _require(0 <= self.spread <= 4, self, "spread", "0 to 4")
        _require(
            min(self.split_shares) > 0 and abs(sum(self.split_shares) - 1) < 1e-9,
            self,
            "split_shares",
            "three positive shares that add up to 1",
        )


def _require(condition: bool, config: SyntheticConfig, name: str, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name}={getattr(config, name)!r} is not allowed: give {allowed}")


@dataclass(frozen=True, kw_only=True)
class CodeLaws:
    """Parameters of every laboratory code; loadings are on the standardised value."""

    codes: tuple[str, ...]
    units: tuple[str, ...]
    mean_C: Floats
    std_C: Floats
    severity_C: Floats
    factor_CK: Floats
    baseline_C: Floats
    own_C: Floats
    noise_C: Floats
    own_hours_C: Floats  # relaxation time of the code's own process
    panel_C: Ints  # codes of a panel are measured on one draw of blood
    inclusion_C: Floats  # chance that a draw of the panel includes the code
    panel_weight_P: Floats  # chance that a draw is of the panel

    @property
    def num_codes(self) -> int:
        """Number of laboratory codes."""
        return len(self.codes)

    @property
    def rows_per_draw(self) -> float:
        """Expected laboratory rows of one draw of blood."""
        return float((self.panel_weight_P[self.panel_C] * self.inclusion_C).sum())

    def index(self, codes: tuple[str, ...]) -> Ints:
        """Return where each code stands in these laws (a vocabulary has another order).

        Raises:
            ValueError: A code is none of the synthetic hospital's laboratory codes.
        """
        places = {code: place for place, code in enumerate(self.codes)}
        unknown = [code for code in codes if code not in places]
        if unknown:
            raise ValueError(
                f"{unknown[0]} is not one of the {self.num_codes} laboratory codes of this "
                f"synthetic hospital ({self.codes[0]}, ...): give its own settings and codes"
            )
        return np.array([places[code] for code in codes], dtype=np.int64)


@lru_cache(maxsize=8)
def code_laws(config: SyntheticConfig) -> CodeLaws:
    """Draw the parameters of every code from the seed.

    CVs are spaced geometrically from 0.01 to 1.5 and dealt to the codes at random: neither how
    often nor how predictably a code is measured goes with its CV.
    """
    num_codes = config.num_codes
    key, code_C = np.uint64(config.seed), np.arange(num_codes, dtype=np.int64)

    def draw(stream: int, low: float, high: float) -> Floats:
        return low + (high - low) * uniforms(key, stream, code_C)

    cv_C = np.geomspace(0.01, 1.5, num_codes)[np.argsort(draw(1, 0, 1), kind="stable")]
    mean_C = np.exp(draw(2, np.log(0.5), np.log(300.0)))
    # Shares of variance: severity, factors, baseline, own process, noise.
    share_5C = np.stack(
        [
            draw(3, 0.15, 0.35),
            draw(4, 0.30, 0.50),
            draw(5, 0.05, 0.20),
            draw(6, 0.05, 0.15),
            draw(7, 0.05, 0.15),
        ]
    )
    share_5C /= share_5C.sum(axis=0)
    num_factors = len(FACTOR_HOURS_K)
    # The third power makes one or two factors dominate a code, as organs do.
    mix_CK = np.stack([draw(8 + k, 0, 1) ** 3 for k in range(num_factors)], axis=1)
    # Most values rise with illness, as most of a laboratory's do; one loading in five is negative.
    sign_CK = np.stack([np.sign(draw(20 + k, -0.25, 1)) for k in range(num_factors)], axis=1)
    mix_CK /= mix_CK.sum(axis=1, keepdims=True)
    num_panels = -(-num_codes // CODES_PER_PANEL)
    panel_weight_P = 1.0 / (np.arange(num_panels) + 10)
    units = tuple(UNITS[c % len(UNITS)] for c in range(num_codes))
    return CodeLaws(
        codes=tuple(f"LAB//{50_800 + c}//{unit}" for c, unit in enumerate(units)),
        units=units,
        mean_C=mean_C,
        std_C=mean_C * cv_C,
        severity_C=np.sqrt(share_5C[0]) * np.sign(draw(30, -0.25, 1)),
        factor_CK=np.sqrt(share_5C[1][:, None] * mix_CK) * sign_CK,
        baseline_C=np.sqrt(share_5C[2]),
        own_C=np.sqrt(share_5C[3]),
        noise_C=np.sqrt(share_5C[4]),
        own_hours_C=np.exp(draw(31, np.log(12.0), np.log(480.0))),
        panel_C=code_C * num_panels // num_codes,
        inclusion_C=draw(32, 0.6, 1.0),
        panel_weight_P=panel_weight_P / panel_weight_P.sum(),
    )


def code_truth(config: SyntheticConfig) -> pa.Table:
    """Return what is known of every code: a row each, in the order of the code's number.

    ``mean``, ``std`` and ``cv`` belong to the process. ``observed_*`` belong to the values in
    the files: illness draws blood more often under informative ordering, and outliers multiply
    values by 100. Without both they are the same. ``share`` is the code's share of laboratory
    rows.
    """
    laws = code_laws(config)
    mean_C, std_C = laws.mean_C, laws.std_C
    if config.ordering == "informative":
        # A draw is made with chance ndtr(b I), I ~ N(0, 1): given that it is made, a value that
        # correlates with I is skew-normal, with these moments.
        rho_C = ILLNESS * (laws.severity_C + laws.factor_CK[:, 0])
        shift_C = rho_C * INFORMATIVENESS / np.hypot(1, INFORMATIVENESS) * np.sqrt(2 / np.pi)
        mean_C = mean_C + std_C * shift_C
        std_C = std_C * np.sqrt(1 - shift_C**2)
    rate = config.outlier_rate
    second_C = (mean_C**2 + std_C**2) * (1 + rate * (OUTLIER_FACTOR**2 - 1))
    mean_C = mean_C * (1 + rate * (OUTLIER_FACTOR - 1))
    std_C = np.sqrt(second_C - mean_C**2) if rate > 0 else std_C
    rows_C = laws.panel_weight_P[laws.panel_C] * laws.inclusion_C
    return pa.table(
        {
            "code": pa.array(laws.codes, pa.string()),
            "mean": laws.mean_C,
            "std": laws.std_C,
            "cv": laws.std_C / laws.mean_C,
            "observed_mean": mean_C,
            "observed_std": std_C,
            "observed_cv": std_C / np.abs(mean_C),
            "share": rows_C / rows_C.sum(),
            "severity_loading": laws.severity_C,
            "factor_loadings": pa.array(list(laws.factor_CK), pa.list_(pa.float64())),
            "baseline_loading": laws.baseline_C,
            "own_loading": laws.own_C,
            "noise_loading": laws.noise_C,
            "own_hours": laws.own_hours_C,
        }
    )


def mortality() -> float:
    """Return the expected share of subjects that die."""
    low, slope = DEATH
    return float(ndtr(low / np.hypot(1, slope)))


def uniforms(key_N: npt.NDArray[np.uint64] | np.uint64, stream: int, counter_N: Ints) -> Floats:
    """Draw from (0, 1), each number a function of its key, stream and counter only.

    SplitMix64 at place ``counter`` of the sequence that starts at hash(key, stream).
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        start_N = mix(np.asarray(key_N, dtype=np.uint64) + _GOLDEN * np.uint64(stream + 1))
        bits_N = mix(start_N + _GOLDEN * counter_N.astype(np.uint64))
    return ((bits_N >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normals(key_N: npt.NDArray[np.uint64], stream: int, counter_N: Ints) -> Floats:
    """Draw standard normal numbers, as `uniforms` does."""
    return np.asarray(ndtri(uniforms(key_N, stream, counter_N)), dtype=np.float64)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(state_N: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64 bits (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        state_N = (state_N ^ (state_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state_N = (state_N ^ (state_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state_N ^ (state_N >> np.uint64(31))
