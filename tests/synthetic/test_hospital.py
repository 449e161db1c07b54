"""The synthetic hospital: valid MEDS, the same for any sharding, and truthful about itself."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from meds import schema as meds

from cvmae.command_line import main
from cvmae.settings import LAB_PATTERN
from cvmae.synthetic import hospital as synthetic
from cvmae.synthetic.hospital import (
    SyntheticConfig,
    code_truth,
    generate,
    read_synthetic_config,
    write_hospital,
)
from cvmae.synthetic.process import code_laws, mortality
from cvmae.synthetic.subjects import sample_subjects

SMALL = SyntheticConfig(root="", num_subjects=200, num_codes=8, seed=3)
TASK = "labels/in_hospital_mortality"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hospital")
    return Path(write_hospital(replace(SMALL, root=str(root), num_shards=3)))


def read_all(root: str | Path) -> pa.Table:
    paths = sorted(Path(root, "data").glob("*/*.parquet"))
    return pa.concat_tables([pq.read_table(path) for path in paths]).combine_chunks()


def sorted_rows(root: str | Path) -> pa.Table:
    """Rows in order of subjects; within a subject as in the file."""
    table = read_all(root)
    return table.take(np.argsort(table["subject_id"].to_numpy(), kind="stable"))


def labs_of(config: SyntheticConfig) -> dict[str, np.ndarray]:
    """Subject, code, minutes and value of every laboratory value, and nothing else."""
    labs = sample_subjects(config, np.arange(config.num_subjects)).labs
    kept = ~labs.null_N
    return {
        "subject": labs.subject_N[kept],
        "code": labs.code_N[kept],
        "minutes": labs.minutes_N[kept],
        "value": labs.value_N[kept].astype(np.float64),
    }


def standard_errors(influence_N, subject_N) -> float:
    """Sum over subjects of something whose mean is 0, in its own standard errors."""
    per_subject = np.bincount(subject_N, influence_N)
    return float(per_subject.sum() / np.sqrt((per_subject**2).sum()))


def test_files_are_valid_by_the_meds_schemas(written):
    for path in written.glob("data/*/*.parquet"):
        meds.DataSchema.validate(pq.read_table(path))
    for path in written.glob(f"{TASK}/*/0.parquet"):
        meds.LabelSchema.validate(pq.read_table(path))
    meds.SubjectSplitSchema.validate(pq.read_table(written / meds.subject_splits_filepath))
    meds.CodeMetadataSchema.validate(pq.read_table(written / meds.code_metadata_filepath))
    about = json.loads((written / meds.dataset_metadata_filepath).read_text())
    meds.DatasetMetadataSchema.validate(about)
    described = pq.read_table(written / meds.code_metadata_filepath)["code"].to_pylist()
    assert set(read_all(written)["code"].to_pylist()) <= set(described)
    assert len(set(described)) == len(described)


def test_a_subject_is_in_one_shard_contiguous_and_sorted_with_null_times_first(written):
    seen: set[int] = set()
    for path in written.glob("data/*/*.parquet"):
        table = pq.read_table(path)
        subject = table["subject_id"].to_numpy()
        assert (np.diff(subject) >= 0).all()
        assert seen.isdisjoint(subject.tolist())
        seen |= set(subject.tolist())
        time = pc.fill_null(table["time"].cast(pa.int64()), np.iinfo(np.int64).min).to_numpy()
        assert (time[1:] >= time[:-1])[np.diff(subject) == 0].all()
    assert len(seen) == SMALL.num_subjects


def test_splits_have_their_shares_and_shards_are_pure(written):
    splits = pq.read_table(written / meds.subject_splits_filepath)
    counts = {row["values"]: row["counts"] for row in splits["split"].value_counts().to_pylist()}
    for name, share in zip(("train", "tuning", "held_out"), SMALL.split_shares, strict=True):
        # Multiples of the golden ratio are within two of any share.
        assert abs(counts[name] - share * SMALL.num_subjects) <= 2
        inside = {s for p in written.glob(f"data/{name}/*") for s in _subjects(p)}
        assert inside == set(splits.filter(pc.equal(splits["split"], name))[0].to_pylist())
    assert len(list(written.glob("data/train/*"))) == 3


def _subjects(path: Path) -> list[int]:
    return pq.read_table(path)["subject_id"].to_pylist()


def test_rows_do_not_depend_on_shards_chunks_or_other_subjects(written, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "CHUNK_ROWS", 700)
    other = write_hospital(replace(SMALL, root=str(tmp_path / "other"), row_group_rows=100))
    assert sorted_rows(other).equals(sorted_rows(written))
    alone = generate(SMALL, np.array([7, 150]))
    both = sorted_rows(written)
    ids = pc.unique(alone["subject_id"])
    assert alone.equals(both.filter(pc.is_in(both["subject_id"], ids)).combine_chunks())


@pytest.mark.slow
def test_rows_do_not_depend_on_the_number_of_processes(written, tmp_path):
    other = write_hospital(replace(SMALL, root=str(tmp_path / "two"), num_processes=2))
    assert sorted_rows(other).equals(sorted_rows(written))


def test_another_seed_is_another_hospital():
    first, second = (sample_subjects(replace(SMALL, seed=s), np.arange(3)) for s in (1, 2))
    assert not np.isin(first.severity_S, second.severity_S).any()
    assert not code_truth(SMALL)["mean"].equals(code_truth(replace(SMALL, seed=4))["mean"])


@pytest.mark.parametrize(
    ("ordering", "outlier_rate"),
    [("independent", 0.0), ("informative", 0.0), ("informative", 0.02)],
)
def test_values_have_the_mean_std_and_cv_that_are_promised(ordering, outlier_rate):
    config = replace(
        SMALL, num_subjects=4000, spread=0.7, ordering=ordering, outlier_rate=outlier_rate
    )
    truth, labs = code_truth(config), labs_of(config)
    for code, (mean, std, cv) in enumerate(
        zip(*(truth[f"observed_{name}"].to_numpy() for name in ("mean", "std", "cv")), strict=True)
    ):
        here = labs["code"] == code
        value, subject = labs["value"][here], labs["subject"][here]
        centred, spread = value - mean, (value - mean) ** 2 - std**2
        # Values of a subject are dependent, so subjects are the units of the standard error;
        # the CV's influence is that of std / mean. 72 checks at 5 standard errors.
        assert abs(standard_errors(centred, subject)) < 5
        assert abs(standard_errors(spread, subject)) < 5
        influence = spread / (2 * std * mean) - std * centred / mean**2
        assert abs(standard_errors(influence, subject)) < 5
        assert cv == pytest.approx(std / mean)


def test_informative_ordering_moves_the_observed_mean():
    labs = labs_of(replace(SMALL, num_subjects=4000, spread=0.7, ordering="informative"))
    truth = code_truth(SMALL)["mean"].to_numpy()
    shifts = [
        standard_errors(labs["value"][here] - truth[code], labs["subject"][here])
        for code in range(8)
        if (here := labs["code"] == code).any()
    ]
    assert max(map(abs, shifts)) > 10


def test_cvs_span_two_decades_and_means_are_positive():
    truth = code_truth(replace(SMALL, num_codes=100))
    cv = truth["cv"].to_numpy()
    assert cv.min() == pytest.approx(0.01)
    assert cv.max() == pytest.approx(1.5)
    assert (truth["mean"].to_numpy() > 0).all()


def test_squared_loadings_add_up_to_one():
    laws = code_laws(replace(SMALL, num_codes=100))
    total = laws.severity_C**2 + (laws.factor_CK**2).sum(axis=1) + laws.baseline_C**2
    np.testing.assert_allclose(total + laws.own_C**2 + laws.noise_C**2, 1, rtol=1e-12)


def test_counts_are_heavy_tailed_around_their_median_and_obey_the_limit():
    config = replace(SMALL, num_subjects=8000, median_measurements=60, max_measurements=2000)
    labs = sample_subjects(config, np.arange(config.num_subjects)).labs
    counts = np.bincount(labs.subject_N, minlength=config.num_subjects)
    # Standard error of a lognormal's median: 1.25 * spread / sqrt(8000) = 1.7%.
    assert np.median(counts) == pytest.approx(60, rel=0.1)
    # The 99th percentile of exp(1.2 z) is exp(2.79) = 16.3 medians; a Poisson's would be 1.2.
    assert np.percentile(counts, 99) > 12 * np.median(counts)
    assert counts.max() == 2000
    assert len(np.unique(counts)) > 500


def test_no_subject_has_two_values_of_a_code_at_one_time():
    labs = labs_of(SMALL)
    keys = np.stack([labs["subject"], labs["code"], labs["minutes"]])
    assert np.unique(keys, axis=1).shape[1] == keys.shape[1]


def test_the_default_pattern_takes_the_laboratory_codes_and_no_copies(written):
    codes = pq.read_table(written / meds.code_metadata_filepath)["code"].to_pylist()
    matching = {code for code in codes if re.search(LAB_PATTERN, code)}
    assert matching == set(code_truth(SMALL)["code"].to_pylist())
    table = read_all(written)
    charted = table.filter(pc.starts_with(table["code"], "LAB//22"))
    # A copy stands at the same subject and time as the laboratory value that it repeats.
    labs = table.filter(pc.starts_with(table["code"], "LAB//50"))
    assert charted.num_rows > 500
    assert _facts(charted, first_item=220_000) <= _facts(labs, first_item=50_800)


def _facts(table: pa.Table, first_item: int) -> set[tuple]:
    items = [int(code.split("//")[1]) - first_item for code in table["code"].to_pylist()]
    rows = zip(
        *(table[k].to_pylist() for k in ("subject_id", "time", "numeric_value")), strict=True
    )
    return {(*row, item) for row, item in zip(rows, items, strict=True)}


def test_rates_of_missing_values_and_other_rows_are_those_of_the_settings():
    config = replace(SMALL, missing_rate=0.1, other_row_share=0.25)
    table = generate(config, np.arange(200))
    labs = table.filter(pc.starts_with(table["code"], "LAB//50"))
    count = labs.num_rows
    # 5 standard errors of a proportion.
    error = 5 * np.sqrt(0.1 * 0.9 / count)
    assert labs["numeric_value"].null_count / count == pytest.approx(0.1, abs=error)
    fixed = pc.match_substring_regex(table["code"], "^(GENDER|MEDS|HOSPITAL)")
    others = table.num_rows - count - pc.sum(fixed).as_py()
    assert others / (count + others) == pytest.approx(0.25, abs=0.01)


def test_subjects_without_a_laboratory_row_keep_their_other_rows():
    config = replace(SMALL, ordering="informative", median_measurements=2, num_subjects=100)
    labs = sample_subjects(config, np.arange(100)).labs
    assert len(np.unique(labs.subject_N)) < 100
    assert len(pc.unique(generate(config, np.arange(100))["subject_id"])) == 100
    alone = np.setdiff1d(np.arange(100), labs.subject_N)[:1]
    assert generate(config, alone)["numeric_value"].null_count == generate(config, alone).num_rows


def test_outcomes_follow_severity_at_the_promised_rate():
    config = replace(SMALL, num_subjects=6000, median_measurements=20)
    subjects = sample_subjects(config, np.arange(6000))
    table = generate(config, np.arange(6000))
    dead_ids = table.filter(pc.equal(table["code"], meds.death_code))["subject_id"].to_numpy()
    dead = np.isin(np.unique(table["subject_id"].to_numpy()), dead_ids)
    rate = mortality()
    assert dead.mean() == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / 6000))
    # P(death) = ndtr(-1.66 + S) makes the mean severity of the dead 1.17; S of all is N(0, 1).
    assert subjects.severity_S[dead].mean() == pytest.approx(1.17, abs=5 / np.sqrt(dead.sum()))


def test_labels_are_asked_before_the_record_ends_and_agree_with_it(written):
    table = read_all(written)
    death = table.filter(pc.equal(table["code"], meds.death_code))
    death_of = dict(zip(death["subject_id"].to_pylist(), death["time"].to_pylist(), strict=True))
    last = table.group_by("subject_id").aggregate([("time", "max")])
    last_of = dict(zip(last["subject_id"].to_pylist(), last["time_max"].to_pylist(), strict=True))
    labels = pa.concat_tables(
        [pq.read_table(p) for p in written.glob(f"{TASK}/*/0.parquet")]
    ).to_pylist()
    assert len(labels) > 100
    for label in labels:
        assert label["prediction_time"] < last_of[label["subject_id"]]
        assert label["boolean_value"] == (label["subject_id"] in death_of)


def test_settings_are_read_back_beside_the_data(written):
    config = read_synthetic_config(str(written))
    assert config == replace(SMALL, root=str(written), num_shards=3)
    truth = pq.read_table(written / "metadata" / "truth.parquet")
    assert truth.equals(code_truth(config))


def test_a_folder_with_data_is_refused(written):
    with pytest.raises(ValueError, match="is not a new folder"):
        write_hospital(replace(SMALL, root=str(written)))


def test_settings_out_of_range_are_refused_by_name():
    with pytest.raises(ValueError, match="num_codes=0 is not allowed: give 1 to 9000"):
        SyntheticConfig(root="", num_codes=0)
    with pytest.raises(ValueError, match=r"missing_rate=1\.0 is not allowed"):
        SyntheticConfig(root="", missing_rate=1.0)
    with pytest.raises(ValueError, match="split_shares"):
        SyntheticConfig(root="", split_shares=(0.5, 0.4, 0.4))


def test_the_command_line_writes_a_hospital_or_says_in_one_line_why_not(
    tmp_path, monkeypatch, capsys
):
    argv = ["--root", str(tmp_path / "new"), "--num_subjects", "10", "--num_codes", "3"]
    monkeypatch.setattr(sys, "argv", ["cvmae", "synthesize", *argv])
    main()
    assert capsys.readouterr().out == f"{tmp_path / 'new'}\n"
    with pytest.raises(SystemExit, match="cvmae: root="):
        main()
