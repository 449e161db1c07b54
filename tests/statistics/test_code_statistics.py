"""The passes, their histograms, and the table that they fill."""

import itertools
from dataclasses import fields, replace
from fractions import Fraction
from math import sqrt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from meds import CodeMetadataSchema

from cvmae.meds.measurements import Measurements, RowCounts
from cvmae.statistics import histogram, passes
from cvmae.statistics import moments as summarising
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.statistics.histogram import Histogram, median_deviation, quantile_bounds, quantile_value
from cvmae.statistics.passes import FirstPass, count_duplicates, first_pass, second_pass

NO_ROWS = RowCounts(
    num_rows=0,
    num_matching=0,
    num_null_value=0,
    num_non_finite=0,
    num_null_time=0,
    num_measurements=0,
)


def measurements_of(rng, num_subjects=40, num_codes=5, first_subject=0) -> Measurements:
    """Values of wide range and low CV; the last code has none."""
    lengths = rng.integers(1, 30, num_subjects)
    code = rng.integers(0, num_codes - 1, lengths.sum()).astype(np.int32)
    scale = np.array([7.4, 140.0, 1e-3, -2.0] * num_codes)[code]
    spread = np.array([0.01, 0.02, 2.0, 3.0] * num_codes)[code]
    value = scale * (1 + spread * rng.standard_normal(len(code)))
    return Measurements(
        subject_id_S=np.arange(first_subject, first_subject + num_subjects),
        offsets_S=np.concatenate([[0], np.cumsum(lengths)]),
        code_index_N=code,
        time_us_N=np.arange(len(code)) // 3,
        numeric_value_N=value.astype(np.float32),
    )


def exact_moments(values: list[float]) -> tuple[float, float]:
    numbers = [Fraction(value) for value in values]
    mean = sum(numbers) / len(numbers)
    return float(mean), float(sum((x - mean) ** 2 for x in numbers) / len(numbers))


def test_moments_equal_those_of_exact_rational_arithmetic(rng):
    m = measurements_of(rng)
    moments = first_pass(m, NO_ROWS, "abcde").moments
    for code in range(4):
        mean, variance = exact_moments(m.numeric_value_N[m.code_index_N == code].tolist())
        # The goal of the design: 1e-12; two passes in float64 reach about 1e-15.
        assert moments.mean[code] == pytest.approx(mean, rel=1e-12)
        assert moments.std[code] ** 2 == pytest.approx(variance, rel=1e-12)
    assert moments.num_values[4] == moments.mean[4] == moments.squares[4] == 0


def test_within_subject_std_pools_the_variance_around_each_subjects_mean(rng):
    m = measurements_of(rng)
    found = first_pass(m, NO_ROWS, "abcde").moments.within_subject_std
    subject_N = np.repeat(m.subject_id_S, np.diff(m.offsets_S))
    for code in range(4):
        squares, freedom = 0.0, 0
        for subject in m.subject_id_S:
            values = m.numeric_value_N[(m.code_index_N == code) & (subject_N == subject)]
            if len(values) > 1:
                squares += len(values) * exact_moments(values.tolist())[1]
                freedom += len(values) - 1
        assert found[code] == pytest.approx(sqrt(squares / freedom), rel=1e-12)
    assert np.isnan(found[4])


def test_clipped_moments_are_those_of_clipped_values(rng):
    m = measurements_of(rng)
    low, high = np.array([7.25, -np.inf, 0, -4, 0]), np.array([7.5, np.inf, 1e-3, 4, 0])
    moments = second_pass(m, low, high).moments
    for code in range(4):
        values = np.clip(
            m.numeric_value_N[m.code_index_N == code],
            np.float32(low[code]),
            np.float32(high[code]),
        )
        mean, variance = exact_moments(values.tolist())
        assert moments.mean[code] == pytest.approx(mean, rel=1e-12)
        assert moments.std[code] ** 2 == pytest.approx(variance, rel=1e-12)


def test_blocks_of_subjects_give_the_moments_of_the_whole(rng, monkeypatch):
    m = measurements_of(rng)
    whole = first_pass(m, NO_ROWS, "abcde").moments
    monkeypatch.setattr(summarising, "BLOCK_PAIRS", 15)  # three subjects a block
    assert_same_moments(first_pass(m, NO_ROWS, "abcde").moments, whole)


def test_merging_in_any_order_changes_no_integer_and_floats_by_the_last_unit(rng):
    names = ["abcde", "edcba", "acbde", "abced"]
    parts = [
        first_pass(measurements_of(rng, first_subject=100 * place), NO_ROWS, names[place])
        for place in range(4)
    ]
    results = [merge_all(parts, order) for order in itertools.permutations(range(4))]
    for result in results:
        assert sorted(result.names) == list("abcde")
        sort = np.argsort(result.names)
        expected = np.argsort(results[0].names)
        for name in ("minimum", "maximum"):
            np.testing.assert_array_equal(
                getattr(result, name)[sort], getattr(results[0], name)[expected]
            )
        assert_same_moments(placed(result, sort), placed(results[0], expected))
        for code in range(5):
            np.testing.assert_array_equal(
                result.histogram.of_code(sort[code]),
                results[0].histogram.of_code(expected[code]),
            )


def test_sums_of_a_hundred_parts_in_any_order_differ_by_at_most_the_last_unit(rng):
    parts = [
        first_pass(measurements_of(rng, first_subject=100 * place), NO_ROWS, "abcde")
        for place in range(100)
    ]
    expected = merge_all(parts, range(100)).moments
    for _ in range(5):
        found = merge_all(parts, rng.permutation(100)).moments
        for name in ("mean", "squares", "within_squares"):
            # As they are reported; float64 all along was up to 30 units off.
            one, other = (getattr(m, name).astype(np.float64) for m in (found, expected))
            assert np.all(np.abs(one - other) <= np.spacing(np.abs(other)))


def test_merged_histograms_hold_every_value_under_its_own_code(rng):
    # The same codes in another order: merging has to go by name.
    parts = [(measurements_of(rng), "abcde"), (measurements_of(rng), "dbcea")]
    total = merge_all([first_pass(m, NO_ROWS, names) for m, names in parts], range(2))
    for place, name in enumerate(total.names):
        values = np.concatenate(
            [m.numeric_value_N[m.code_index_N == names.index(name)] for m, names in parts]
        )
        expected = histogram_of(values) if len(values) else ([], [])
        np.testing.assert_array_equal(total.histogram.of_code(place), expected)
        assert total.moments.num_values[place] == len(values)


def merge_all(parts: list[FirstPass], order) -> FirstPass:
    total = parts[order[0]]
    for place in order[1:]:
        total = total.merge(parts[place])
    return total


def placed(part: FirstPass, order) -> summarising.Moments:
    moments = part.moments
    return replace(moments, **{f.name: getattr(moments, f.name)[order] for f in fields(moments)})


def assert_same_moments(found: summarising.Moments, expected: passes.Moments) -> None:
    for name in ("num_values", "num_subjects"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("mean", "squares", "within_squares"):
        # The last unit (2.2e-16) of a mean, divided by a CV of 0.01: what a deviation can lose.
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=2.2e-14)


@pytest.mark.parametrize("scale", [1e-6, 0.9, -30.0, 1e7])
def test_quantiles_of_the_histogram_are_within_one_percent(rng, scale):
    values = (scale * np.exp(rng.standard_normal(5000))).astype(np.float32)
    bins, counts = histogram_of(values)
    for quantile in (0.001, 0.25, 0.5, 0.75, 0.999):
        exact = np.quantile(values, quantile, method="inverted_cdf")
        # Bins are at most 1/64 of their lower edge wide, and their middle is returned.
        assert quantile_value(bins, counts, quantile) == pytest.approx(exact, rel=1 / 128)
        low, high = quantile_bounds(bins, counts, quantile)
        assert low <= exact <= high


def histogram_of(values):
    codes = np.zeros(len(values), np.int32)
    extremes = np.array([values.min()]), np.array([values.max()])
    return Histogram.of(codes, values, *map(np.float64, extremes)).of_code(0)


def test_histogram_bins_ascend_with_values_of_both_signs():
    values = np.array([-1e30, -2, -1.5, -1e-30, -0.0, 0.0, 1e-30, 1.5, 2, 1e30], np.float32)
    bins, counts = histogram_of(values)
    assert (np.diff(bins) > 0).all()
    assert counts.tolist() == [1, 1, 1, 1, 2, 1, 1, 1, 1]  # -0.0 is 0.0
    assert quantile_bounds(bins, counts, 0.5) == (0.0, 0.0)


def test_histogram_does_not_depend_on_how_it_counts(rng, monkeypatch):
    m = measurements_of(rng)
    dense = first_pass(m, NO_ROWS, "abcde").histogram
    monkeypatch.setattr(histogram, "DENSE_BINS", 0)
    sparse = first_pass(m, NO_ROWS, "abcde").histogram
    np.testing.assert_array_equal(dense.key, sparse.key)
    np.testing.assert_array_equal(dense.count, sparse.count)
    assert dense.count.sum() == len(m.code_index_N)


def test_median_deviation_resolves_a_tightly_regulated_lab(rng):
    values = rng.normal(7.375, 0.08, 20_000).astype(np.float32)
    exact = np.median(np.abs(values - 7.375))
    # Bins are 0.0625 wide here; spreading values evenly in them is right to a few percent.
    assert median_deviation(*histogram_of(values), 7.375) == pytest.approx(exact, rel=0.1)


def test_duplicates_are_counted_within_subject_and_time_only(monkeypatch):
    m = Measurements(
        subject_id_S=np.array([1, 2]),
        offsets_S=np.array([0, 6, 8]),
        code_index_N=np.array([0, 1, 0, 0, 1, 1, 1, 0], np.int32),
        time_us_N=np.array([5, 5, 5, 6, 6, 6, 6, 6]),
        numeric_value_N=np.arange(8, dtype=np.float32),
    )
    # Code 0 again at time 5 and code 1 again at time 6; subject 2 also begins at time 6.
    assert count_duplicates(m, 2) == 2
    monkeypatch.setattr(passes, "DENSE_KEYS", 0)
    assert count_duplicates(m, 2) == 2


def test_a_unit_without_measurements_changes_nothing(rng):
    part = first_pass(measurements_of(rng), NO_ROWS, "abcde")
    nothing = Measurements(
        subject_id_S=np.empty(0, np.int64),
        offsets_S=np.zeros(1, np.int64),
        code_index_N=np.empty(0, np.int32),
        time_us_N=np.empty(0, np.int64),
        numeric_value_N=np.empty(0, np.float32),
    )
    for empty in (first_pass(nothing, NO_ROWS, ""), first_pass(nothing, NO_ROWS, "abcde")):
        for total in (part.merge(empty), empty.merge(part)):
            assert_same_moments(total.moments, part.moments)
            np.testing.assert_array_equal(total.histogram.count, part.histogram.count)
    assert count_duplicates(nothing, 5) == 0


# --- the table


@pytest.fixture
def statistics(rng) -> CodeStatistics:
    numbers = {
        f.name: rng.standard_normal(3)
        for f in fields(CodeStatistics)
        if f.name not in ("codes", "members", "num_values", "num_subjects")
    }
    return CodeStatistics(
        codes=("Na", "pH", "LAB//51498// "),
        members=(("Na", "Na//old"), ("pH",), ("LAB//51498// ",)),
        num_values=np.array([10, 2**40, 3]),
        num_subjects=np.array([9, 8, 3]),
        **numbers
        | {
            "mean": np.array([140.0, 7.4, 0.1]),
            "std": np.array([4.0, 0.1, 1 / 3]),
            "clip_low": np.array([100.0, 7.0, -np.inf]),
            "clip_high": np.array([180.0, 7.75, np.inf]),
            "within_subject_std": np.array([1.0, 0.05, np.nan]),
        },
    )


def test_reading_gives_the_bits_that_were_written(statistics, tmp_path):
    statistics.write(tmp_path / "codes.parquet")
    again = CodeStatistics.read(tmp_path / "codes.parquet")
    assert statistics.differences(again) == []
    assert again.num_values.dtype == np.int64
    assert statistics.differences(replace(again, mean=again.mean + 1e-9)) == ["mean"]


def test_the_table_extends_meds_codes_with_sums_in_float64(statistics, tmp_path):
    statistics.write(tmp_path / "codes.parquet")
    table = pq.read_table(tmp_path / "codes.parquet")
    CodeMetadataSchema.validate(table.select(["code", "description", "parent_codes"]))
    assert table["values/sum_sqd"].type == pa.float64()
    mean, std, count = statistics.raw_mean, statistics.raw_std, statistics.num_values
    np.testing.assert_allclose(table["values/sum"].to_numpy(), count * mean, rtol=1e-15)
    squares = table["values/sum_sqd"].to_numpy()
    # Going back over the sum of squares cancels digits of the variance.
    np.testing.assert_allclose(squares / count - mean**2, std**2, rtol=1e-9)


@pytest.mark.parametrize("damage", ["columns", "format", "absence"])
def test_a_file_that_is_no_table_of_statistics_is_refused_by_name(damage, tmp_path):
    path = tmp_path / "codes.parquet"
    if damage == "columns":
        pq.write_table(pa.table({"code": ["a"]}), path)
    elif damage == "format":
        path.write_text("code,mean")
    with pytest.raises((ValueError, FileNotFoundError), match=r"codes\.parquet.*fit_statistics"):
        CodeStatistics.read(path)


def test_standardised_values_are_clipped_centred_and_scaled(statistics):
    z = statistics.standardise(
        np.array([0, 0, 0, 1, 1, 2], np.int32),
        np.array([144, 1e6, -1, 735, 7.4, 50], np.float32),
    )
    # float32 input: 7.4 is 2e-7 off, in units of 0.1.
    np.testing.assert_allclose(z, [1, 10, -10, 3.5, 0, 149.7], atol=1e-5)
    assert z.dtype == np.float32


def test_lookup_maps_all_members_of_an_entry_and_nothing_else(statistics):
    codes = ["Na//old", "LAB//51498//", "LAB//51498// ", "pH", "Na"]
    assert statistics.lookup(codes).tolist() == [0, -1, 2, 1, 0]
    assert statistics.lookup(codes).dtype == np.int32


def test_cv_uses_the_magnitude_of_the_mean_and_is_infinite_at_zero(statistics):
    changed = replace(statistics, mean=np.array([-140.0, 7.4, 0.0]))
    np.testing.assert_array_equal(changed.cv, [4 / 140, 0.1 / 7.4, np.inf])
