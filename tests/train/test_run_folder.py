"""Folders that are in use: who may write into them, and what is said to whoever may not."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from cvmae.checkpoint import load_state
from cvmae.config import override
from cvmae.statistics.fit import fit_statistics
from cvmae.sweep.driver import sweep
from cvmae.train import run_folder
from cvmae.train.pretrain import pretrain
from cvmae.validate.validate import validate


class StoppedError(Exception):
    """Stands for a process that ends here."""


def write_notes(config):
    folder = Path(config.output_dir)
    folder.mkdir()
    (folder / "notes.txt").touch()


def sweep_one(config):
    grid = replace(config.sweep, policies=("random",), epochs=(1,), seeds=(0,))
    return sweep(replace(config, sweep=grid))


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}


@pytest.mark.parametrize(("verb", "kind"), [(pretrain, "run"), (sweep_one, "sweep")])
def test_its_own_folder_is_not_written_over_but_continued(tiny, verb, kind):
    verb(tiny)
    said = rf"output_dir=.* is not empty: .* continue the {kind} that is there with --resume \S*run"
    with pytest.raises(ValueError, match=said):
        verb(tiny)
    verb(replace(tiny, resume=tiny.output_dir))


@pytest.mark.parametrize("verb", [fit_statistics, validate, write_notes])
def test_resume_is_offered_only_where_there_is_a_run(tiny, verb):
    verb(tiny)
    with pytest.raises(ValueError, match=r"not empty and holds no run: choose a new folder$"):
        pretrain(tiny)


@pytest.mark.parametrize("verb", [fit_statistics, validate])
def test_no_run_begins_in_the_folder_of_another_verb_by_resume(tiny, verb):
    verb(tiny)
    Path(tiny.output_dir, "config.yaml").touch()
    before = files_of(tiny.output_dir)
    for then, kind in ((pretrain, "run"), (sweep_one, "sweep")):
        with pytest.raises(ValueError, match=rf"--resume .*: it holds no {kind}$"):
            then(replace(tiny, resume=tiny.output_dir))
    assert files_of(tiny.output_dir) == before


@pytest.mark.parametrize(
    ("first", "then", "holds"),
    [
        (pretrain, sweep_one, r"a run, which `cvmae pretrain` continues"),
        (sweep_one, pretrain, r"a sweep, which `cvmae sweep` continues"),
    ],
)
def test_a_run_does_not_go_on_in_a_sweep_nor_a_sweep_in_a_run(tiny, first, then, holds):
    first(tiny)
    before = files_of(tiny.output_dir)
    with pytest.raises(ValueError, match=rf"not empty and holds {holds}: choose a new folder$"):
        then(tiny)
    with pytest.raises(ValueError, match=rf"--resume .*: it holds {holds}$"):
        then(replace(tiny, resume=tiny.output_dir))
    assert files_of(tiny.output_dir) == before


def test_the_report_on_the_data_is_said_once(tiny, caplog):
    caplog.set_level("INFO")
    sweep_two = replace(tiny.sweep, policies=("random", "cv"), epochs=(1,), seeds=(0,))
    run = sweep(replace(tiny, sweep=sweep_two))
    sweep(replace(tiny, sweep=sweep_two, resume=tiny.output_dir))
    assert "Ranked by the tuning error" in run
    assert caplog.text.count("train: ") == 1
    assert caplog.text.count("rows: ") == 3  # of the three splits


def test_a_run_that_was_killed_before_it_had_a_config_begins_anew_in_its_folder(tiny, monkeypatch):
    with monkeypatch.context() as patch:

        def die(*args, **settings):
            raise StoppedError

        patch.setattr(run_folder, "write_config", die)
        with pytest.raises(StoppedError):
            pretrain(tiny)
    left = {path.name for path in Path(tiny.output_dir).iterdir()}
    assert "statistics" in left
    assert "config.yaml" not in left
    # Made before the config, too.
    for name in ("deepspeed.json", "mlflow.db"):
        Path(tiny.output_dir, name).touch()
    Path(tiny.output_dir, "checkpoints").mkdir(exist_ok=True)
    assert load_state(pretrain(tiny))[0].is_finished(tiny)


@pytest.fixture
def no_folders(tmp_path, monkeypatch):
    """A place of a store that makes no folders: they are there by what lies in them."""
    from fsspec.implementations.memory import MemoryFileSystem

    for name in ("mkdir", "makedirs"):
        monkeypatch.setattr(MemoryFileSystem, name, lambda *args, **settings: None)
    yield f"memory://runs/{tmp_path.name}"
    if MemoryFileSystem().exists("/runs"):
        MemoryFileSystem().rm("/runs", recursive=True)


def test_a_run_that_was_killed_before_its_first_checkpoint_is_known_on_a_store_without_folders(
    tiny, no_folders
):
    tiny = replace(tiny, output_dir=no_folders)
    run_folder.begin_folder(tiny)
    with pytest.raises(ValueError, match="continue the run that is there with --resume"):
        pretrain(tiny)
    resumed = replace(tiny, resume=no_folders)
    assert load_state(pretrain(resumed))[0].is_finished(tiny)


@pytest.mark.parametrize(("verb", "mark"), [(pretrain, ".run"), (sweep_one, ".sweep")])
def test_a_folder_of_an_earlier_version_is_told_by_its_folders_and_continued(tiny, verb, mark):
    verb(tiny)
    Path(tiny.output_dir, mark).unlink()
    verb(replace(tiny, resume=tiny.output_dir))


@pytest.mark.parametrize("verb", [pretrain, sweep_one])
def test_a_store_that_cannot_be_used_is_refused_before_the_data_are_fitted(tiny, monkeypatch, verb):
    def work(*args):
        raise AssertionError("work has begun")

    for module in ("cvmae.train.pretrain", "cvmae.sweep.driver"):
        monkeypatch.setattr(importlib.import_module(module), "fit_data", work)
        monkeypatch.setattr(importlib.import_module(module), "start_ray", lambda scaling: None)
    monkeypatch.setattr("cvmae.sweep.tune.num_on_ray", lambda config: 1)
    config = override(tiny, {"scaling.num_workers": 1, "tracking.uri": "nonsense://store"})
    with pytest.raises(ValueError, match=r"tracking\.uri='nonsense://store' .*cannot be opened"):
        verb(config)
    assert not Path(tiny.output_dir).exists()


@pytest.mark.parametrize(
    ("marked_at", "status"),
    [("never", "FAILED"), ("before", "FAILED"), ("while it runs", "KILLED")],
)
def test_a_run_whose_sweep_stops_it_loses_its_workers_and_is_no_failure(
    tiny, monkeypatch, marked_at, status
):
    mark = Path(tiny.output_dir) / run_folder.STOPPED

    def lose_workers(*args):
        if marked_at == "while it runs":
            mark.touch()
        raise StoppedError

    # The package has a function of this name, too.
    monkeypatch.setattr(importlib.import_module("cvmae.train.pretrain"), "_train", lose_workers)
    if marked_at == "before":
        with pytest.raises(StoppedError):
            pretrain(tiny)
        mark.touch()
        tiny = replace(tiny, resume=tiny.output_dir)
    with pytest.raises(StoppedError):
        pretrain(tiny)
    about = json.loads((Path(tiny.output_dir) / "tracking.json").read_text())
    assert about["status"] == status
