import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cvmae.checkpoint import load_model, save_checkpoint
from cvmae.config import override
from cvmae.infer import embed_set
from cvmae.infer.embed import embed_labels
from cvmae.infer.embed_set import NOTE, REPORT, embed
from cvmae.meds.dataset import open_dataset
from cvmae.meds.labels import read_labels
from cvmae.settings import ScalingConfig

HOUR = 3_600_000_000


def write_labels(hospital, path, hours=20, more=()):
    """A label for each subject, some hours after its first measurement, and further ones."""
    rows = pa.concat_tables(
        pq.read_table(file) for file in sorted(Path(hospital).glob("data/**/*.parquet"))
    )
    rows = rows.filter(pa.compute.is_valid(rows["numeric_value"]))
    first = rows.group_by("subject_id").aggregate([("time", "min")])
    subjects = [*first["subject_id"].to_pylist(), *(subject for subject, _ in more)]
    times = [
        *(t + hours * HOUR for t in first["time_min"].cast(pa.int64()).to_pylist()),
        *(time for _, time in more),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "subject_id": subjects,
        "prediction_time": pa.array(times, pa.timestamp("us")),
        "boolean_value": [True] * len(subjects),
    }
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.fixture
def settings(run, hospital, tmp_path):
    """Settings of a job that embeds the subjects of a label set."""
    labels = write_labels(hospital, tmp_path / "labels/dies.parquet", more=[(10**9, 5)])
    return override(
        run,
        {
            "output_dir": tmp_path / "out",
            "infer.checkpoint": run.output_dir,
            "infer.labels": labels,
        },
    )


def files(out):
    return {p.name: p.read_bytes() for p in sorted(Path(out, "embeddings").glob("*.parquet"))}


def table_of(out):
    parts = [pq.read_table(p) for p in sorted(Path(out, "embeddings").glob("*.parquet"))]
    table = pa.concat_tables([part.replace_schema_metadata(None) for part in parts])
    return table.sort_by([("subject_id", "ascending"), ("prediction_time", "ascending")])


def vectors(table):
    return np.array(table["embedding"].to_pylist(), np.float32)


def test_every_label_has_the_embedding_that_python_gives(settings, hospital):
    printed = embed(settings)
    table = table_of(settings.output_dir)
    labels = read_labels(settings.infer.labels)
    expected = embed_labels(
        load_model(settings.infer.checkpoint),
        open_dataset(hospital),
        labels,
        poolings=["mean+decoded"],
        scaling=ScalingConfig(num_workers=0),
        unit_rows=settings.data.unit_rows,
    )
    assert table["subject_id"].to_pylist() == labels.subject_id_L.tolist()
    assert table["prediction_time"].cast(pa.int64()).to_pylist() == labels.time_us_L.tolist()
    assert table["has_rows"].to_pylist() == expected.has_rows_L.tolist()
    assert not expected.has_rows_L[-1]  # of the subject that is not in the data
    assert np.array_equal(vectors(table), expected.embedding_LD["mean+decoded"])
    assert len(files(settings.output_dir)) > 3  # units, each with a file of its own
    assert f"{labels.num_labels} embeddings of {32 + 8} numbers" in printed
    assert "1 of them zeros, of 1 subject whom the data set does not have" in printed


def test_without_labels_each_subject_is_embedded_at_its_last_measurement(settings, hospital):
    config = override(settings, {"infer.labels": "", "infer.pooling": "mean"})
    assert "0 subjects of the splits without measurement or embedding" in embed(config)
    table = table_of(config.output_dir)
    rows = pa.concat_tables(
        pq.read_table(file) for file in sorted(Path(hospital).glob("data/**/*.parquet"))
    )
    known = set(load_model(config.infer.checkpoint).fitted.statistics.codes)
    rows = rows.filter(pa.compute.is_valid(rows["numeric_value"]))
    rows = rows.filter(pa.compute.is_in(rows["code"], pa.array(known)))
    last = rows.group_by("subject_id").aggregate([("time", "max")]).sort_by("subject_id")
    assert table["subject_id"].to_pylist() == last["subject_id"].to_pylist()
    assert table["prediction_time"].to_pylist() == last["time_max"].to_pylist()
    assert all(table["has_rows"].to_pylist())
    assert vectors(table).shape[1] == 32


def test_several_tasks_that_ask_for_one_moment_get_one_embedding(settings, hospital, tmp_path):
    for name, hours in (("a", 20), ("b", 20), ("c", 40)):
        write_labels(hospital, tmp_path / f"tasks/{name}/0.parquet", hours)
    config = override(settings, {"infer.labels": tmp_path / "tasks"})
    embed(config)
    num_subjects = read_labels(str(tmp_path / "tasks" / "a")).num_labels
    assert table_of(config.output_dir).num_rows == 2 * num_subjects


class KilledError(Exception):
    """In place of what ends a process."""


def interrupt(settings, monkeypatch, after):
    """Let a job end after some units; return which files are there."""
    original, begun = embed_set._UnitWriter.__call__, []

    def stop(self, item):
        if len(begun) == after:
            raise KilledError
        begun.append(item)
        original(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(embed_set._UnitWriter, "__call__", stop)
        with pytest.raises(KilledError):
            embed(settings)
    return files(settings.output_dir)


def test_an_interrupted_job_goes_on_and_ends_as_if_it_had_not_been(settings, monkeypatch, tmp_path):
    there = interrupt(settings, monkeypatch, 2)
    assert len(there) == 2
    (Path(settings.output_dir) / "embeddings" / ".writing_x_unit_000003.parquet").touch()
    redone = []
    writer = embed_set._UnitWriter.__call__
    monkeypatch.setattr(
        embed_set._UnitWriter,
        "__call__",
        lambda self, item: (redone.append(item[0]), writer(self, item))[1],
    )
    resumed = embed(replace(settings, resume=settings.output_dir))
    whole = replace(settings, output_dir=str(tmp_path / "whole"))
    printed = embed(whole)
    assert resumed == printed.replace(whole.output_dir, settings.output_dir)
    assert files(settings.output_dir) == files(whole.output_dir)
    reports = [Path(c.output_dir, REPORT).read_bytes() for c in (settings, whole)]
    assert reports[0] == reports[1]
    num_units = len(files(whole.output_dir)) - 1
    assert len(redone) == (num_units - 2) + num_units
    assert not list(Path(settings.output_dir, "embeddings").glob(".writing*"))


def test_a_damaged_file_is_named_before_the_rest_is_worked_off(settings, monkeypatch):
    name = sorted(interrupt(settings, monkeypatch, 2))[0]
    path = Path(settings.output_dir, "embeddings", name)
    whole, resumed = path.read_bytes(), replace(settings, resume=settings.output_dir)
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    foreign = path.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", whole[:-8] + b"\xff" * 4 + whole[-4:], foreign):
        path.write_bytes(damage)
        said = re.escape(f"{path} is cut short, damaged or no file of this job: remove it, and ")
        with pytest.raises(ValueError, match=rf"^{said}--resume {settings.output_dir} makes it"):
            embed(resumed)
    assert len(files(settings.output_dir)) == 2  # nothing was worked off for it
    path.unlink()
    embed(resumed)
    assert path.read_bytes() == whole


def test_a_file_that_is_found_damaged_when_all_are_read_is_named(settings):
    embed(settings)
    path = next(Path(settings.output_dir, "embeddings").glob("unit_*.parquet"))
    whole = path.read_bytes()
    path.write_bytes(b"\xff" * (len(whole) // 2) + whole[len(whole) // 2 :])  # its footer is whole
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is cut short, damaged or no"):
        embed(replace(settings, resume=settings.output_dir))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"infer.pooling": "mean"}, "infer.pooling"),
        ({"data.unit_rows": 700}, "data.unit_rows"),
        ({"infer.labels": ""}, "infer.labels"),
    ],
)
def test_what_was_begun_with_other_settings_is_not_gone_on_with(
    settings, monkeypatch, changes, named
):
    before = interrupt(settings, monkeypatch, 1)
    other = override(settings, changes | {"resume": settings.output_dir})
    with pytest.raises(ValueError, match=rf"made with another {named}: give the same"):
        embed(other)
    assert files(settings.output_dir) == before


def test_a_folder_that_holds_something_is_refused_and_resuming_is_named(settings, tmp_path):
    embed(settings)
    with pytest.raises(ValueError, match=r"not empty.*go on .* by --resume"):
        embed(settings)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"not empty: choose a new folder$"):
        embed(replace(settings, output_dir=str(tmp_path / "other")))
    empty = str(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"no embed\.json there"):
        embed(replace(settings, output_dir=empty, resume=empty))


def test_files_are_the_same_whatever_else_is_asked_for_of_other_units(settings):
    """A job's files depend on data, model and settings: twice the same bytes."""
    embed(settings)
    again = replace(settings, output_dir=settings.output_dir + "_again")
    embed(again)
    hashes = [
        {name: hashlib.sha256(b).hexdigest() for name, b in files(c.output_dir).items()}
        for c in (settings, again)
    ]
    assert hashes[0] == hashes[1]


def test_a_note_says_that_these_are_patient_data(settings):
    printed = embed(settings)
    note = Path(settings.output_dir, NOTE)
    assert "are patient data" in note.read_text("utf-8")
    assert str(note) in printed


def test_codes_without_values_and_values_that_moved_are_reported(
    settings, hospital, write_meds, run
):
    statistics = load_model(run.output_dir).fitted.statistics
    kept, moved = statistics.codes[:2]
    mean, std = statistics.mean, statistics.std
    draw = np.random.default_rng(0).normal(size=400)
    rows = [(1, i * HOUR, kept, float(mean[0] + std[0] * z)) for i, z in enumerate(draw)]
    rows += [(1, 401 * HOUR, moved, float(mean[1] + 2 * std[1]))] * 100
    rows += [(1, 402 * HOUR, statistics.codes[3], float(mean[3] + 2 * std[3]))] * 99
    other = write_meds({"0.parquet": rows}, {1: "train"}, name="elsewhere")
    config = override(settings, {"data.root": other, "infer.labels": ""})
    printed = embed(config)
    assert f"3 of the model's {statistics.num_codes} codes have values; none: " in printed
    assert f"{moved}: mean +2.0" in printed
    assert f"  {kept}" not in printed
    assert f"  {statistics.codes[3]}" not in printed
    codes = json.loads(Path(config.output_dir, REPORT).read_text("utf-8"))["codes"]
    by_code = {entry["code"]: entry for entry in codes}
    # Clipping to train's quantiles, and 400 draws: within a few standard errors of 0.05.
    assert by_code[kept]["mean_shift"] == pytest.approx(draw.mean(), abs=0.05)
    assert by_code[kept]["std_ratio"] == pytest.approx(draw.std(), abs=0.05)
    few = {"values": 99, "mean_shift": None, "std_ratio": None}
    assert by_code[statistics.codes[3]] == {"code": statistics.codes[3], **few}
    assert by_code[statistics.codes[2]] == {
        "code": statistics.codes[2],
        "values": 0,
        "mean_shift": None,
        "std_ratio": None,
    }


def test_a_model_whose_weights_are_no_numbers_embeds_nothing(settings, tmp_path):
    broken = load_model(settings.infer.checkpoint)
    with torch.no_grad():
        broken.model.value_embedding.bias.fill_(np.nan)
    checkpoint = save_checkpoint(
        tmp_path / "broken",
        config=broken.config,
        fitted=broken.fitted,
        progress=broken.progress,
        model=broken.model.state_dict(),
        optimizer={},
    )
    config = override(settings, {"infer.checkpoint": checkpoint})
    message = (
        rf"^infer\.checkpoint={checkpoint}, unit 0: embeddings are NaN or infinite; its weights"
    )
    with pytest.raises(ValueError, match=message):
        embed(config)
    assert files(config.output_dir) == {}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"infer.checkpoint": ""}, ValueError, "infer.checkpoint is empty"),
        ({"infer.checkpoint": "nowhere"}, FileNotFoundError, "there is no such folder"),
        ({"infer.labels": "nowhere"}, FileNotFoundError, "holds no label set"),
        ({"output_dir": ""}, ValueError, "output_dir is empty"),
    ],
)
def test_what_is_missing_is_named(settings, changes, error, message):
    with pytest.raises(error, match=message):
        embed(override(settings, changes))


def test_a_subject_in_two_files_is_refused(settings, write_meds, run):
    code = load_model(run.output_dir).fitted.statistics.codes[0]
    rows = [(1, i, code, 1.0) for i in range(9)]
    other = write_meds({"a.parquet": rows, "b.parquet": rows}, {1: "train"}, name="twice")
    config = override(settings, {"data.root": other, "infer.labels": "", "data.unit_rows": 5})
    with pytest.raises(ValueError, match="a subject has rows in two files"):
        embed(config)
