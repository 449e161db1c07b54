"""A run whose folder is on object storage is the local one, also where it is broken off."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cvmae.checkpoint import has_checkpoints, load_model, load_state, read_progress
from cvmae.command_line import load
from cvmae.config import Config, override
from cvmae.evaluate.evaluate import evaluate
from cvmae.storage import folders
from cvmae.storage import places as storage
from cvmae.storage.folders import file_sizes, local_copy, names
from cvmae.sweep.driver import sweep
from cvmae.train.pretrain import pretrain
from tests.storage.object_storage import (
    BUCKET,
    KEY,
    SECRET,
    Proxy,
    first_time,
    object_storage,
    upload,
)


@pytest.fixture(scope="module")
def proxy(hospital: str) -> Iterator[Proxy]:
    with object_storage() as proxy:
        upload(proxy, hospital, "meds")
        yield proxy


@pytest.fixture
def remote(tiny: Config, proxy: Proxy, request: pytest.FixtureRequest) -> Config:
    """Settings of a run in a new folder of the bucket."""
    storage._connect.cache_clear()
    proxy.reset()
    folder = request.node.name.replace("[", "_").replace("]", "")
    return replace(tiny, output_dir=f"s3://{BUCKET}/runs/{folder}")


class KilledError(Exception):
    """Stands for a process that ends here."""


def kill_at_send(monkeypatch: pytest.MonkeyPatch, words: str, number: int) -> None:
    """Let the process die before it sends a file whose place holds the words."""
    send, seen = folders._send_file, []

    def send_or_die(source, filesystem, location):
        if words in location:
            seen.append(location)
            if len(seen) == number:
                raise KilledError
        send(source, filesystem, location)

    monkeypatch.setattr(folders, "_send_file", send_or_die)


@contextmanager
def kept(prefix: str) -> Iterator[str]:
    """Make a temporary folder that nobody removes, as that of a process that is killed."""
    yield tempfile.mkdtemp(prefix=prefix)


def assert_same_end(ours: str, theirs: str) -> None:
    (our_progress, *our_state), (their_progress, *their_state) = (
        load_state(ours),
        load_state(theirs),
    )
    assert our_progress.global_step == their_progress.global_step
    for our, their in zip(our_state, their_state, strict=True):
        assert our.keys() == their.keys()
        assert all(torch.equal(our[name], value) for name, value in their.items())


def test_a_run_on_s3_that_is_killed_and_resumed_has_the_weights_of_a_local_one(
    remote, tiny, monkeypatch, caplog, tmp_path
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = replace(
        remote,
        train=replace(remote.train, epochs=3, batch_sequences=8),
        checkpoint=replace(remote.checkpoint, every_steps=10),
    )
    whole = pretrain(replace(config, output_dir=tiny.output_dir))
    with monkeypatch.context() as patch:
        kill_at_send(patch, "/checkpoints/step_00000030/", 4)
        patch.setattr(folders, "TemporaryDirectory", kept)
        with pytest.raises(KilledError):
            pretrain(config)
    assert [path for path in tmp_path.glob("cvmae_*/*") if "step_00000030" in path.name]
    assert any("step_00000030/" in name for name in file_sizes(config.output_dir))
    assert read_progress(config.output_dir).global_step < 30
    # As from the command line.
    pretrain(load(["--resume", config.output_dir]))
    assert not [path for path in tmp_path.glob("cvmae_*/*") if "step_00000030" in path.name]
    assert_same_end(config.output_dir, whole)
    assert len(names(f"{config.output_dir}/checkpoints")) <= 1 + config.checkpoint.keep
    assert set(names(config.output_dir)) == set(names(whole))
    with local_copy(f"{config.output_dir}/config.yaml") as path:
        text = path.read_text() + caplog.text
    assert KEY not in text
    assert SECRET not in text


@pytest.mark.slow
def test_a_run_that_is_killed_in_its_first_upload_begins_anew(remote, tiny, monkeypatch):
    whole = pretrain(tiny)
    with monkeypatch.context() as patch:
        kill_at_send(patch, "/checkpoints/", 3)
        with pytest.raises(KilledError):
            pretrain(remote)
    assert names(f"{remote.output_dir}/checkpoints")
    assert not has_checkpoints(remote.output_dir)
    pretrain(replace(remote, resume=remote.output_dir))
    assert_same_end(remote.output_dir, whole)


def test_the_manifest_is_sent_last_and_taken_away_first(remote, monkeypatch):
    config = replace(remote, checkpoint=replace(remote.checkpoint, keep=1))
    sent, send = [], folders._send_file

    def note(source, filesystem, location):
        sent.append(location)
        send(source, filesystem, location)

    monkeypatch.setattr(folders, "_send_file", note)
    run = pretrain(config)
    for step in names(f"{run}/checkpoints"):
        own = [place for place in sent if f"/{step}/" in place]
        assert own[-1].endswith("/manifest.json")
        assert len(own) == len(file_sizes(f"{run}/checkpoints/{step}"))


@pytest.mark.parametrize("kind", ["hang up", pytest.param("slow down", marks=pytest.mark.slow)])
def test_an_upload_that_breaks_once_is_repeated(remote, tiny, proxy, kind):
    # Each upload that breaks is waited for, half a second in the mean.
    remote, tiny = (override(config, {"train.epochs": 1}) for config in (remote, tiny))
    whole = pretrain(tiny)
    faults = [first_time(kind, words) for words in ("PUT", "POST")]
    proxy.reset(lambda request: faults[0](request) or faults[1](request))
    pretrain(remote)
    sent = [request for request in proxy.requests if request.startswith(("PUT", "POST"))]
    assert len(sent) > 1.5 * len(set(sent))
    assert_same_end(remote.output_dir, whole)


@pytest.mark.slow
def test_a_storage_that_is_away_for_one_checkpoint_does_not_end_the_run(
    remote, tiny, proxy, monkeypatch, caplog
):
    monkeypatch.setattr(storage, "NUM_RETRIES", 2)
    whole = pretrain(tiny)
    first = f"step_{load_state(whole)[0].history[0]['step']:08d}"
    proxy.fault = lambda request: (
        "slow down" if f"POST /{BUCKET}/runs" in request and (first in request) else None
    )
    pretrain(remote)
    assert f"{first} cannot be written" in caplog.text
    assert "training goes on" in caplog.text
    assert_same_end(remote.output_dir, whole)


@pytest.mark.slow
def test_a_storage_that_fails_at_deletions_and_reads_neither_ends_a_run_nor_sets_it_back(
    remote, proxy, monkeypatch, caplog
):
    monkeypatch.setattr(storage, "NUM_RETRIES", 2)
    config = replace(remote, checkpoint=replace(remote.checkpoint, keep=1))
    proxy.fault = lambda request: "slow down" if "?delete" in request else None
    run = pretrain(config)
    assert "are not all removed" in caplog.text
    first, last = names(f"{run}/checkpoints")
    assert first < last
    proxy.fault = lambda request: (
        "slow down" if f"GET /{BUCKET}/runs" in request and f"{last}/manifest" in request else None
    )
    with pytest.raises(ValueError, match=r"output_dir=.* cannot be read"):
        load_state(run)
    assert "passed over" not in caplog.text
    proxy.reset()
    assert load_state(run)[0].epoch == 2


@pytest.mark.slow
def test_an_object_that_is_damaged_is_passed_over(remote, caplog):
    run = pretrain(remote)
    filesystem, place = storage.locate(run)
    newest = names(f"{run}/checkpoints")[-1]
    target = f"{place}/checkpoints/{newest}/model.safetensors"
    content = bytearray(filesystem.open_input_file(target).read())
    content[-1] ^= 1
    with filesystem.open_output_stream(target) as stream:
        stream.write(bytes(content))
    assert load_state(run)[0].epoch == 1
    assert f"{newest} is passed over: model.safetensors is damaged" in caplog.text
    pretrain(replace(remote, resume=run))
    assert load_state(run)[0].epoch == 2


@pytest.mark.slow
def test_models_on_s3_are_evaluated_and_the_report_goes_there(remote, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("cvmae.evaluate.methods.SMALLEST_CELL", 1)  # few subjects of any code
    runs = {"there": pretrain(remote), "here": pretrain(tiny)}
    results = {}
    for name, folder in (("s3", f"{remote.output_dir}_evaluation"), ("local", str(tmp_path / "e"))):
        checkpoints = tuple(f"{key}={run}" for key, run in runs.items())
        config = replace(tiny.evaluate, checkpoints=checkpoints, bootstrap_samples=20)
        text = evaluate(replace(tiny, output_dir=folder, evaluate=config))
        assert text.endswith(f"{folder}/report.html")
        with local_copy(f"{folder}/results.json") as path:
            results[name] = json.loads(path.read_text())
    assert results["s3"]["codes"] == results["local"]["codes"]
    assert any(row["r2"]["here"] is not None for row in results["local"]["codes"])
    for row in results["s3"]["codes"]:
        assert row["r2"]["there"] == row["r2"]["here"]


@pytest.mark.slow
def test_what_fsspec_opens_holds_a_run_too(tiny, proxy):
    import fsspec

    whole = pretrain(tiny)
    try:
        run = pretrain(replace(tiny, output_dir="memory://runs/cv"))
        assert_same_end(run, whole)
        assert load_model(run, which="best").progress.global_step > 0
    finally:
        fsspec.filesystem("memory").rm("/runs", recursive=True)


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_starts(tiny):
    for place, said in (
        (f"s3://{KEY}:{SECRET}@{BUCKET}/run", "output_dir is a s3:// URI with credentials"),
        ("nosuch://bucket/run", "output_dir='nosuch://bucket/run': nosuch:// cannot be opened"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            pretrain(replace(tiny, output_dir=place))
        assert SECRET not in str(caught.value)


def test_a_bucket_that_is_not_there_is_named(remote):
    with pytest.raises(
        OSError, match=r"=s3://no-such-bucket/run cannot be written to: .*not found"
    ):
        pretrain(replace(remote, output_dir="s3://no-such-bucket/run"))


def test_a_run_on_s3_is_not_written_over_and_a_sweep_is_refused(remote):
    pretrain(remote)
    with pytest.raises(ValueError, match=r"output_dir=s3://.* is not empty.*--resume s3://"):
        pretrain(remote)
    with pytest.raises(ValueError, match="a sweep needs a folder that all nodes share"):
        sweep(remote)
    assert not Path("s3:").exists()
