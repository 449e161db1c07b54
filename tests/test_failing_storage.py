"""A run goes on where storage fails: a full disk, or one that is away, costs what it must."""

import errno
import importlib
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from cvmae import checkpoint
from cvmae.checkpoint import find_checkpoint, load_state
from cvmae.storage.folders import file_sizes
from cvmae.train.pretrain import pretrain

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fails(*args, **settings):
    raise ValueError("output_dir='s3://bucket/run' cannot be read: timed out")


@pytest.mark.parametrize("failing", [1, 2], ids=["one in the course", "the last one"])
def test_a_run_goes_on_over_a_checkpoint_that_fails_unless_it_is_the_last(
    tiny, tmp_path, monkeypatch, caplog, failing
):
    whole = pretrain(replace(tiny, output_dir=str(tmp_path / "whole")))
    saves = []

    def sometimes_full(tensors, path):
        saves.append(path)
        if len(saves) == 2 * failing:  # the optimiser's state, after the weights
            raise SafetensorError("I/O error: No space left on device")
        save_file(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", sometimes_full)
        if failing == 2:
            with pytest.raises(OSError, match=r"cannot be written .*No space left on device"):
                pretrain(tiny)
            assert load_state(tiny.output_dir)[0].epoch == 1
        else:
            pretrain(tiny)
            assert "No space left on device); earlier ones are as they were" in caplog.text
            assert len(list(Path(tiny.output_dir, "checkpoints").iterdir())) == 1
    if failing == 2:
        pretrain(replace(tiny, resume=tiny.output_dir))
    ours, theirs = load_state(tiny.output_dir)[1], load_state(whole)[1]
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_a_run_goes_on_where_metrics_of_codes_cannot_be_read_for_an_epoch(
    tiny, monkeypatch, caplog
):
    monkeypatch.setattr(importlib.import_module("cvmae.train.epoch_report"), "is_file", fails)
    pretrain(tiny)
    assert "metrics of epoch 2 are not written (output_dir='s3://bucket/run'" in caplog.text


def test_a_run_goes_on_where_metrics_cannot_be_written_for_an_epoch(tiny, monkeypatch, caplog):
    write, calls = pq.write_table, []

    def full_at_first(table, path, **settings):
        if "metrics.parquet" in str(path) and "code_metrics" not in str(path):
            calls.append(path)
            if len(calls) == 1:
                raise FULL
        write(table, path, **settings)

    monkeypatch.setattr(pq, "write_table", full_at_first)
    run = pretrain(tiny)
    assert "metrics of epoch 1 are not written ([Errno 28] No space left on device)" in caplog.text
    # They are held, and written with the next ones.
    assert set(pq.read_table(f"{run}/metrics.parquet")["step"].to_pylist()) == {1, 2}


def test_old_checkpoints_that_cannot_be_removed_do_not_end_the_run(tiny, monkeypatch, caplog):
    monkeypatch.setattr(checkpoint, "remove_folder", fails)
    config = replace(tiny, checkpoint=replace(tiny.checkpoint, keep=1, every_steps=5))
    pretrain(config)
    assert "are not all removed (output_dir='s3://bucket/run' cannot be read" in caplog.text
    assert load_state(tiny.output_dir)[0].is_finished(config)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of its own, whose size a function changes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options: str) -> bool:
        command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True).returncode == 0

    if shutil.which("mount") is None or not mount("-o", "size=64m"):
        pytest.skip("needs the right to mount a file system")
    yield folder, lambda size: mount("-o", f"remount,size={size}")
    # Lazily: weights that a failed test still holds are mapped from files there.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_run_survives_a_disk_that_is_really_full(tiny, tmp_path, small_disk, caplog):
    config = replace(tiny, train=replace(tiny.train, epochs=4))
    whole = pretrain(replace(config, output_dir=str(tmp_path / "whole")))
    size = sum(file_sizes(find_checkpoint(whole)).values())
    disk, resize = small_disk
    config = replace(config, output_dir=str(disk / "run"))
    assert resize(int(1.7 * size))
    with pytest.raises(OSError, match="No space left on device"):
        pretrain(config)
    assert "training goes on" in caplog.text
    assert load_state(config.output_dir)[0].epoch == 1
    assert not [name for name in file_sizes(config.output_dir) if ".writing_" in name]
    assert resize("64m")
    pretrain(replace(config, resume=config.output_dir))
    ours, theirs = load_state(config.output_dir)[1], load_state(whole)[1]
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
