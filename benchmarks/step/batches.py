"""Steps of random values whose lengths are those of patients, packed or padded."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Bools, Ints
from cvmae.batches.batch import Batch, make_batch
from cvmae.batches.masking import hidden_counts
from cvmae.batches.sequences import Sequences, cut_windows
from cvmae.config import PRESETS
from cvmae.meds.measurements import Measurements

__all__ = ["NUM_CODES", "Step", "cut", "draw_steps", "quantiles", "to_batch", "to_padded"]

# Measurements a patient are lognormal, as in MIMIC-IV.
MEDIAN, SIGMA, MOST = 100, 1.65, 60_000
NUM_CODES = 100


@dataclass(frozen=True, kw_only=True)
class Step:
    """How long the sequences of a step are, and how many values of each are hidden."""

    length_W: Ints
    num_hidden_W: Ints

    @property
    def num_measurements(self) -> int:
        """Return the measurements, padding apart."""
        return int(self.length_W.sum())


def quantiles(num_subjects: int) -> Ints:
    """Return the measurements of so many patients, fewest first.

    Quantiles of the distribution, not draws: few patients hold most measurements, and draws
    would differ by how many of these they happen to have.
    """
    inverse = NormalDist(np.log(MEDIAN), SIGMA).inv_cdf
    draws = [inverse((number + 0.5) / num_subjects) for number in range(num_subjects)]
    return np.clip(np.exp(draws), 2, MOST).astype(np.int64)


def cut(num_measurements_S: Ints) -> Sequences:
    """Cut patients of so many measurements into windows, as training does."""
    subjects = np.arange(len(num_measurements_S))
    offsets_S = np.concatenate([[0], np.cumsum(num_measurements_S)])
    measurements = Measurements(
        subject_id_S=subjects,
        offsets_S=offsets_S,
        code_index_N=np.empty(0, np.int32),
        time_us_N=np.empty(0, np.int64),
        numeric_value_N=np.empty(0, np.float32),
    )
    return cut_windows(measurements, PRESETS["paper"].data.sequence_length)


def draw_steps(num_measurements: int, *, seed: int) -> Iterator[Step]:
    """Yield steps of about so many measurements (within a quarter of a window), for ever."""
    length_P = cut(quantiles(2000)).length_W
    ratio = PRESETS["paper"].mask.ratio
    for number in range(10**9):
        order = np.random.default_rng((seed, number)).permutation(len(length_P))
        ends = np.cumsum(length_P[order])
        while ends[-1] < num_measurements:  # a large step draws the same windows again
            order = np.concatenate([order, order])
            ends = np.cumsum(length_P[order])
        chosen = order[: 1 + int(np.abs(ends - num_measurements).argmin())]
        length_W, own = length_P[chosen], np.arange(len(chosen))
        hidden_W = hidden_counts(own, own, length_W, ratio=ratio, seed=seed, epoch=number)
        yield Step(length_W=length_W, num_hidden_W=hidden_W)


def to_batch(step: Step, *, seed: int) -> Batch:
    """Fill the sequences with random codes, times and values."""
    rng = np.random.default_rng(seed)
    total = step.num_measurements
    hidden: list[Bools] = [
        rng.permutation(length) < count
        for length, count in zip(step.length_W, step.num_hidden_W, strict=True)
    ]
    columns: dict[str, npt.NDArray[Any]] = {
        "code_index_N": rng.integers(0, NUM_CODES, total),
        "minutes_N": rng.integers(0, 100_000, total),
        "value_N": rng.standard_normal(total, np.float32),
    }
    return make_batch(lengths_B=step.length_W, hidden_N=np.concatenate(hidden), **columns)


def to_padded(step: Step) -> Step:
    """Make all as long as the longest, and hide as many values of each as of the most hidden.

    The model then does the work, in linear layers and attention, that padding would cost it.
    """
    most_hidden = step.num_hidden_W.max()
    most_visible = (step.length_W - step.num_hidden_W).max()
    return Step(
        length_W=np.full_like(step.length_W, most_hidden + most_visible),
        num_hidden_W=np.full_like(step.num_hidden_W, most_hidden),
    )
