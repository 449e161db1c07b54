"""The verb: all defects in one look, a table, a file for machines, and an exit code.

That it refuses exactly what pretraining refuses is asserted over every broken data set, in
`broken_sets`.
"""

import json
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import cvmae.runtime.start_ray
from cvmae.command_line import run_job
from cvmae.config import PRESETS, read_config
from cvmae.evaluate import evaluate as evaluate_module
from cvmae.evaluate.evaluate import evaluate
from cvmae.meds import listing as listing_module
from cvmae.meds import parquet as parquet_module
from cvmae.settings import ScalingConfig
from cvmae.statistics.fit import fit_statistics
from cvmae.sweep import driver
from cvmae.sweep.driver import sweep
from cvmae.train import pretrain as pretrain_module
from cvmae.train.pretrain import pretrain
from cvmae.validate import validate as validate_module
from cvmae.validate.validate import check, validate
from tests.prepared import fit
from tests.validate.broken_sets import (
    FOUR,
    ONE,
    SOUND,
    THREE,
    TRAIN,
    TWO,
    VALUE,
    change,
    config_of,
    rows_of,
    whole,
)

NEW = THREE + 10


@pytest.fixture
def root(write_meds):
    return write_meds(*whole({"a.parquet": SOUND}, TRAIN))


@pytest.fixture
def badly_broken(write_meds):
    """A data set with a defect in every file."""
    late, early = (NEW, 9, "LAB//A", VALUE), (NEW, 8, "LAB//A", VALUE)
    shards = {
        "a.parquet": rows_of(ONE),
        "b.parquet": rows_of(TWO, FOUR),  # the latter is in the sound shard, too
        "c.parquet": [late, early, *[late, early] * 5],
        "d.parquet": [(NEW + 1, 1, None, VALUE), *rows_of(NEW + 2), *rows_of(NEW + 1)],
        "e.parquet": rows_of(THREE),
        "f.parquet": [(NEW + 3, 1, "LAB//A", float("nan"))],
    }
    root = write_meds(*whole(shards, {**TRAIN, NEW: "train", NEW + 1: "train"}))
    Path(root, "data", "a.parquet").write_text("not parquet", encoding="utf-8")
    change(f"{root}/data/e.parquet", lambda table: table.drop_columns(["time"]))
    return root


def brief(findings):
    return [(found.level, found.file, found.rows, found.count) for found in findings]


def run(monkeypatch, root, *flags):
    flags = ["--data.root", root, "--data.min_count", "2", "--scaling.num_workers", "0", *flags]
    monkeypatch.setattr(sys, "argv", ["job", *flags])
    run_job(validate)


# --- findings


@pytest.mark.parametrize("unit_rows", [1, 10**6])
def test_one_look_finds_the_defects_of_all_files(badly_broken, unit_rows):
    found = check(config_of(badly_broken, unit_rows=unit_rows)).findings
    assert sorted(brief(found)) == sorted(
        [
            ("refused", "data/a.parquet", (), 1),
            ("refused", "data/b.parquet", (), 1),
            ("refused", "data/c.parquet", (1, 3, 5, 7, 9), 6),
            ("refused", "data/d.parquet", (0,), 1),
            ("refused", "data/d.parquet", (4,), 1),
            ("refused", "data/e.parquet", (), 1),
            ("counted", "data/b.parquet", (0, 3), 2),
            ("counted", "data/d.parquet", (1, 4), 2),
            ("counted", "data/f.parquet", (0,), 1),
            ("counted", "data/z.parquet", (0, 3), 2),
        ]
    )


def test_unsound_splits_do_not_hide_unsound_rows(badly_broken):
    Path(badly_broken, "metadata", "subject_splits.parquet").unlink()
    files = {f.file for f in check(config_of(badly_broken)).findings if f.level == "refused"}
    assert files == {f"data/{name}.parquet" for name in "abcde"} | {
        "metadata/subject_splits.parquet"
    }


def test_every_pair_of_files_that_share_subjects_is_found(write_meds):
    shards = {f"{name}.parquet": rows_of(ONE, TWO) for name in "abc"}
    found = check(config_of(write_meds(*whole(shards, TRAIN)))).findings
    assert brief(f for f in found if f.level == "refused") == [
        ("refused", "data/a.parquet", (), 2),
        ("refused", "data/b.parquet", (), 2),
    ]


def test_a_look_behind_a_defect_lists_once_and_opens_other_files_and_footers_once(
    write_meds, monkeypatch
):
    root = write_meds(*whole({"a.parquet": SOUND, "b.parquet": rows_of(NEW)}, TRAIN))
    truncate(root)
    Path(root, "data", "notes.txt").write_text("words")
    looks: Counter = Counter()

    def counting(module, name):
        real = getattr(module, name)

        def counted(root, path):
            looks[path] += 1
            return real(root, path)

        monkeypatch.setattr(module, name, counted)

    counting(listing_module, "list_files")
    counting(listing_module, "open_file")
    counting(parquet_module, "open_file")
    assert not check(config_of(root)).accepted
    cut_short = "data/z.parquet"  # nothing is read of it but its footer
    assert [looks[name] for name in ("data", "data/notes.txt", cut_short)] == [1, 1, 1]


def test_a_file_that_vanishes_between_listing_and_reading_is_a_finding(write_meds, monkeypatch):
    root = write_meds(*whole({"a.parquet": SOUND, "b.parquet": rows_of(NEW)}, TRAIN))
    plan = validate_module.plan_units

    def plan_then_vanish(dataset, unit_rows):
        Path(root, "data", "a.parquet").unlink()
        return plan(dataset, unit_rows)

    monkeypatch.setattr(validate_module, "plan_units", plan_then_vanish)
    validation = check(config_of(root))
    (found,) = [f for f in validation.findings if f.level == "refused"]
    assert found.file == "data/a.parquet"
    assert "is gone" in found.what
    assert validation.counts["rows"] == len(rows_of(NEW)) + 6


@pytest.mark.parametrize("row_group_size", [1, 2, 5, 100])
def test_neither_units_nor_row_groups_change_what_is_found(write_meds, row_group_size):
    odd = [
        (NEW, 1, "LAB//A", float("nan")),
        (NEW, 2, "LAB// ", 1.0),
        (NEW, 2, "LAB// ", 2.0),
        (NEW + 1, None, "LAB//A", 1.0),
        (NEW + 1, None, "LAB//A", None),
        (NEW + 1, 3, "LAB//A", float("inf")),
        (NEW + 2, 4, "LAB//A", 1.0),
    ]
    splits = {**TRAIN, NEW: "train", NEW + 1: "tuning"}
    shards = {"a.parquet": [*SOUND, *odd], "b.parquet": rows_of(NEW + 3)}
    root = write_meds(*whole(shards, splits), row_group_size=row_group_size)
    whole_units = check(config_of(root))
    assert len(whole_units.findings) >= 6
    assert check(config_of(root, unit_rows=1)) == whole_units


def test_statistics_of_other_data_are_a_finding(root, write_meds, tmp_path):
    other = write_meds(
        {"a.parquet": rows_of(*TRAIN, FOUR)}, {**TRAIN, FOUR: "tuning"}, name="other"
    )
    fit(config_of(other)).write(tmp_path / "statistics")
    given = {"statistics": str(tmp_path / "statistics")}
    assert check(config_of(other, **given)).accepted
    (found,) = [f for f in check(config_of(root, **given)).findings if f.level == "refused"]
    assert "fitted to other data" in found.what


# --- what is said


def test_sound_data_end_with_code_0_and_say_what_was_checked(root, monkeypatch, capsys):
    run(monkeypatch, root)
    said = capsys.readouterr().out
    assert "2 shards, 15 rows, subjects: train 3, tuning 1, held_out 1, no split 0" in said
    assert "rows of matching codes: 15; of these without value 0, without time 5, NaN 0" in said
    assert "measurements: 10; of these repeated 0" in said
    assert "would accept" in said


def test_broken_data_end_with_code_1_and_a_table_of_what_where_and_what_to_do(
    badly_broken, monkeypatch, capsys
):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, badly_broken)
    assert ended.value.code == 1
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0].split("  ")[0] == "level"
    (line,) = [line for line in lines if "data/c.parquet" in line]
    assert line.startswith("refused")
    assert "1, 3, 5, 7, 9, ..." in line
    assert "sort the file by subject_id" in " ".join(said.split())
    assert "would refuse this data set: 6 findings" in said


def test_many_files_with_the_same_finding_take_a_few_lines_but_are_all_in_the_json(
    write_meds, tmp_path, monkeypatch, capsys
):
    shards = {f"{number:03}.parquet": [] for number in range(200)}
    root = write_meds(*whole({"a.parquet": SOUND, **shards}, TRAIN))
    run(monkeypatch, root, "--output_dir", str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert len(said.splitlines()) < 20
    assert "and 197 more files" in said
    report = json.loads((tmp_path / "out" / "validation.json").read_text(encoding="utf-8"))
    assert sum(found["what"] == "has no rows" for found in report["findings"]) == 200


def test_the_json_holds_the_same_findings(badly_broken, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        run(monkeypatch, badly_broken, "--output_dir", str(out))
    report = json.loads((out / "validation.json").read_text(encoding="utf-8"))
    expected = check(config_of(badly_broken))
    assert report == json.loads(json.dumps(expected.as_json()))
    assert report["accepted"] is False
    assert set(report["findings"][0]) == {"level", "file", "rows", "count", "what", "what_to_do"}
    assert read_config(out / "config.yaml").data.root == badly_broken
    with pytest.raises(SystemExit, match="is not empty"):
        run(monkeypatch, badly_broken, "--output_dir", str(out))


def test_an_empty_root_is_one_line(monkeypatch):
    with pytest.raises(SystemExit, match=r"cvmae: data\.root is empty"):
        run(monkeypatch, "")


@pytest.mark.ray
def test_on_ray_the_findings_are_the_same(badly_broken, shared_ray):
    config = config_of(badly_broken, unit_rows=1)
    on_ray = replace(config, scaling=ScalingConfig(num_workers=1))
    assert check(on_ray) == check(config)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "num_measurements"),
    [("physionet2012", 738_871), ("mimic4_demo_labs", 95_246), ("mimic4_demo_full", 95_132)],
)
def test_real_data_are_accepted(real_data, name, num_measurements):
    validation = check(config_of(str(real_data / name), min_count=25))
    assert validation.accepted
    assert validation.counts["measurements"] == num_measurements


# --- the cheap form: footers and splits, at the start of every job


def truncate(root):
    path = sorted(Path(root).rglob("data/**/*.parquet"))[-1]
    path.write_bytes(path.read_bytes()[:-50])
    return path.name


def make_foreign(root):
    path = sorted(Path(root).rglob("data/**/*.parquet"))[-1]
    change(path, lambda table: table.rename_columns([f"x{name}" for name in table.column_names]))
    return path.name


def remove_splits(root):
    Path(root, "metadata", "subject_splits.parquet").unlink()
    return "subject_splits.parquet"


def remove_data(root):
    shutil.rmtree(Path(root, "data"))
    return "data/"


@pytest.fixture(scope="module")
def trained(hospital, tmp_path_factory):
    """A run folder for `evaluate` to find."""
    base = PRESETS["tiny"]
    return pretrain(
        replace(
            base,
            output_dir=str(tmp_path_factory.mktemp("run") / "cv"),
            data=replace(base.data, root=hospital, min_count=2),
            train=replace(base.train, epochs=1),
            scaling=replace(base.scaling, num_workers=0),
        )
    )


@pytest.mark.parametrize("verb", [fit_statistics, pretrain, sweep, evaluate])
@pytest.mark.parametrize("break_it", [truncate, make_foreign, remove_splits, remove_data])
def test_every_job_refuses_what_footers_tell_before_ray_starts_or_anything_is_written(
    hospital, trained, tmp_path, tiny, monkeypatch, break_it, verb
):
    def start(scaling):
        raise AssertionError("Ray was started")

    for module in (cvmae.runtime.start_ray, pretrain_module, driver, evaluate_module):
        monkeypatch.setattr(module, "start_ray", start)
    root = str(shutil.copytree(hospital, tmp_path / "broken"))
    config = replace(
        tiny,
        data=replace(tiny.data, root=root),
        scaling=ScalingConfig(num_workers=2),
        evaluate=replace(tiny.evaluate, checkpoints=(f"cv={trained}",)),
    )
    expected = break_it(root)
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        verb(config)
    out = Path(config.output_dir)
    assert not out.exists() or not list(out.iterdir())
