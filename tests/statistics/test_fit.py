"""The verb: vocabulary, statistics of train, unit index, and what is refused."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cvmae.batches.policies import policy_weights
from cvmae.meds.dataset import open_dataset
from cvmae.meds.reading import read_unit
from cvmae.meds.splits import SPLITS
from cvmae.settings import MaskConfig
from cvmae.statistics import fit as fitting
from tests.prepared import fit
from tests.statistics.small_set import CODES, SUBJECTS, config_of, train_values, write_meds

# --- statistics


def test_ph_of_physionet2012_is_tightly_regulated_once_unit_slips_are_clipped(real_data):
    root = str(real_data / "physionet2012")
    settings = {"code_pattern": "^LAB//pH", "unit_rows": 250_000}
    raw = fit(config_of(root, **settings, clip_quantiles=None)).statistics
    clipped = fit(config_of(root, **settings)).statistics
    assert raw.codes == clipped.codes == ("LAB//pH//UNK",)
    assert raw.cv[0] == raw.raw_cv[0] == clipped.raw_cv[0]
    assert raw.cv[0] == pytest.approx(0.73, abs=0.005)  # 20 of 57,367 values outside 6-8
    assert clipped.cv[0] == pytest.approx(0.011, abs=0.0005)
    assert clipped.num_values[0] == raw.num_values[0] == 57_367


def test_statistics_are_those_of_all_values_of_train(root):
    statistics = fit(config_of(root, clip_quantiles=None)).statistics
    assert set(statistics.codes) == {"LAB//Na", "LAB//K", "LAB//CRP"}
    for index, code in enumerate(statistics.codes):
        values = train_values(root, code)
        assert statistics.num_values[index] == len(values)
        assert statistics.num_subjects[index] == 20
        assert statistics.minimum[index] == values.min()
        assert statistics.maximum[index] == values.max()
        assert statistics.mean[index] == pytest.approx(values.mean(), rel=1e-12)
        assert statistics.std[index] == pytest.approx(values.std(), rel=1e-12)
        # Bins are at most 1/64 wide and quantiles are their middles.
        for name, quantile in (("q25", 0.25), ("median", 0.5), ("q75", 0.75)):
            exact = np.quantile(values, quantile, method="inverted_cdf")
            assert getattr(statistics, name)[index] == pytest.approx(exact, rel=1 / 128)


def test_statistics_do_not_move_when_tuning_or_held_out_rows_change(root, tmp_path):
    def change(subject: int, code: str, value: float) -> float | None:
        return value if subject < 20 else 1e6 * value

    other = write_meds(tmp_path / "set", change)
    assert fit(config_of(root)).statistics.differences(fit(config_of(other)).statistics) == []


def test_statistics_move_when_a_train_row_changes(root, tmp_path):
    other = write_meds(tmp_path / "set", lambda s, code, value: 2 * value if s == 19 else value)
    moved = fit(config_of(root)).statistics.differences(fit(config_of(other)).statistics)
    assert {"mean", "std"} <= set(moved)


def test_neither_units_nor_shards_change_the_statistics(root, tmp_path):
    other = write_meds(tmp_path / "set", shards=[[n] for n in range(SUBJECTS)])
    expected = fit(config_of(root)).statistics
    for config in (config_of(root, unit_rows=10**6), config_of(other, unit_rows=1)):
        found = fit(config).statistics
        assert found.codes == expected.codes
        for name in ("num_values", "num_subjects", "minimum", "clip_low", "clip_high", "median"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        # Merging rounds each of some dozens of sums in the last unit.
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-14)
        np.testing.assert_allclose(found.std, expected.std, rtol=1e-13)


def test_a_unit_8_times_smaller_moves_variance_weights_and_not_cv_weights(root, tmp_path):
    other = write_meds(
        tmp_path / "set", lambda s, code, value: 8 * value if code == "LAB//K" else value
    )
    before, after = (fit(config_of(path)).statistics for path in (root, other))
    assert before.codes == after.codes
    # Bins are binary: clip bounds, mean and std are exactly 8 times what they were.
    cv, variance = MaskConfig(policy="cv"), MaskConfig(policy="variance")
    np.testing.assert_array_equal(*(policy_weights(s, cv, seed=0) for s in (after, before)))
    moved = policy_weights(after, variance, seed=0) / policy_weights(before, variance, seed=0)
    potassium = before.codes.index("LAB//K")
    assert moved[potassium] / moved[potassium - 1] == pytest.approx(64, rel=1e-12)


def test_outliers_are_clipped_at_the_edge_of_a_bin_and_counted_in_raw_moments(tmp_path):
    def slip(subject: int, code: str, value: float) -> float | None:
        return 1e4 if (subject, code) == (3, "LAB//K") and value > 3 else value

    root = write_meds(tmp_path / "set", slip)
    num_slips = int((train_values(root, "LAB//K") == 1e4).sum())
    assert num_slips > 0
    statistics = fit(config_of(root, clip_quantiles=(0.0, 0.9))).statistics
    index = statistics.codes.index("LAB//K")
    values = train_values(root, "LAB//K")
    assert statistics.clip_high[index] < 10 < statistics.raw_mean[index]
    clipped = values.clip(statistics.clip_low[index], statistics.clip_high[index])
    assert statistics.mean[index] == pytest.approx(clipped.mean(), rel=1e-12)
    assert (values <= statistics.clip_high[index]).mean() >= 0.9


# --- vocabulary


def test_the_most_frequent_codes_come_first_and_the_rest_is_named_with_a_reason(tmp_path):
    def thin_out(subject: int, code: str, value: float) -> float | None:
        return {
            "LAB//Na": value if subject % 2 else None,
            "LAB//CRP": value if subject == 0 else None,
            "LAB//flag": 1.0,
        }.get(code, value)

    root = write_meds(tmp_path / "set", thin_out, codes=(*CODES, "LAB//flag", "LAB//Mg"))
    fitted = fit(config_of(root, num_codes=2))
    assert fitted.statistics.codes == ("LAB//K", "LAB//Mg")  # a tie, by name
    reasons = fitted.report["dropped_codes"]
    assert set(reasons) == {"LAB//Na", "LAB//CRP", "LAB//flag"}
    assert "data.num_codes=2" in reasons["LAB//Na"]
    assert "data.min_count=25" in reasons["LAB//CRP"]
    assert "equal" in reasons["LAB//flag"]


def test_a_code_that_is_constant_once_clipped_is_dropped(tmp_path):
    def nearly_zero(subject: int, code: str, value: float) -> float | None:
        return float(value > 5) if code == "LAB//K" else value

    root = write_meds(tmp_path / "set", nearly_zero)
    assert 0 < (train_values(root, "LAB//K") > 0).mean() < 0.05
    fitted = fit(config_of(root, clip_quantiles=(0.05, 0.95)))
    assert "LAB//K" not in fitted.statistics.codes
    assert "clipped" in fitted.report["dropped_codes"]["LAB//K"]
    assert "LAB//K" in fit(config_of(root, clip_quantiles=None)).statistics.codes


def test_a_file_fixes_the_vocabulary_and_maps_several_codes_to_one(root, tmp_path):
    path = tmp_path / "codes.txt"
    path.write_text("VITAL//HR\nLAB//K\tLAB//Na\nLAB//absent\n", encoding="utf-8")
    fitted = fit(config_of(root, codes_file=str(path), clip_quantiles=None))
    statistics = fitted.statistics
    assert statistics.members == (("VITAL//HR",), ("LAB//K", "LAB//Na"))
    both = np.concatenate([train_values(root, code) for code in ("LAB//K", "LAB//Na")])
    assert statistics.num_values[1] == len(both)
    assert statistics.num_subjects[1] == 20
    for mean in (statistics.mean[1], statistics.raw_mean[1]):
        assert mean == pytest.approx(both.mean(), rel=1e-12)
    assert "0 values" in fitted.report["dropped_codes"]["LAB//absent"]


def test_a_blank_at_the_end_of_a_code_counts(tmp_path):
    root = write_meds(tmp_path / "set", codes=("LAB//51498// ",))
    path = tmp_path / "codes.txt"
    path.write_bytes(b"LAB//51498// \r\n")
    assert fit(config_of(root, codes_file=str(path))).statistics.codes == ("LAB//51498// ",)


def test_more_codes_than_a_batch_can_tell_apart_are_refused(root, tmp_path, monkeypatch):
    path = tmp_path / "codes.txt"
    path.write_text("VITAL//HR\nLAB//K\nLAB//Na\n", encoding="utf-8")
    config = config_of(root, codes_file=str(path))
    monkeypatch.setattr(fitting, "MOST_CODES", 2)
    with pytest.raises(ValueError, match=r"data\.codes_file=.* has 3 entries .* at most 2"):
        fit(config)
    monkeypatch.setattr(fitting, "MOST_CODES", 3)
    assert fit(config).statistics.num_codes == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [("A\nB\tA\n", r"line 2: 'A' stands on line 1"), ("\n\n", "is empty"), (None, "not exist")],
)
def test_a_codes_file_that_cannot_be_meant_is_refused(root, tmp_path, text, message):
    path = tmp_path / "codes.txt"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises((ValueError, FileNotFoundError), match=rf"data\.codes_file.*{message}"):
        fit(config_of(root, codes_file=str(path)))


# --- counts


def test_the_unit_index_counts_what_units_hold(root):
    fitted = fit(config_of(root, sequence_length=8))
    index = fitted.unit_index
    assert len(index.units) > 3
    for split in SPLITS:
        for number, unit in enumerate(index.units):
            m, _ = read_unit(open_dataset(root), unit, fitted.statistics.lookup, split)
            lengths = np.diff(m.offsets_S)
            assert index.num_measurements[split][number] == lengths.sum()
            assert index.num_sequences[split][number] == np.ceil(lengths / 8).sum()
    assert fitted.report["splits"]["tuning"]["num_subjects"] == 5
    cropped = fit(config_of(root, sequence_length=8, crop=True)).unit_index
    assert cropped.num_sequences["train"].sum() == 20
    assert cropped.num_measurements["train"].sum() == 20 * 8
    # Only training crops: tuning is evaluated on all windows.
    assert cropped.num_sequences["tuning"].sum() == index.num_sequences["tuning"].sum()


def test_rows_that_are_no_measurements_are_counted(tmp_path):
    def spoil(subject: int, code: str, value: float) -> float | None:
        if code != "LAB//K" or subject > 1:
            return value
        return None if subject else float("inf")

    root = write_meds(tmp_path / "set", spoil)
    clean = len(train_values(root, "LAB//Na"))
    fitted = fit(config_of(root))
    rows = fitted.report["splits"]["train"]["rows"]
    assert rows["num_null_value"] > 0
    assert rows["num_non_finite"] > 0
    index = fitted.statistics.codes.index("LAB//K")
    lost = rows["num_null_value"] + rows["num_non_finite"]
    assert fitted.statistics.num_values[index] == clean - lost


def test_subjects_without_a_split_are_counted_and_not_used(tmp_path):
    root = write_meds(tmp_path / "set")
    path = Path(root) / "metadata" / "subject_splits.parquet"
    pq.write_table(pq.read_table(path).slice(3), path)
    fitted = fit(config_of(root))
    assert fitted.report["num_subjects_without_split"] == 3
    assert fitted.report["splits"]["train"]["num_subjects"] == 17
    assert fitted.statistics.num_subjects.tolist() == [17, 17, 17]


# --- what is refused


def test_a_pattern_that_matches_nothing_is_refused_with_the_setting_and_codes_there(root):
    with pytest.raises(ValueError, match=r"data\.code_pattern='\^ICD'.*LAB//Na"):
        fit(config_of(root, code_pattern="^ICD"))


def test_codes_that_are_all_too_rare_are_refused_with_the_setting(root):
    with pytest.raises(ValueError, match=r"none can be used.*data\.min_count"):
        fit(config_of(root, min_count=10_000))


def test_a_pattern_that_is_no_regular_expression_is_refused(root):
    with pytest.raises(ValueError, match=r"data\.code_pattern='\(' is not a regular expression"):
        fit(config_of(root, code_pattern="("))


def test_a_subject_in_two_files_is_refused_with_both_files(tmp_path):
    root = write_meds(tmp_path / "set", shards=[range(20), range(19, SUBJECTS)])
    for unit_rows in (100, 10**6):
        with pytest.raises(ValueError, match=r"0\.parquet.*1\.parquet"):
            fit(config_of(root, unit_rows=unit_rows))


def test_a_data_set_without_train_subjects_is_refused(tmp_path):
    root = write_meds(tmp_path / "set")
    path = Path(root) / "metadata" / "subject_splits.parquet"
    pq.write_table(pq.read_table(path).slice(20), path)
    with pytest.raises(ValueError, match="no subject in split 'train'"):
        fit(config_of(root))
