"""Entropies of standardised values: those of exact bins, from counts that merge in any order."""

import itertools
from dataclasses import fields, replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from cvmae.statistics import entropy as counting
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.statistics.entropy import count_cells, entropy_bits
from tests.prepared import fit
from tests.statistics.small_set import config_of, train_values, write_meds


def exact_bits(value: np.ndarray) -> float:
    """The definition: z of every value, 64 bins on [-5, 5]."""
    z = (value - value.mean()) / value.std()
    counts, _ = np.histogram(np.clip(z, -5, 5), bins=64, range=(-5, 5))
    share = counts[counts > 0] / len(value)
    return float(-(share * np.log2(share)).sum())


def bits_of(values: list[np.ndarray]) -> np.ndarray:
    code = np.repeat(np.arange(len(values)), list(map(len, values)))
    low, high = (np.array([getattr(v, f)() for v in values], np.float64) for f in ("min", "max"))
    cells = count_cells(code, np.concatenate(values).astype(np.float32), low, high)
    moments = [np.array([getattr(v, f)() for v in values]) for f in ("mean", "std")]
    return entropy_bits(cells, low, high, *moments)


def test_entropies_are_those_of_exact_bins_of_z(rng):
    values = [
        7.4 + 0.08 * rng.standard_normal(20_000),
        rng.lognormal(2, 1, 20_000).clip(0, 400),
        -3 + rng.standard_t(4, 20_000).clip(-10, 10),
        rng.uniform(0, 1, 20_000),
    ]
    # A cell lies in one bin as a whole: of those at an edge, half are counted next door.
    found = bits_of([v.astype(np.float32).astype(np.float64) for v in values])
    np.testing.assert_allclose(found, [exact_bits(v) for v in values], atol=0.02)


def test_even_spread_has_more_bits_than_a_bell_and_a_few_levels_have_few(rng):
    even, bell, levels = bits_of(
        [rng.uniform(0, 1, 9000), rng.standard_normal(9000), rng.choice([1.0, 2.0], 9000)]
    )
    # A uniform fills sqrt(12) / 10 of the 64 bins; a normal has log2(sqrt(2 pi e)) bits more than
    # its bins' width, 10 / 64; two levels have one bit.
    assert bell == pytest.approx(np.log2(np.sqrt(2 * np.pi * np.e) * 6.4), abs=0.02)
    assert even == pytest.approx(np.log2(np.sqrt(12) * 6.4), abs=0.05)
    assert levels == pytest.approx(1, abs=0.01)


def test_neither_unit_of_measurement_nor_offset_moves_an_entropy(rng):
    value = rng.lognormal(0, 0.3, 5000).astype(np.float32).astype(np.float64)
    one, other = bits_of([value, 8 * value - 3])
    assert other == pytest.approx(one, abs=0.01)


def test_counts_of_parts_add_up_exactly_in_any_order(rng, monkeypatch):
    low, high = np.array([0.0, -5.0, 2.0]), np.array([1.0, 5.0, 2.0])
    code = rng.integers(0, 3, 3000).astype(np.int16)
    value = (rng.standard_normal(3000) * 3).astype(np.float32)  # many lie beyond the bounds
    whole = count_cells(code, value, low, high)
    assert whole.count.sum() == 3000
    parts = [count_cells(code[i::3], value[i::3], low, high) for i in range(3)]
    for order in itertools.permutations(parts):
        merged = order[0].merge(order[1]).merge(order[2])
        np.testing.assert_array_equal(merged.key, whole.key)
        np.testing.assert_array_equal(merged.count, whole.count)
    monkeypatch.setattr(counting, "DENSE_CELLS", 0)
    sorted_instead = count_cells(code, value, low, high)
    np.testing.assert_array_equal(sorted_instead.key, whole.key)
    np.testing.assert_array_equal(sorted_instead.count, whole.count)


def test_extreme_values_and_bounds_are_counted_without_overflow():
    most = float(np.finfo(np.float32).max)
    low, high = np.array([-most, 0, -np.inf]), np.array([most, 1e-45, np.inf])
    value = np.array([-most, most, 0, 1e-45, 5, -5], np.float32)
    cells = count_cells(np.array([0, 0, 1, 1, 2, 2]), value, low, high)
    assert [cells.of_code(code)[1].tolist() for code in range(3)] == [[1, 1], [1, 1], [2]]


@pytest.mark.parametrize("clip", [(0.02, 0.98), None])
def test_the_entropy_of_a_fit_is_that_of_the_clipped_values_of_train(tmp_path, clip):
    root = write_meds(tmp_path / "set")
    for unit_rows in (100, 10**6):
        statistics = fit(config_of(root, clip_quantiles=clip, unit_rows=unit_rows)).statistics
        for index, code in enumerate(statistics.codes):
            values = train_values(root, code)
            clipped = values.clip(statistics.clip_low[index], statistics.clip_high[index])
            # 140 values: one that is counted next door moves some hundredths of a bit.
            assert statistics.entropy[index] == pytest.approx(exact_bits(clipped), abs=0.1)


def test_statistics_of_an_earlier_version_are_read_without_entropies(tmp_path):
    root = write_meds(tmp_path / "set")
    statistics = fit(config_of(root)).statistics
    statistics.write(tmp_path / "codes.parquet")
    table = pq.read_table(tmp_path / "codes.parquet")
    pq.write_table(table.drop_columns(["clipped/entropy"]), tmp_path / "codes.parquet")
    earlier = CodeStatistics.read(tmp_path / "codes.parquet")
    assert np.isnan(earlier.entropy).all()
    # A run that was begun with them goes on with those that are fitted now.
    assert statistics.differences(earlier) == earlier.differences(statistics) == []
    for name in (f.name for f in fields(CodeStatistics) if f.name != "entropy"):
        np.testing.assert_array_equal(getattr(earlier, name), getattr(statistics, name))
    other = replace(statistics, entropy=statistics.entropy + 0.1)
    assert statistics.differences(other) == ["entropy"]
