"""A dry run says what the real one does, refuses what it refuses, and leaves all as it was."""

import importlib
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.benchmark import benchmark, benchmark_asked
from benchmarks.settings import BenchmarkConfig
from cvmae.checkpoint import COST, FORMAT, PROGRESS, find_checkpoint, load_model, read_progress
from cvmae.command_line import VERBS, main, run_job
from cvmae.config import override
from cvmae.dry_run import using
from cvmae.infer.embed_set import embed
from cvmae.meds.dataset import open_dataset
from cvmae.storage.manifest import write_manifest
from cvmae.synthetic.hospital import SyntheticConfig, write_hospital
from cvmae.train.finetune import finetune
from tests.convert.challenge import write_challenge
from tests.train.planted import planted_labels, write_labels

SMALL = [
    "--base", "tiny", "--data.min_count", "2", "--data.unit_rows", "500", "--data.lanes", "4",
    "--data.sequence_length", "32",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch):
    """Let Ray be imported by nobody: what is asked of it fails."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def labels(hospital, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    return write_labels(folder / "high.parquet", planted_labels(hospital))


@pytest.fixture(scope="module")
def tuned(run, labels, tmp_path_factory):
    """Settings of a fine-tuning of two epochs, both of which are kept."""
    changes = {
        "output_dir": tmp_path_factory.mktemp("dry") / "tuned",
        "checkpoint.keep": 2,
        "finetune.checkpoint": run.output_dir,
        "finetune.labels": labels,
        "finetune.epochs": 2,
        "finetune.batch_labels": 8,
    }
    finetune(override(run, changes))
    return override(run, changes)


def said(verb, flags, capsys):
    """Return the lines of a dry run by name: its figure and how it comes about."""
    main_with(verb, [*flags, "--dry_run"])
    printed = capsys.readouterr().out
    assert printed.endswith("This is a dry run: nothing was started, and nothing was written.\n")
    cells = [re.split(r"  +", line.strip()) for line in printed.splitlines()]
    return {row[0]: (row[1], row[2] if len(row) > 2 else "") for row in cells if len(row) > 1}


def main_with(verb, flags):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cvmae", verb, *flags])
        main()


def ended_by(verb, flags):
    """Return the message that ends a verb."""
    with pytest.raises(SystemExit) as ended:
        main_with(verb, flags)
    return ended.value.code


def all_below(*folders):
    return {path: path.stat().st_mtime_ns for folder in folders for path in Path(folder).rglob("*")}


def number(cell):
    return float(cell[0].split()[0].replace(",", ""))


def flags_of(verb, hospital, run, labels, folder):
    """Return a line that the verb takes, with two workers on Ray where it uses any."""
    out, model = ["--output_dir", str(folder / "out")], run.output_dir
    data = ["--data.root", hospital]
    match verb:
        case "plan":
            return ["--root", hospital]
        case "convert":
            source = write_challenge(folder / "source", {132539: ["00:07,HR,73"]})
            return ["--source", "physionet2012", "--input", str(source), "--output", out[1]]
        case "synthesize":
            return ["--root", out[1]]
        case "demo":
            return out
        case "validate":
            return [*data, *SMALL]
        case "evaluate":
            return [*out, *data, *SMALL, "--evaluate.checkpoints", f"cv={model}"]
        case "finetune":
            own = ["--finetune.checkpoint", model, "--finetune.labels", labels]
            return [*out, *data, *SMALL, *own]
        case "pretrain" | "sweep" | "fit_statistics":
            return [*out, *data, *SMALL]
    return [*out, *data, *SMALL, "--infer.checkpoint", model]


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_writes_nothing_and_starts_no_ray(
    verb, hospital, run, labels, tmp_path, monkeypatch, capsys
):
    flags = flags_of(verb, hospital, run, labels, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = all_below(tmp_path, hospital, run.output_dir)
    found = said(verb, flags, capsys)
    assert all_below(tmp_path, hospital, run.output_dir) == before
    assert len(found) > 3
    if verb in ("pretrain", "sweep", "finetune", "embed", "impute", "evaluate", "export"):
        assert number(found["hours"]) > 0
    on_ray = verb not in ("plan", "convert", "synthesize")
    assert ("workers" in found) == on_ray
    if on_ray:
        assert found["CPUs of workers"] == ("0.5", "2 x scaling.cpus_per_worker=0.25")
        assert found["nodes there are"][0] == "1"
        assert found["nodes there are"][1].startswith(
            "a local Ray, which the run starts; it counts"
        )


def test_the_benchmark_has_a_dry_run(tmp_path, capsys):
    out = tmp_path / "rows.json"
    argv = ["--suite", "step", "--output", str(out), "--dry_run"]
    run_job(benchmark, argv, tree=BenchmarkConfig, asks=benchmark_asked)
    assert re.search(r"rows of figures +\S+rows\.json", capsys.readouterr().out)
    assert not out.exists()


def test_steps_and_sequences_are_those_of_the_real_run(run, hospital, tmp_path, capsys):
    statistics = f"{run.output_dir}/statistics"
    flags = [
        *("--base", f"{run.output_dir}/config.yaml", "--output_dir", str(tmp_path / "new")),
        *("--data.statistics", statistics, "--scaling.num_workers", "2"),
    ]
    found = said("pretrain", flags, capsys)
    progress = read_progress(find_checkpoint(run.output_dir))
    assert number(found["steps an epoch"]) == progress.history[0]["step"]
    assert number(found["steps of the run"]) == progress.global_step
    rank = number(found["sequences a step"]) / 2
    assert number(found["sequences a step and rank"]) == pytest.approx(rank, rel=0.01)
    again = said("pretrain", ["--resume", run.output_dir], capsys)
    assert again["epochs left"] == ("0", "train.epochs=2, 2 are done")
    assert number(again["hours"]) == 0


def test_without_statistics_an_epoch_is_estimated_from_footers(run, hospital, tmp_path, capsys):
    base = ["--base", f"{run.output_dir}/config.yaml", "--output_dir", str(tmp_path / "new")]
    known = said("pretrain", [*base, "--data.statistics", f"{run.output_dir}/statistics"], capsys)
    about = said("pretrain", base, capsys)
    assert about["steps an epoch"][1].startswith("about; ")
    for name in ("measurements of train", "sequences of train", "steps an epoch"):
        assert 0.5 < number(about[name]) / number(known[name]) < 2


def test_a_sweep_counts_its_trials_and_what_is_left(run, tmp_path, capsys):
    flags = [
        *("--base", f"{run.output_dir}/config.yaml", "--output_dir", str(tmp_path / "sweep")),
        *("--sweep.policies", "random", "cv", "--sweep.seeds", "0", "1", "2"),
        *("--sweep.epochs", "3", "--scaling.num_workers", "2", "--sweep.max_concurrent", "2"),
    ]
    found = said("sweep", flags, capsys)
    assert found["trials"] == ("6", "0 are over")
    assert number(found["epochs"]) == 18
    assert number(found["trials at a time"]) == 2
    assert found["CPUs of workers"][0] == "1"


def test_steps_of_a_fine_tuning_are_those_of_the_real_one(tuned, tmp_path, capsys):
    done = read_progress(find_checkpoint(tuned.output_dir))
    base = f"{tuned.output_dir}/config.yaml"
    found = said("finetune", ["--base", base, "--output_dir", str(tmp_path / "new")], capsys)
    assert number(found["steps of the run"]) == done.global_step
    counted = done.global_step / 2 * 8
    assert abs(number(found["labels of train"]) - counted) <= 4


def test_a_fine_tuning_that_may_not_be_resumed_is_refused(tuned, capsys):
    before = all_below(tuned.output_dir)
    flags = ["--resume", tuned.output_dir, "--finetune.lr", "0.5"]
    refused = ended_by("finetune", [*flags, "--dry_run"])
    assert re.search(r"cannot resume .* with other .*finetune\.lr: .* -> 0\.5", refused)
    assert all_below(tuned.output_dir) == before
    assert refused == ended_by("finetune", flags)
    again = said("finetune", flags[:2], capsys)
    assert again["steps of the run"][1] == "train.epochs=2, 2 are done"


def test_of_a_fine_tuning_the_epoch_is_told_that_an_export_takes(tuned, tmp_path, capsys):
    run = shutil.copytree(tuned.output_dir, tmp_path / "tuned")
    last = find_checkpoint(run)
    progress = json.loads((last / PROGRESS).read_text())
    progress["history"][1][COST] = progress["history"][0][COST] + 1
    (last / PROGRESS).write_text(json.dumps(progress))
    write_manifest(last, FORMAT)
    flags = ["--infer.checkpoint", str(run), "--output_dir", str(tmp_path / "out")]
    assert said("export", flags, capsys)["epoch"][0] == "1"
    main_with("export", flags)
    assert read_progress(find_checkpoint(tmp_path / "out")).epoch == 1


def test_units_that_are_embedded_are_counted_as_there(run, tmp_path, capsys):
    out = tmp_path / "embedded"
    config = override(run, {"output_dir": out, "infer.checkpoint": run.output_dir})
    embed(config)
    units = sorted((out / "embeddings").glob("unit_*.parquet"))
    units[0].unlink()
    found = said("embed", ["--resume", str(out)], capsys)
    assert found["units to embed"] == ("1", f"{len(units) - 1} of {len(units)} are there")
    assert not units[0].exists()
    flags = ["--resume", str(out), "--infer.pooling", "mean"]
    refused = ended_by("embed", [*flags, "--dry_run"])
    assert "what is there was made with another infer.pooling" in refused
    assert refused == ended_by("embed", flags)


def test_a_synthetic_hospital_has_about_the_rows_that_were_said(tmp_path, capsys):
    config = SyntheticConfig(root=str(tmp_path / "made"), num_subjects=400, num_shards=3)
    flags = ["--root", config.root, "--num_subjects", "400", "--num_shards", "3"]
    found = said("synthesize", flags, capsys)
    write_hospital(config)
    shards = list(Path(config.root, "data").rglob("*.parquet"))
    rows = sum(pq.read_metadata(path).num_rows for path in shards)
    assert number(found["rows"]) == pytest.approx(rows, rel=0.25)
    assert number(found["shards"]) == len(shards)


REFUSED = {
    "a folder that is not new": ("pretrain", {"--output_dir": "FULL"}, "is not empty"),
    "no data set": ("fit_statistics", {"--data.root": "nowhere"}, "nowhere"),
    "lanes": ("pretrain", {"--train.accumulation_steps": "9"}, "micro|lanes"),
    "weights": ("pretrain", {"--mask.policy": "table", "--mask.weights_file": "no.csv"}, "no.csv"),
    "a grid": ("sweep", {"--sweep.seeds": "1 1"}, "names 1 twice"),
    "no model": ("embed", {"--infer.checkpoint": "nothing"}, "nothing"),
    "models": ("evaluate", {"--evaluate.checkpoints": "TWICE"}, "seed"),
    "labels": ("finetune", {"--finetune.labels": "no_labels"}, "no_labels"),
    "no results": ("export", {"--infer.results": "nowhere"}, r"nowhere holds no results\.json"),
    "results of others": ("export", {"--infer.results": "OTHERS"}, "says nothing of .*/run"),
    "no tuning": ("export", {"--data.root": "UNTUNED"}, "puts no subject in split 'tuning'"),
}


def without_tuning(hospital, folder):
    """Return a copy of a data set whose subjects of tuning are of train."""
    path = Path(shutil.copytree(hospital, folder), "metadata", "subject_splits.parquet")
    table = pq.read_table(path)
    splits = ["train" if s == "tuning" else s for s in table["split"].to_pylist()]
    pq.write_table(table.set_column(table.column_names.index("split"), "split", [splits]), path)
    return str(folder)


def results_of_others(folder):
    """Return an evaluation that had no part in this run."""
    folder.mkdir()
    about = {"dataset": "another", "date": "2026-11-23T00:00:00"}
    results = {"methods": [], "provenance": about, "settings": {"split": "held_out"}}
    (folder / "results.json").write_text(json.dumps(results | {"downstream": None}))
    return str(folder)


@pytest.mark.parametrize("case", REFUSED)
def test_bad_settings_are_refused_as_by_the_real_run(
    case, hospital, run, labels, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    verb, changes, expected = REFUSED[case]
    flags = [*flags_of(verb, hospital, run, labels, tmp_path), "--scaling.num_workers", "0"]
    twice = f"cv={run.output_dir} cv={run.output_dir}"
    names = {
        "FULL": str(tmp_path / "full"),
        "TWICE": twice,
        "OTHERS": results_of_others(tmp_path / "others"),
        "UNTUNED": without_tuning(hospital, tmp_path / "untuned"),
    }
    for flag, value in changes.items():
        flags += [flag, *names.get(value, value).split()]
    before = all_below(tmp_path)
    dry = ended_by(verb, [*flags, "--dry_run"])
    assert all_below(tmp_path) == before
    assert re.search(expected, dry)
    assert dry == ended_by(verb, flags)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--scaling.num_workers", "4", "--scaling.cpus_per_worker", "500"], "Ray Data needs"),
        (["--scaling.use_gpu", "True"], "need as many GPUs, the cluster has 0"),
        (["--scaling.data_labels", "pool=cpu"], r"data_labels=pool=cpu: no node.*there: none"),
    ],
)
@pytest.mark.parametrize("verb", ["pretrain", "export", "evaluate"])
def test_work_that_does_not_fit_is_refused(
    verb, flags, expected, hospital, run, labels, tmp_path, monkeypatch
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    line = [*flags_of(verb, hospital, run, labels, tmp_path), *flags, "--dry_run"]
    assert re.search(expected, ended_by(verb, line))


def test_a_comparison_counts_its_models_and_the_weights_that_are_read(
    run, hospital, tmp_path, capsys, monkeypatch
):
    module = importlib.import_module("cvmae.dry_run.using")
    original = module.find_comparison

    def with_best(config, folder):
        compared = original(config, folder)
        best = replace(compared.found[0], which="best")
        return replace(compared, found=[*compared.found, best])

    flags = ["--evaluate.checkpoints", f"cv={run.output_dir}", "--data.root", hospital, *SMALL]
    flags += ["--output_dir", str(tmp_path / "out"), "--scaling.num_workers", "0"]
    found = said("evaluate", flags, capsys)
    assert (found["models"][0], found["weights"]) == ("1", ("1", "the last of each model"))
    monkeypatch.setattr(module, "find_comparison", with_best)
    found = said("evaluate", [*flags, "--scaling.use_gpu", "True"], capsys)
    assert found["models"] == ("1", "cv; each seed is one")
    assert found["weights"] == ("2", "the last of each model, and the best of 1")
    assert found["GPUs"][1].startswith("none is here: work is done on the CPU in spite of")


def test_figures_are_no_numpy_scalars(run, hospital, tmp_path, capsys):
    found = said("validate", ["--data.root", hospital, *SMALL], capsys)
    assert not any("np." in cell for row in found.values() for cell in row)
    assert np.isfinite(number(found["rows"]))


def test_passes_cost_rows_and_on_ray_tasks(hospital, tmp_path, capsys):
    data = ["--data.root", hospital, *SMALL]
    out = ["--output_dir", str(tmp_path / "out")]
    alone = said("fit_statistics", [*data, *out, "--scaling.num_workers", "0"], capsys)
    found = said("fit_statistics", [*data, *out], capsys)
    rows, units = number(found["rows"]), number(found["units"])
    assert number(alone["two passes over all rows"]) * 3600 == approx3(rows * 118e-9)
    tasks = 2 * units * 24e-3
    assert number(found["two passes over all rows"]) * 3600 == approx3(rows * 118e-9 + tasks)
    checked = said("validate", data, capsys)
    tasks = 3 * units * 24e-3
    assert number(checked["three passes over all rows"]) * 3600 == approx3(rows * 258e-9 + tasks)


def approx3(value):
    """Return what three significant digits of a value agree with."""
    return pytest.approx(value, rel=5e-3)


def test_few_rows_that_are_asked_for_are_calibrated_on_all(
    run, hospital, tmp_path, capsys, monkeypatch
):
    model, dataset = load_model(run.output_dir), open_dataset(hospital)
    some = dataset.members["train"][:1]
    rows = tmp_path / "asked.parquet"
    code = model.fitted.statistics.codes[0]
    time = np.array(["2020-01-01"], "datetime64[us]")
    pq.write_table(pa.table({"subject_id": some, "time": time, "code": [code]}), rows)
    timed = []
    monkeypatch.setattr(
        using, "restoring_seconds", lambda *given: timed.append(given[1].members) or (1.0, 10.0)
    )
    flags = flags_of("impute", hospital, run, "", tmp_path)
    found = said("impute", [*flags, "--infer.rows", str(rows)], capsys)
    counts = dataset.num_subjects
    units, own = number(found["units"]), number(found["units to impute"])
    subjects = 1 + counts["tuning"] + counts["held_out"]
    at_once = min(2, os.cpu_count())
    seconds = (own + 2 * units + 10 * subjects) / at_once
    assert number(found["hours"]) * 3600 == approx3(seconds)
    assert [len(members["asked"]) for members in timed] == [sum(counts.values())]
