"""The verb `impute`: MEDS files of expected values, intervals that hold, and a report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from meds.schema import DataSchema

import cvmae
from cvmae.checkpoint import load_model
from cvmae.config import PRESETS, override
from cvmae.infer import impute_set
from cvmae.infer.calibration import Coverage
from cvmae.infer.export import export
from cvmae.infer.hidden import restore_hidden
from cvmae.infer.impute_set import impute
from cvmae.infer.notice import NOTE
from cvmae.meds.dataset import open_dataset
from cvmae.meds.reading import read_unit
from cvmae.meds.units import plan_units
from cvmae.statistics.residuals import Residuals
from cvmae.train.pretrain import pretrain

HOUR = 3_600_000_000
KEYS = ["subject_id", "time", "code"]


@pytest.fixture
def settings(many, tmp_path):
    changes = {"output_dir": tmp_path / "out", "infer.checkpoint": many.output_dir}
    return override(many, changes)


def files(out):
    return {p.name: p.read_bytes() for p in sorted(Path(out, "imputed").glob("*.parquet"))}


def table_of(out):
    parts = [pq.read_table(p) for p in sorted(Path(out, "imputed").glob("*.parquet"))]
    return pa.concat_tables([part.replace_schema_metadata(None) for part in parts])


def report_of(out):
    return json.loads(Path(out, "report.json").read_text("utf-8"))


def rows_of(root):
    return pa.concat_tables(pq.read_table(p) for p in sorted(Path(root).glob("data/**/*.parquet")))


def keys(table):
    return sorted(zip(*(table[name].to_pylist() for name in KEYS), strict=True))


def missing_of(root, codes):
    rows = rows_of(root)
    rows = rows.filter(pc.is_in(rows["code"], pa.array(codes)))
    return rows.filter(pc.and_(pc.is_null(rows["numeric_value"]), pc.is_valid(rows["time"])))


def asked_file(path, *rows):
    subject, time, code = zip(*rows, strict=True)
    columns = {"subject_id": subject, "time": pa.array(time, pa.timestamp("us")), "code": code}
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_each_row_without_a_value_gets_one_in_meds_order(settings, many):
    printed = impute(settings)
    codes = load_model(many.output_dir).fitted.statistics.codes
    missing = missing_of(many.data.root, codes)
    table = table_of(settings.output_dir)
    assert missing.num_rows > 100
    assert keys(table) == keys(missing)
    assert f"{missing.num_rows:,} rows imputed" in printed
    columns = table.to_pydict()
    held = [
        low < value < high
        for low, value, high in zip(
            *(columns[n] for n in ("interval_low", "numeric_value", "interval_high")),
            strict=True,
        )
    ]
    assert all(held)
    for path in Path(settings.output_dir, "imputed").glob("*.parquet"):
        own = pq.read_table(path)
        DataSchema.validate(own.select([*KEYS, "numeric_value"]))
        DataSchema.align(own)
        assert keys(own) == list(zip(*(own[name].to_pylist() for name in KEYS), strict=True))
    assert len(files(settings.output_dir)) > 3


def test_values_are_those_that_python_gives(settings, many, tmp_path):
    impute(settings)
    exported = str(tmp_path / "exported")
    export(override(settings, {"output_dir": exported, "data.root": many.data.root}))
    own = cvmae.load(exported).impute(rows_of(many.data.root))
    table = table_of(settings.output_dir).sort_by([(name, "ascending") for name in KEYS])
    assert own.column_names == table.column_names
    for name in own.column_names:
        if name in KEYS:
            assert own[name].to_pylist() == table[name].to_pylist()
        else:
            np.testing.assert_allclose(own[name].to_numpy(), table[name].to_numpy(), rtol=1e-4)


def test_intervals_hold_about_as_many_held_out_values_as_they_are_to(settings):
    printed = impute(override(settings, {"infer.level": 0.8}))
    assert "Intervals of 80% by residuals of tuning" in printed
    report = report_of(settings.output_dir)
    held_out = report["held_out"]
    assert report["level"] == 0.8
    assert report["residuals_of"] == "tuning"
    assert held_out["values"] > 800
    # Values of one subject go together: 5 standard errors of a share over 72 subjects or so.
    assert held_out["coverage"] == pytest.approx(0.8, abs=0.06)
    assert f"They hold {held_out['coverage']:.1%} of {held_out['values']:,} hidden" in printed
    assert Path(settings.output_dir, "coverage.png").is_file()
    for entry in report["codes"]:
        assert entry["residuals_are_own"]
        assert entry["held_out_coverage"] == pytest.approx(0.8, abs=0.1)
    widths = [np.subtract(e["residual_high"], e["residual_low"]) for e in report["codes"]]
    assert 0.5 < min(widths) < max(widths) < 5  # standard deviations


def test_coverage_counts_measured_values_as_they_stand(settings, many):
    """Neither clipped nor those that quantiles were taken of."""
    impute(settings)
    model = load_model(many.output_dir)
    statistics = model.fitted.statistics
    (whole,) = plan_units(open_dataset(many.data.root), 10**9)
    rows, _ = read_unit(open_dataset(many.data.root), whole, statistics.lookup, "held_out")
    restored = restore_hidden(model, rows, settings)
    residuals = Residuals.read(Path(settings.output_dir, "residuals.parquet"))
    own = Coverage.of(restored, statistics, residuals)
    assert own.subjects_C.min() > 60
    assert own.share == report_of(settings.output_dir)["held_out"]["coverage"]
    beyond = replace(restored, value_Q=restored.value_Q * 0 + 1e9)
    assert Coverage.of(beyond, statistics, residuals).share == 0
    few = replace(own, subjects_C=own.subjects_C * 0 + 19)
    assert np.isnan(few.share_C).all()
    lacks = own.subjects_C.copy()
    lacks[0] = 19
    told = replace(own, subjects_C=lacks)
    assert told.num_told == own.num_told - own.count_C[0]  # or it could be had by subtraction
    assert told.share == (own.held_C[1:].sum() / own.count_C[1:].sum())
    none = replace(residuals, low_C=residuals.low_C * np.nan, high_C=residuals.high_C * np.nan)
    assert np.isnan(Coverage.of(restored, statistics, none).share)


class KilledError(Exception):
    """In place of what ends a process."""


def test_an_interrupted_job_goes_on_and_ends_as_if_it_had_not_been(settings, monkeypatch, tmp_path):
    original, begun = impute_set._UnitWriter.__call__, []

    def stop(self, item):
        if len(begun) == 2:
            raise KilledError
        begun.append(item)
        original(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(impute_set._UnitWriter, "__call__", stop)
        with pytest.raises(KilledError):
            impute(settings)
    assert len(files(settings.output_dir)) == 2
    other = override(settings, {"infer.level": 0.9, "resume": settings.output_dir})
    with pytest.raises(ValueError, match=r"made with another infer\.level: give the same"):
        impute(other)
    tests = []
    monkeypatch.setattr("cvmae.infer.calibration.restore_hidden", tests.append)
    resumed = impute(replace(settings, resume=settings.output_dir))
    assert tests == []
    monkeypatch.undo()
    whole = replace(settings, output_dir=str(tmp_path / "whole"))
    assert resumed == impute(whole).replace(whole.output_dir, settings.output_dir)
    assert files(settings.output_dir) == files(whole.output_dir)
    for name in ("report.json", "residuals.parquet", "coverage.json"):
        assert (
            Path(settings.output_dir, name).read_bytes()
            == Path(whole.output_dir, name).read_bytes()
        )
    assert "patient data" in Path(settings.output_dir, NOTE).read_text("utf-8")


def test_rows_that_are_asked_for_all_come_and_those_without_a_basis_are_null(
    settings, many, tmp_path
):
    codes = load_model(many.output_dir).fitted.statistics.codes
    rows = rows_of(many.data.root)
    measured = rows.filter(pc.is_in(rows["code"], pa.array(codes)))
    measured = measured.filter(pc.is_valid(measured["numeric_value"])).slice(5, 1).to_pylist()[0]
    asked = [
        (measured["subject_id"], measured["time"], measured["code"]),
        (measured["subject_id"], 5 * HOUR, codes[2]),
        (10**9, 7 * HOUR, codes[0]),
        (measured["subject_id"], 5 * HOUR, codes[2]),  # twice
    ]
    path = asked_file(tmp_path / "rows.parquet", *asked)
    printed = impute(override(settings, {"infer.rows": path}))
    table = table_of(settings.output_dir)
    assert table.num_rows == 3
    assert "2 rows imputed" in printed
    assert "1 row null: the data set does not have the subject" in printed
    columns = table.to_pydict()
    by_subject = dict(zip(columns["subject_id"], columns["interval_low"], strict=True))
    assert by_subject[10**9] is None
    assert by_subject[measured["subject_id"]] is not None


def test_codes_that_the_model_does_not_know_are_refused_by_name(settings, tmp_path):
    path = asked_file(tmp_path / "rows.parquet", (0, 5, "LAB//zinc"), (0, 6, "LAB//zinc"))
    config = override(settings, {"infer.rows": path})
    with pytest.raises(ValueError, match=r"infer\.rows=.*2 rows with codes .* LAB//zinc; leave"):
        impute(config)
    with pytest.raises(FileNotFoundError, match=r"infer\.rows=.*: there is no such file"):
        impute(override(settings, {"infer.rows": tmp_path / "nowhere.parquet"}))
    (tmp_path / "w.csv").write_text("subject_id,time,code\n0,5,LAB//zinc\n", encoding="utf-8")
    expected = (
        r"infer\.rows=.*w\.csv cannot be read as parquet .*: give a parquet file with the col"
    )
    with pytest.raises(ValueError, match=expected):
        impute(override(settings, {"infer.rows": tmp_path / "w.csv"}))
    nowhere = override(settings, {"infer.rows": path, "infer.checkpoint": tmp_path / "nowhere"})
    with pytest.raises(FileNotFoundError, match=r"infer\.checkpoint=.*: there is no such folder"):
        impute(nowhere)
    assert not Path(config.output_dir).exists()


def test_rows_of_a_subject_without_values_or_beside_one_are_told(settings, many, write_meds):
    code, other = load_model(many.output_dir).fitted.statistics.codes[:2]
    rows = [
        (1, None, code, None),  # no time
        (1, 5 * HOUR, code, 1.5),
        (1, 5 * HOUR, code, None),  # beside a value
        (1, 6 * HOUR, other, float("nan")),
        (1, 6 * HOUR, other, None),  # the same row again
        (2, 5 * HOUR, code, None),  # of a subject without any value
        (3, 5 * HOUR, "LAB//zinc", None),
    ]
    root = write_meds({"0.parquet": rows}, dict.fromkeys((1, 2, 3), "held_out"), name="other")
    exported = settings.output_dir + "_exported"
    export(override(settings, {"output_dir": exported, "data.root": many.data.root}))
    config = override(settings, {"data.root": root, "infer.checkpoint": exported})
    printed = impute(config)
    found = table_of(config.output_dir).to_pylist()
    assert [(row["subject_id"], row["code"]) for row in found] == [(1, other), (2, code)]
    assert [row["numeric_value"] is None for row in found] == [False, True]
    assert [row["interval_low"] is None for row in found] == [False, True]
    assert "1 row imputed" in printed
    assert "1 row null: no measurement of the subject to go by" in printed
    assert "1 row left out: the same code has a value at the same time" in printed
    assert "1 row left out: neither a value nor a time" in printed
    assert "residuals of the model" in printed
    report = report_of(config.output_dir)
    assert report["held_out"] == {"values": 0, "coverage": None}


def test_a_row_keeps_the_name_of_its_code(write_meds, tmp_path):
    names = ("Na//mmol", "Na//mEq")
    rng = np.random.default_rng(0)
    rows = [
        (subject, hour * HOUR, names[hour % 2], None if hour == 5 else float(rng.normal(140, 5)))
        for subject in range(30)
        for hour in range(12)
    ]
    splits = {s: ("train", "tuning", "held_out")[s % 3] for s in range(30)}
    root = write_meds({"0.parquet": rows}, splits)
    (tmp_path / "codes.txt").write_text("\t".join(names) + "\n")
    changes = {
        "data.root": root,
        "data.codes_file": tmp_path / "codes.txt",
        "data.min_count": 2,
        "scaling.num_workers": 0,
        "train.epochs": 1,
        "output_dir": tmp_path / "run",
    }
    config = override(PRESETS["tiny"], changes)
    pretrain(config)
    out = override(config, {"output_dir": tmp_path / "out", "infer.checkpoint": tmp_path / "run"})
    printed = impute(out)
    assert set(table_of(out.output_dir)["code"].to_pylist()) == {names[1]}
    # 10 subjects on tuning are too few for an interval.
    assert "No intervals: only " in printed
    assert table_of(out.output_dir)["interval_low"].null_count == 30


def test_a_model_without_residuals_needs_a_tuning_split(settings, many, write_meds):
    code = load_model(many.output_dir).fitted.statistics.codes[0]
    rows = [(1, 5, code, 1.0), (1, 6, code, None)]
    root = write_meds({"0.parquet": rows}, {1: "held_out"}, name="other")
    config = override(settings, {"data.root": root})
    with pytest.raises(ValueError, match=r"no residuals for infer\.level=0\.95 and .*in tuning to"):
        impute(config)
    assert not Path(config.output_dir).exists()


def test_what_is_exported_with_a_data_set_has_residuals_and_keeps_them(
    settings, many, tmp_path, caplog
):
    first, second = (str(tmp_path / name) for name in ("first", "second"))
    text = export(override(settings, {"output_dir": first, "infer.level": 0.9}))
    assert "intervals of 0.9: 3 of 3 codes by residuals of their own" in text
    again = override(settings, {"output_dir": second, "infer.checkpoint": first, "data.root": ""})
    assert "intervals of 0.9" in export(again)
    one, two = (load_model(folder).residuals for folder in (first, second))
    assert one.level == two.level == 0.9
    assert np.array_equal(one.low_C, two.low_C)
    assert load_model(many.output_dir).residuals is None
    few = override(settings, {"output_dir": tmp_path / "few", "evaluate.mask_ratio": 0.001})
    assert "has no intervals" in export(few)
    assert "too few for quantiles" in caplog.text
    assert load_model(few.output_dir).residuals is None
    bare = override(settings, {"output_dir": tmp_path / "bare", "data.root": ""})
    assert "has no intervals: they come with --data.root" in export(bare)
