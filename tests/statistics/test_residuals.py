"""Quantiles of residuals: of the right level, and never of single patients."""

import numpy as np
import pytest

from cvmae.statistics.residual_sample import ResidualSample
from cvmae.statistics.residuals import FEWEST_SUBJECTS, Residuals, interval_ranks

CODES = ("common", "rare", "of few subjects")


def sample_of(residual_Q, code_Q, subjects_C, num_subjects):
    """Residuals that are all kept, whatever their draws."""
    return ResidualSample(
        code_Q=np.asarray(code_Q, np.int32),
        residual_Q=residual_Q,
        draw_Q=np.zeros(len(residual_Q), np.uint32),
        count_C=np.bincount(code_Q, minlength=len(subjects_C)),
        subjects_C=np.array(subjects_C),
        num_subjects=num_subjects,
    )


def fitted(rng, level=0.95):
    code_Q = np.repeat([0, 1, 2], [2000, 200, 2000])
    residual_Q = rng.normal(size=4200) * np.repeat([1.0, 3.0, 9.0], [2000, 200, 2000])
    order = rng.permutation(4200)
    subjects = [50, 50, FEWEST_SUBJECTS - 1]
    sample = sample_of(residual_Q[order], code_Q[order], subjects, 60)
    return Residuals.of(sample, CODES, level, past_only=True)


def test_a_further_value_is_held_as_often_as_the_level_says(rng):
    held = []
    for _ in range(400):
        sample = sample_of(rng.normal(size=300), np.zeros(300, int), [40], 40)
        own = Residuals.of(sample, "a", 0.9, past_only=False)
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
    fifty = sample_of(np.arange(50.0), np.zeros(50, int), [50], 50)
    few = Residuals.of(fifty, ("a",), 0.95, past_only=False)
    assert np.isnan([few.low_C, few.high_C]).all()
    none = Residuals.of(ResidualSample.total([], 1), ("a",), 0.95, past_only=False)
    assert none.count_C.tolist() == [0]
    assert np.isnan(none.low_C).all()


def test_what_is_written_is_read(rng, tmp_path):
    own = fitted(rng, level=0.9)
    own.write(tmp_path / "residuals.parquet")
    read = Residuals.read(tmp_path / "residuals.parquet")
    assert (read.level, read.past_only, read.codes) == (0.9, True, CODES)
    for name in ("low_C", "high_C", "count_C", "is_own_C"):
        assert np.array_equal(getattr(read, name), getattr(own, name))
    (tmp_path / "text").write_text("no parquet")
    with pytest.raises(ValueError, match="holds no quantiles of residuals"):
        Residuals.read(tmp_path / "text")
