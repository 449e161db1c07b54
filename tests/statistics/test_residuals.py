"""Quantiles of residuals: of the right level, and never of single patients."""

import numpy as np
import pytest

from cvmae.statistics.residuals import FEWEST_SUBJECTS, Residuals, interval_ranks

CODES = ("common", "rare", "of few subjects")


def fitted(rng, level=0.95):
    code_Q = np.repeat([0, 1, 2], [2000, 200, 2000])
    residual_Q = rng.normal(size=4200) * np.repeat([1.0, 3.0, 9.0], [2000, 200, 2000])
    order = rng.permutation(4200)
    subjects = np.array([50, 50, FEWEST_SUBJECTS - 1])
    return Residuals.of(residual_Q[order], code_Q[order], subjects, 60, CODES, level)


def test_a_further_value_is_held_as_often_as_the_level_says(rng):
    held = []
    for _ in range(400):
        own = Residuals.of(rng.normal(size=300), np.zeros(300, int), np.array([40]), 40, "a", 0.9)
        value = rng.normal(size=50)
        held.append(np.mean((own.low_C[0] <= value) & (value <= own.high_C[0])))
    # Exact on average; 5 standard errors of such means are below 0.01.
    assert np.mean(held) == pytest.approx(0.9, abs=0.01)


def test_codes_with_too_few_values_or_subjects_have_those_of_all(rng):
    own = fitted(rng)
    assert own.is_own_C.tolist() == [True, False, False]
    assert own.count_C.tolist() == [2000, 200, 2000]
    assert own.high_C[0] == pytest.approx(1.96, abs=0.3)
    assert own.high_C[1] == own.high_C[2] > 5
    assert np.array_equal(own.low_C < 0, [True] * 3)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99, 0.999])
def test_no_end_is_one_of_the_last_five_values(level):
    for num_values in (99, 100, 238, 239, 1000, 20_000):
        ranks = interval_ranks(num_values, level)
        if ranks is not None:
            assert num_values >= 100
            assert ranks[0] >= 5
            assert ranks[1] <= num_values - 1 - 5
    assert interval_ranks(100, 0.5) is not None
    assert (interval_ranks(238, 0.95), interval_ranks(1000, 0.999)) == (None, None)


def test_too_few_values_of_all_codes_have_no_quantiles():
    few = Residuals.of(np.arange(50.0), np.zeros(50, int), np.array([50]), 50, ("a",), 0.95)
    assert np.isnan([few.low_C, few.high_C]).all()
    none = Residuals.of(np.empty(0), np.empty(0, int), np.array([0]), 0, ("a",), 0.95)
    assert none.count_C.tolist() == [0]


def test_what_is_written_is_read(rng, tmp_path):
    own = fitted(rng, level=0.9)
    own.write(tmp_path / "residuals.parquet")
    read = Residuals.read(tmp_path / "residuals.parquet")
    assert (read.level, read.codes) == (0.9, CODES)
    for name in ("low_C", "high_C", "count_C", "is_own_C"):
        assert np.array_equal(getattr(read, name), getattr(own, name))
    (tmp_path / "text").write_text("no parquet")
    with pytest.raises(ValueError, match="holds no quantiles of residuals"):
        Residuals.read(tmp_path / "text")
