"""The folder of every verb: looked at once, before any work, and held until its end."""

import errno
import importlib
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cvmae.command_line import load
from cvmae.demo import DemoConfig, demo
from cvmae.evaluate.evaluate import evaluate
from cvmae.statistics.fit import fit_statistics
from cvmae.storage import folders
from cvmae.storage.claims import FolderInUseError, claimed
from cvmae.storage.folders import written
from cvmae.storage.output import output_folder
from cvmae.sweep.driver import sweep
from cvmae.synthetic.hospital import SyntheticConfig, write_hospital
from cvmae.train.pretrain import pretrain
from cvmae.validate.validate import validate


def show_demo(config):
    return demo(DemoConfig(output_dir=config.output_dir))


def synthesize(config):
    return write_hospital(SyntheticConfig(root=config.output_dir))


ON_DATA = (fit_statistics, pretrain, sweep, validate, evaluate)
VERBS = (*ON_DATA, show_demo, synthesize)


@pytest.fixture
def no_work(monkeypatch):
    """Let every verb fail that begins to work."""

    def work(*args, **settings):
        raise AssertionError("work has begun")

    for module, name in (
        ("cvmae.statistics.fit", "open_dataset"),
        ("cvmae.validate.validate", "open_dataset"),
        ("cvmae.evaluate.evaluate", "find_contestants"),
        ("cvmae.demo", "_demo"),
        ("cvmae.synthetic.hospital", "_write_hospital"),
    ):
        monkeypatch.setattr(importlib.import_module(module), name, work)


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_works_in_a_folder_that_another_process_writes_to(tiny, no_work, verb):
    Path(tiny.output_dir).mkdir()
    with claimed(tiny.output_dir, "pretrain"):
        said = r"run is being written to by pretrain \(process \d+ on "
        with pytest.raises(FolderInUseError, match=said):
            verb(tiny)


@pytest.mark.parametrize("verb", ON_DATA)
@pytest.mark.parametrize("below", ["", "data/run", "run"])
def test_no_verb_writes_into_the_data_set(tiny, no_work, verb, below):
    folder = os.path.join(tiny.data.root, below)
    before = sorted(Path(tiny.data.root).rglob("*"))
    with pytest.raises(ValueError, match=r"output_dir=.* lies in the data set's own folder"):
        verb(replace(tiny, output_dir=folder))
    assert sorted(Path(tiny.data.root).rglob("*")) == before


def test_evaluate_does_not_write_into_the_data_set_that_a_run_names(tiny):
    run = pretrain(tiny)
    config = replace(
        tiny,
        output_dir=f"{tiny.data.root}/evaluation",
        data=replace(tiny.data, root=""),
        evaluate=replace(tiny.evaluate, checkpoints=(f"cv={run}",)),
    )
    with pytest.raises(ValueError, match="lies in the data set's own folder"):
        evaluate(config)
    assert not Path(config.output_dir).exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_that_renames_nothing_is_found_before_any_work(tiny, no_work, verb, monkeypatch):
    def refused(*args):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(folders.os, "replace", refused)
    with pytest.raises(OSError, match=r"=\S*run cannot be written to: Operation not permitted; "):
        verb(tiny)
    assert not Path(tiny.output_dir).exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_in_the_way_is_found_before_any_work(tiny, no_work, verb):
    Path(tiny.output_dir).write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"=\S*run is a file: give a folder"):
        verb(tiny)
    with pytest.raises(OSError, match=r"=\S*run/below cannot be written to: "):
        verb(replace(tiny, output_dir=f"{tiny.output_dir}/below"))


@pytest.mark.parametrize("verb", VERBS)
def test_a_submitted_job_does_not_write_into_the_copy_of_its_folder(
    tiny, no_work, verb, tmp_path, monkeypatch
):
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1234"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(ValueError, match=r"=runs/cv is relative, and this job runs in Ray's copy"):
        verb(replace(tiny, output_dir="runs/cv"))
    assert os.listdir(copy) == []


def test_a_submitted_job_is_told_that_the_run_to_resume_is_named_relatively(tmp_path, monkeypatch):
    copy = tmp_path / "working_dir_files" / "_ray_pkg_1234"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(SystemExit, match=r"resume=runs/cv is relative, and this job runs in Ray's"):
        load(["--resume", "runs/cv"])


def test_a_folder_that_stays_empty_is_not_left_behind(tmp_path):
    with output_folder(str(tmp_path / "new"), "evaluate"):
        pass
    (tmp_path / "old").mkdir()
    with output_folder(str(tmp_path / "old"), "evaluate"):
        pass
    assert os.listdir(tmp_path) == ["old"]


def test_what_a_file_system_keeps_for_itself_is_no_content(tmp_path):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".writing_1234_results.json").touch()  # of a process that was killed
    with output_folder(str(tmp_path), "evaluate"):
        pass
    assert os.listdir(tmp_path) == ["lost+found"]


def test_a_file_uri_means_the_folder_whose_name_it_encodes(tmp_path):
    with output_folder(f"file://{tmp_path}/a%20b", "evaluate") as folder:
        assert folder == f"{tmp_path}/a b"


@pytest.mark.parametrize("name", ["a b", "50%", "a#b", "a?b=c", "[ab]*", "\N{MICRO SIGN}g"])
def test_any_name_of_a_folder_is_taken_as_it_is(tiny, tmp_path, name):
    run = pretrain(replace(tiny, output_dir=str(tmp_path / name)))
    pretrain(replace(tiny, output_dir=run, resume=run))
    assert os.listdir(tmp_path) == [name]


def test_a_folder_that_is_there_is_filled_and_its_last_file_comes_last(tmp_path, monkeypatch):
    # It may be a mount, which nothing can replace, or in a folder that may not be written to.
    for name in ("last", "kept"):
        (tmp_path / name).write_text("old", encoding="utf-8")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "old.png").touch()
    moved, replace_file = [], os.replace

    def note(source, target):
        assert Path(source).parent.parent == tmp_path
        assert not (tmp_path / "last").exists()
        moved.append(Path(target).name)
        replace_file(source, target)

    monkeypatch.setattr(folders.os, "replace", note)
    with written(tmp_path, last="last") as aside:
        (aside / "figures").mkdir(parents=True)
        (aside / "figures" / "new.png").touch()
        for name in ("a", "last", "z"):
            (aside / name).write_text("new", encoding="utf-8")
    assert moved == ["a", "figures", "z", "last"]
    assert sorted(os.listdir(tmp_path)) == ["a", "figures", "kept", "last", "z"]
    assert os.listdir(tmp_path / "figures") == ["new.png"]


@pytest.fixture
def mount(tmp_path):
    """A folder on which a file system of its own is mounted."""
    folder = tmp_path / "mount"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield str(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_statistics_and_a_report_are_written_to_a_mount(tiny, mount):
    fit_statistics(replace(tiny, output_dir=f"{mount}"))
    assert set(os.listdir(mount)) == {
        "code_statistics.parquet",
        "config.yaml",
        "data.json",
        "unit_index.parquet",
    }
    subprocess.run(f"rm -r {mount}/*", shell=True, check=True)
    run = pretrain(tiny)
    checkpoints = replace(tiny.evaluate, checkpoints=(f"cv={run}",), bootstrap_samples=10)
    evaluate(replace(tiny, output_dir=mount, evaluate=checkpoints))
    assert "report.html" in os.listdir(mount)
