"""Checkpoints: what is damaged or foreign is passed over by name, and a full disk harms nothing."""

import errno
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cvmae import checkpoint
from cvmae.checkpoint import (
    FORMAT,
    Progress,
    clear_rubbish,
    find_checkpoint,
    load_model,
    load_state,
    open_checkpoint,
    read_progress,
    save_checkpoint,
)
from cvmae.config import Config, write_config
from cvmae.model.vomae import build_model
from cvmae.storage import manifest
from cvmae.storage.folders import file_sizes
from cvmae.storage.manifest import write_manifest
from cvmae.train.pretrain import pretrain
from tests.prepared import load_or_fit

Save = Callable[..., str]


@pytest.fixture
def save(tiny: Config) -> Save:
    """Write the checkpoint of a step into the run folder, of `tiny` or of changed settings."""
    fitted = load_or_fit(tiny)
    write_config(tiny, Path(tiny.output_dir) / "config.yaml")

    def save(step: int, errors: tuple[float, ...] = (), config: Config = tiny) -> str:
        model = build_model(config.model, fitted.statistics.num_codes, seed=step).state_dict()
        history = tuple({"step": n + 1, "tuning_mse": error} for n, error in enumerate(errors))
        return save_checkpoint(
            config.output_dir,
            config=config,
            fitted=fitted,
            progress=Progress(global_step=step, history=history),
            model=model,
            optimizer={f"{name}/exp_avg": value + 1 for name, value in model.items()},
        )

    return save


def steps_of(config: Config) -> list[str]:
    return sorted(path.name for path in (Path(config.output_dir) / "checkpoints").iterdir())


def missing(folder: Path) -> str:
    (folder / "optimizer.safetensors").unlink()
    return "optimizer.safetensors is missing"


def truncated(folder: Path) -> str:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    return f"model.safetensors has {weights.stat().st_size} of {weights.stat().st_size + 1} bytes"


def one_bit_wrong(folder: Path) -> str:
    weights = folder / "optimizer.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 4
    weights.write_bytes(content)
    return "optimizer.safetensors is damaged"


def without_manifest(folder: Path) -> str:
    (folder / "manifest.json").unlink()
    return "it has no manifest.json"


def manifest_torn(folder: Path) -> str:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-40])
    return "its manifest.json is damaged"


def manifest_of_another_program(folder: Path) -> str:
    (folder / "manifest.json").write_text('{"format": "theirs", "files": {}}')
    return "it is a 'theirs', not a 'cvmae checkpoint 1'"


def other_files(folder: Path) -> str:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "mp_rank_00_model_states.pt").write_bytes(pickle.dumps({"module": {}}))
    return "it has no manifest.json"


def weights_of_another_program(folder: Path) -> str:
    save_file({"decoder.weight": torch.zeros(3, 4)}, folder / "model.safetensors")
    write_manifest(folder, FORMAT)
    return "its weights are of another model: mask_token has shape None, expected [32]"


def of_a_wider_model(folder: Path) -> str:
    weights = load_file(folder / "model.safetensors")
    wider = {name: torch.cat([value, value]) for name, value in weights.items()}
    save_file(wider, folder / "model.safetensors")
    write_manifest(folder, FORMAT)
    return "its weights are of another model: mask_token has shape [64], expected [32]"


@pytest.mark.parametrize(
    "spoil",
    [
        missing,
        truncated,
        one_bit_wrong,
        without_manifest,
        manifest_torn,
        manifest_of_another_program,
        other_files,
        weights_of_another_program,
        of_a_wider_model,
    ],
)
def test_what_is_damaged_or_foreign_is_passed_over_by_name_and_the_one_before_counts(
    tiny, save, spoil, caplog
):
    save(1)
    newest = Path(save(2))
    reason = spoil(newest)
    progress, model, _ = load_state(tiny.output_dir)
    assert progress.global_step == 1
    expected = build_model(tiny.model, 8, seed=1).state_dict()
    assert all(torch.equal(model[name], value) for name, value in expected.items())
    assert load_model(tiny.output_dir).progress.global_step == 1
    said = f"{newest} is passed over: {reason}"
    (line, *_) = [text for text in caplog.messages if text.startswith(said)]
    assert line.endswith("; step_00000001 is taken instead")
    if spoil is not weights_of_another_program and spoil is not of_a_wider_model:
        with pytest.raises(ValueError, match="is no whole checkpoint"):
            load_state(newest)


def test_a_whole_checkpoint_of_another_model_is_passed_over(tiny, save, tmp_path, caplog):
    save(1)
    wide = replace(tiny, output_dir=str(tmp_path / "wide"), model=replace(tiny.model, num_layers=3))
    foreign = save(2, config=wide)
    load_state(foreign)  # by itself it is sound
    shutil.copytree(foreign, Path(tiny.output_dir) / "checkpoints" / "step_00000002")
    assert load_state(tiny.output_dir)[0].global_step == 1
    assert "step_00000002 is passed over: its weights are of another model" in caplog.text


def test_a_folder_of_runs_is_told_from_a_run_and_from_nothing(tiny, save):
    save(1)
    run = Path(tiny.output_dir)
    (run.parent / "note.txt").touch()
    advice = f"this is a folder of runs: take one of them, such as {run.name}$"
    with pytest.raises(FileNotFoundError, match=advice):
        load_model(run.parent)
    trials = run.parent / "sweep" / "trials"
    shutil.copytree(run, trials / "0000")
    with pytest.raises(FileNotFoundError, match="this is a sweep, a folder of runs: take one of"):
        load_model(trials.parent)
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no such folder"):
        load_model(run.parent / "nowhere")


def test_where_no_checkpoint_is_sound_the_run_does_not_begin_anew(tiny, save):
    one_bit_wrong(Path(save(1)))
    with pytest.raises(FileNotFoundError, match="holds no whole checkpoint"):
        pretrain(replace(tiny, resume=tiny.output_dir))


def test_a_run_whose_newest_checkpoint_is_damaged_ends_as_if_it_were_not(tiny, tmp_path):
    config = replace(tiny, train=replace(tiny.train, epochs=3))
    whole = pretrain(replace(config, output_dir=str(tmp_path / "whole")))
    run = pretrain(config)
    one_bit_wrong(find_checkpoint(run))
    pretrain(replace(config, resume=run))
    ours, theirs = load_state(run), load_state(whole)
    assert ours[0].global_step == theirs[0].global_step
    for our, their in zip(ours[1:], theirs[1:], strict=True):
        assert all(torch.equal(our[name], value) for name, value in their.items())


def test_damage_behind_the_step_that_is_written_next_is_removed(tiny, save):
    save(1)
    one_bit_wrong(Path(save(4)))
    save(3)
    assert steps_of(tiny) == ["step_00000001", "step_00000003"]


def test_the_best_checkpoint_is_kept_and_found_without_a_copy(tiny, save):
    config = replace(tiny, checkpoint=replace(tiny.checkpoint, keep=1))
    errors = (0.9, 0.5, 0.7, 0.6)
    for step in range(1, 5):
        save(step, errors[:step], config=config)
    assert steps_of(tiny) == ["step_00000002", "step_00000004"]
    assert find_checkpoint(tiny.output_dir, "best").name == "step_00000002"
    assert load_model(tiny.output_dir, which="best").progress.global_step == 2
    assert read_progress(tiny.output_dir).global_step == 4
    one_bit_wrong(find_checkpoint(tiny.output_dir, "best"))
    assert load_model(tiny.output_dir, which="best").progress.global_step == 4
    save(5, (*errors, 0.4), config=config)
    assert steps_of(tiny) == ["step_00000005"]


def test_what_was_broken_off_in_an_upload_is_removed_and_not_counted(tiny, save):
    for step in (1, 2, 3):
        folder = Path(save(step))
    without_manifest(folder)
    save(4)
    assert tiny.checkpoint.keep == 2
    assert steps_of(tiny) == ["step_00000002", "step_00000004"]


def fails(*args, **settings):
    raise ValueError("output_dir='s3://bucket/run' cannot be read: timed out")


@pytest.mark.parametrize("file", ["manifest.json", "progress.json"])
def test_a_storage_that_fails_is_no_damage(tiny, save, monkeypatch, caplog, file):
    """An older checkpoint must not be taken instead, from which the run would go back."""
    save(1)
    save(2)
    room = manifest if file == "manifest.json" else checkpoint
    read = room.local_copy
    monkeypatch.setattr(room, "local_copy", lambda p: (fails if file in str(p) else read)(p))
    with pytest.raises(ValueError, match="timed out") as caught:
        read_progress(tiny.output_dir)
    assert "passed over" not in caplog.text
    assert "damaged" not in str(caught.value)


def test_all_is_on_the_disk_before_older_checkpoints_are_removed(tiny, save, monkeypatch):
    sync, replace_path, remove = os.fsync, os.replace, checkpoint.remove_folder
    events: list[tuple[str, object]] = []

    def note_sync(descriptor):
        events.append(("sync", os.fstat(descriptor).st_ino))
        sync(descriptor)

    def note_replace(source, target):
        events.append(("replace", target))
        replace_path(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    monkeypatch.setattr(
        checkpoint, "remove_folder", lambda p: (events.append(("remove", p)), remove(p))
    )
    config = replace(tiny, checkpoint=replace(tiny.checkpoint, keep=1))
    save(1, config=config)
    events.clear()
    folder = Path(save(2, config=config))
    moved = events.index(("replace", folder))
    own = {path.stat().st_ino for path in (folder, *folder.rglob("*"))}
    assert own <= {inode for _, inode in events[:moved]}
    assert events[moved + 1] == ("sync", folder.parent.stat().st_ino)
    assert [kind for kind, _ in events[moved + 2 :]] == ["remove"]


def test_while_one_is_written_there_is_room_for_one_more_than_is_kept(tiny, save, monkeypatch):
    write, peaks = checkpoint.write_manifest, []

    def count(folder, written_as):
        write(folder, written_as)
        weights = Path(tiny.output_dir).rglob("model.safetensors")
        peaks.append(len({path.stat().st_ino for path in weights}))

    monkeypatch.setattr(checkpoint, "write_manifest", count)
    config = replace(tiny, checkpoint=replace(tiny.checkpoint, keep=2))
    for step in range(1, 7):
        save(step, tuple(1 / n for n in range(1, step + 1)), config=config)
    assert peaks == [1, 2, 3, 3, 3, 3]


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("room", "function", "error"),
    [
        (checkpoint, "save_file", SafetensorError("I/O error: No space left on device")),
        (checkpoint, "write_config", FULL),
        (Path, "write_text", FULL),
        (Path, "mkdir", FULL),
        (checkpoint.FittedData, "write", FULL),
        (checkpoint, "write_manifest", FULL),
        (os, "fsync", FULL),
        (os, "replace", FULL),
    ],
)
def test_a_disk_that_is_full_at_any_write_leaves_nothing_behind(
    tiny, save, monkeypatch, room, function, error
):
    save(1)
    before = file_sizes(tiny.output_dir)
    with monkeypatch.context() as patch:

        def fail(*args, **settings):
            raise error

        patch.setattr(room, function, fail)
        said = r"step_00000002 cannot be written \(.*No space left on device"
        with pytest.raises(OSError, match=said):
            save(2)
    assert file_sizes(tiny.output_dir) == before
    assert load_state(tiny.output_dir)[0].global_step == 1


def test_what_a_killed_process_left_half_written_is_removed(tiny, save):
    save(1)
    before = file_sizes(tiny.output_dir)
    (Path(tiny.output_dir) / ".writing_a_metrics.parquet").write_text("half")
    (Path(tiny.output_dir) / "checkpoints" / ".writing_b_step_00000002").mkdir()
    (Path(tiny.output_dir) / "checkpoints" / ".writing_b_step_00000002" / "x").write_text("half")
    assert load_state(tiny.output_dir)[0].global_step == 1
    clear_rubbish(tiny.output_dir)
    assert file_sizes(tiny.output_dir) == before
    assert steps_of(tiny) == ["step_00000001"]


def test_nothing_is_unpickled(tiny, save, monkeypatch):
    folder = save(1)

    def refuse(*args, **settings):
        raise AssertionError("something is unpickled")

    for room, function in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(room, function, refuse)
    load_state(folder)
    load_model(folder)
    suffixes = {Path(name).suffix for name in file_sizes(folder)}
    assert suffixes == {".json", ".yaml", ".parquet", ".safetensors"}


def test_a_manifest_lists_every_file_with_the_hash_that_other_tools_show(save):
    folder = Path(save(1))
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(files) == set(file_sizes(folder)) - {"manifest.json"}
    if shutil.which("sha256sum"):
        shown = subprocess.run(
            ["sha256sum", *files], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.split()[::2]
        assert shown == [entry["sha256"] for entry in files.values()]
    with open_checkpoint(folder) as same:
        assert same == folder


def test_a_file_in_the_place_of_a_run_is_said_to_be_one(tmp_path):
    (tmp_path / "run").write_text("no folder")
    with pytest.raises(FileNotFoundError, match="run is a file: give a run folder"):
        find_checkpoint(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="holds no whole checkpoint"):
        find_checkpoint(tmp_path)  # where the file is
