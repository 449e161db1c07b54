"""A trained model used from Python, and handed on."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
import torch

import cvmae
from cvmae.checkpoint import load_model
from cvmae.config import PRESETS, flatten, override, write_config
from cvmae.infer import export as verb
from cvmae.infer.card import CARD
from cvmae.infer.embed import embed_labels
from cvmae.infer.export import export
from cvmae.meds.dataset import open_dataset
from cvmae.meds.labels import Labels
from cvmae.settings import ScalingConfig
from tests.pages import PAGES

HOUR = 3_600_000_000


@pytest.fixture(scope="module")
def exported(run):
    folder = str(Path(run.output_dir).parent / "exported")
    config = replace(PRESETS["paper"], output_dir=folder)
    text = export(override(config, {"infer.checkpoint": run.output_dir}))
    assert f"model: {folder}, read by cvmae.load" in text
    return Path(folder)


@pytest.fixture(scope="module")
def rows(hospital):
    files = sorted(Path(hospital).glob("data/**/*.parquet"))
    return pa.concat_tables(pq.read_table(file) for file in files)


def test_subjects_are_embedded_as_the_verb_embeds_them(run, exported, rows):
    model = cvmae.load(Path(exported))
    assert repr(model).startswith(f"Model({len(model.codes)} codes, mask.policy=")
    assert len(repr(model)) < 100
    time_N = rows["time"].cast(pa.int64()).fill_null(0).to_numpy()
    own = model.encode(rows.take(np.argsort(time_N, kind="stable")))  # subjects interleaved
    labels = Labels(
        name="",
        kind="boolean",
        subject_id_L=own["subject_id"].to_numpy(),
        time_us_L=own["prediction_time"].cast(pa.int64()).to_numpy(),
        value_L=np.zeros(own.num_rows),
    )
    expected = embed_labels(
        load_model(run.output_dir),
        open_dataset(run.data.root),
        labels,
        poolings=["mean+decoded"],
        scaling=ScalingConfig(num_workers=0),
    )
    found_LD = np.stack(own["embedding"].to_numpy())
    np.testing.assert_allclose(found_LD, expected.embedding_LD["mean+decoded"], atol=1e-5)
    assert np.abs(found_LD).max() > 0.1
    measured = rows.filter(pa.compute.is_in(rows["code"], pa.array(model.codes)))
    assert own["subject_id"].to_pylist() == sorted(set(measured["subject_id"].to_pylist()))


def test_nothing_later_than_the_asked_time_counts(exported, rows):
    model = cvmae.load(str(exported))
    measured = rows.filter(pa.compute.is_in(rows["code"], pa.array(model.codes)))
    first = measured.group_by("subject_id").aggregate([("time", "min")])
    time = pa.compute.add(first["time_min"], pa.scalar(5 * HOUR, pa.duration("us")))
    at = pa.table({"subject_id": first["subject_id"], "prediction_time": time})
    at = pa.concat_tables([at, at.slice(0, 1).set_column(0, "subject_id", pa.array([10**9]))])
    asked = dict(zip(at["subject_id"].to_pylist(), at["prediction_time"].to_pylist(), strict=True))
    early = [
        when is None or when <= asked[subject]
        for subject, when in zip(
            rows["subject_id"].to_pylist(), rows["time"].to_pylist(), strict=True
        )
    ]
    assert not all(early)
    whole, cut = model.encode(rows, at), model.encode(rows.filter(pa.array(early)), at)
    assert whole.column_names == ["subject_id", "prediction_time", "has_rows", "embedding"]
    assert whole["subject_id"].to_pylist() == at["subject_id"].to_pylist()
    whole_LD, cut_LD = (np.stack(frame["embedding"].to_numpy()) for frame in (whole, cut))
    np.testing.assert_allclose(whole_LD, cut_LD, atol=1e-6)
    assert whole["has_rows"].to_pylist()[-1] is False
    assert not whole_LD[-1].any()
    assert whole_LD[0].any()


def test_values_of_another_unit_and_few_codes_are_warned_of(exported, rows, caplog):
    model = cvmae.load(exported)
    frame = rows.to_pandas()
    with caplog.at_level("INFO", logger="cvmae"):
        model.encode(frame)
    assert {record.levelname for record in caplog.records} == {"INFO"}
    caplog.clear()
    most = frame[frame["code"].isin(model.codes)]["code"].value_counts().index[0]
    frame.loc[frame["code"] == most, "numeric_value"] *= 18
    with caplog.at_level("INFO", logger="cvmae"):
        model.encode(frame)
        model.encode(frame[frame["code"] == most])
        model.encode(frame[frame["code"] == most].head(5))  # a patient's, perhaps
    told = [(r.levelname, "another unit" in r.getMessage()) for r in caplog.records]
    found, warned = ("INFO", False), ("WARNING", True)
    assert told == [found, warned, ("WARNING", False), warned, found]


def test_what_diverged_is_refused_and_threads_are_left_alone(exported, rows):
    model = cvmae.load(str(exported))
    torch.set_num_threads(2)
    try:
        model.encode(rows)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    with torch.no_grad():
        model.loaded.model.mask_token.fill_(torch.nan)
    with pytest.raises(ValueError, match="its weights are not finite"):
        model.encode(rows)


def test_nothing_of_the_run_but_the_model_is_handed_on(run, exported):
    names = {path.name for path in exported.rglob("*") if path.is_file()}
    assert {CARD, "model.safetensors"} <= names
    assert "optimizer.safetensors" not in names
    index = pq.read_table(exported / "statistics" / "unit_index.parquet")
    assert index.num_rows == 0
    own = pq.read_table(exported / "statistics" / "code_statistics.parquet")
    assert np.isnan(own["values/min"].to_numpy()).all()
    assert np.isnan(own["values/max"].to_numpy()).all()
    content = b"".join(path.read_bytes() for path in exported.rglob("*") if path.is_file())
    assert b"private-runs" not in content
    assert run.data.root.encode() not in content
    before, after = load_model(run.output_dir), load_model(exported)
    assert after.progress == before.progress
    weights = before.model.state_dict()
    assert all((tensor == weights[n]).all() for n, tensor in after.model.state_dict().items())
    changed = {n for n, v in flatten(before.config).items() if flatten(after.config)[n] != v}
    assert changed == {"output_dir", "data.root"}


def test_of_a_fine_tuning_the_best_epoch_is_handed_on(run, tmp_path, monkeypatch):
    own, asked = load_model(run.output_dir), []
    tuned = replace(own, config=override(own.config, {"finetune.checkpoint": "/private-runs/cv"}))

    def remember(path, which="last"):
        asked.append(which)
        return tuned

    monkeypatch.setattr("cvmae.infer.export.load_model", remember)
    monkeypatch.setattr("cvmae.infer.export.checkpoint_stamp", lambda path, given: "stamp")
    write_config(tuned.config, tmp_path / "config.yaml")
    config = override(
        PRESETS["paper"], {"infer.checkpoint": tmp_path, "output_dir": tmp_path / "out"}
    )
    export(config)
    assert asked == ["best"]
    card = (tmp_path / "out" / CARD).read_text()
    assert "1 epoch (the best on tuning of 5)" in card
    assert "private-runs" not in (tmp_path / "out" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("scaling", "device"),
    [
        (ScalingConfig(num_workers=0), "cuda"),
        (ScalingConfig(num_workers=2), "cpu"),
        (ScalingConfig(num_workers=2, use_gpu=True), "cuda"),
    ],
)
def test_residuals_are_measured_on_the_device_that_other_jobs_use(
    run, tmp_path, monkeypatch, scaling, device
):
    class EnoughError(Exception):
        pass

    def calibration(model, dataset, config, device):
        raise EnoughError(device)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(verb, "Calibration", calibration)
    monkeypatch.setattr(verb, "start_ray", lambda scaling: None)
    settings = replace(run, output_dir=str(tmp_path / "out"), scaling=scaling)
    with pytest.raises(EnoughError, match=f"^{device}$"):
        export(override(settings, {"infer.checkpoint": run.output_dir}))


def test_the_card_says_what_the_model_is_and_is_not_for(run, exported):
    card = (exported / CARD).read_text()
    progress = load_model(run.output_dir).progress
    assert f"R2 {progress.history[-1]['tuning_r2']:.3f} on the tuning split" in card
    assert "masking policy `cv`" in card
    assert "Not for the care of patients" in card
    assert re.search(r"\* `train`: \d+ subjects, [\d,]+ measurements\n", card)


def test_a_folder_in_use_and_a_missing_model_are_refused(run, exported, tmp_path):
    config = override(PRESETS["paper"], {"infer.checkpoint": run.output_dir})
    with pytest.raises(ValueError, match=r"output_dir=.* is not empty"):
        export(replace(config, output_dir=str(exported)))
    with pytest.raises(ValueError, match=r"infer\.checkpoint is empty"):
        export(replace(PRESETS["paper"], output_dir=str(tmp_path / "out")))
    with pytest.raises(FileNotFoundError, match=r"nothing: there is no such folder"):
        cvmae.load(str(tmp_path / "nothing"))
    nowhere = override(config, {"infer.checkpoint": tmp_path / "nothing", "output_dir": "unused"})
    with pytest.raises(FileNotFoundError, match=r"infer\.checkpoint=.*nothing: there is no such"):
        export(nowhere)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / ".sweep").touch()
    with pytest.raises(
        FileNotFoundError, match="this is a sweep, a folder of runs: take one of trials/ in it"
    ):
        cvmae.load(str(tmp_path / "sweep"))
    with pytest.raises(FileNotFoundError, match=r"holds no whole checkpoint.*what it lists$"):
        cvmae.load(str(Path(run.output_dir) / "statistics"))


def test_a_pooling_that_there_is_not_is_refused_with_those_that_there_are(exported, rows):
    with pytest.raises(ValueError, match=r"pooling='avg': choose one of mean, mean\+decoded"):
        cvmae.load(exported).encode(rows, pooling="avg")


def test_the_page_says_how_to_use_a_model(run, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meds" / "data").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cv").symlink_to(run.output_dir)
    pq.write_table(rows, tmp_path / "meds" / "data" / "0.parquet")
    page = next(page for page in PAGES if page.path.name == "inference.md")
    names: dict[str, object] = {}
    exec(page.blocks("python")[0], names)
    vectors, then = names["vectors"], names["then"]
    assert len(vectors) == 60
    assert vectors["has_rows"].all()
    assert then["subject_id"].tolist() == [5, 7]
    filled, expected = names["filled"], names["expected"]
    assert len(filled) > 10
    assert filled["numeric_value"].notna().all()
    assert filled["interval_low"].isna().all()  # of a run that was not exported
    assert expected["subject_id"].tolist() == [5, 7]


def test_importing_the_package_brings_neither_torch_nor_ray():
    code = "import sys, cvmae; print(callable(cvmae.load), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
