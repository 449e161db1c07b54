"""One writer a folder: who is refused, what the message names, and what a holder's end does."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cvmae.storage import claims
from cvmae.storage.claims import CLAIM, FolderInUseError, claimed
from cvmae.storage.holder import Holder

HOLD = """
import os, sys, time
from cvmae.storage.claims import claimed
with claimed(sys.argv[1], "pretrain"):
    if os.fork():
        print("held", flush=True)
        time.sleep(60)
    time.sleep(20)  # the forked one outlives its parent, and must not hold on
    os._exit(0)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def elsewhere(**changes) -> Holder:
    """A process of another machine, of which nothing is seen from here."""
    return replace(Holder.me("evaluate"), machine="another", host="node7", pid=77, **changes)


def leave(folder, holder: Holder) -> None:
    Path(folder, CLAIM).write_bytes(holder.text())


@pytest.fixture
def short(monkeypatch):
    """Seconds become hundredths."""
    for name in ("BEAT_EVERY_S", "WATCHED_S", "LOOK_EVERY_S", "SETTLED_S"):
        monkeypatch.setattr(claims, name, getattr(claims, name) / 100)


def test_a_second_process_is_refused_at_once_with_the_name_of_the_first(holder, tmp_path):
    begun_s = time.monotonic()
    said = rf"{tmp_path} is being written to by pretrain \(process {holder.pid} on .*since 20"
    with pytest.raises(FolderInUseError, match=said), claimed(str(tmp_path), "pretrain"):
        pass
    assert time.monotonic() - begun_s < 5


def test_a_folder_whose_holder_was_killed_is_taken_over_at_once(holder, tmp_path, caplog):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / CLAIM).exists()
    with claimed(str(tmp_path), "pretrain"):
        pass
    assert "watched" not in caplog.text
    assert os.listdir(tmp_path) == []


def test_two_claims_of_one_process_exclude_each_other(tmp_path):
    with claimed(str(tmp_path), "sweep"):
        with pytest.raises(FolderInUseError, match="by sweep"), claimed(str(tmp_path), "evaluate"):
            pass
        assert os.listdir(tmp_path) == [CLAIM]
    with claimed(str(tmp_path), "evaluate"):
        pass


def test_a_claim_ends_with_an_error_in_the_block(tmp_path):
    with pytest.raises(KeyboardInterrupt), claimed(str(tmp_path), "pretrain"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_claim_from_another_machine_that_shows_no_life_is_replaced(tmp_path, short, caplog):
    leave(tmp_path, elsewhere())
    with claimed(str(tmp_path), "pretrain"):
        assert Holder.read((tmp_path / CLAIM).read_bytes()).pid == os.getpid()
    assert "was claimed by evaluate (process 77 on node7" in caplog.text


def test_a_claim_from_another_machine_that_shows_life_is_respected(tmp_path, short):
    leave(tmp_path, elsewhere())
    timer = threading.Timer(0.2, leave, (tmp_path, elsewhere(beat=1)))
    timer.start()
    with pytest.raises(FolderInUseError, match="process 77 on node7"), claimed(str(tmp_path), "x"):
        pass
    timer.join()
    assert Holder.read((tmp_path / CLAIM).read_bytes()).pid == 77


def no_locks(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.fixture(params=["no locks", "memory"])
def without_locks(request, tmp_path, monkeypatch, short):
    """A folder where the kernel locks nothing: of a network, and of an object storage."""
    if request.param == "no locks":
        monkeypatch.setattr(claims.fcntl, "flock", no_locks)
        yield str(tmp_path)
        return
    import fsspec

    yield f"memory://claims/{tmp_path.name}"
    if fsspec.filesystem("memory").exists("/claims"):
        fsspec.filesystem("memory").rm("/claims", recursive=True)


def test_without_locks_a_process_that_runs_here_is_respected(without_locks):
    with claimed(without_locks, "pretrain"):
        with pytest.raises(FolderInUseError, match="by pretrain"), claimed(without_locks, "sweep"):
            pass
        assert claims._PlainClaim(without_locks).read().verb == "pretrain"
    assert claims._PlainClaim(without_locks).read() is None


def test_without_locks_a_process_of_this_machine_that_ended_is_replaced_at_once(
    without_locks, caplog
):
    gone = subprocess.Popen(["true"])
    gone.wait()
    claims._PlainClaim(without_locks).write(replace(Holder.me("pretrain"), pid=gone.pid))
    with claimed(without_locks, "pretrain"):
        pass
    assert "watched" not in caplog.text


def test_a_process_that_got_the_number_of_one_that_ended_is_not_taken_for_it(without_locks):
    claims._PlainClaim(without_locks).write(replace(Holder.me("pretrain"), started="12"))
    with claimed(without_locks, "pretrain"):
        pass


def test_of_two_that_begin_at_the_same_moment_without_locks_one_is_refused(
    without_locks, monkeypatch
):
    def overtaken(seconds):
        claims._PlainClaim(without_locks).write(elsewhere())

    monkeypatch.setattr(claims.time, "sleep", overtaken)
    with pytest.raises(FolderInUseError, match="node7"), claimed(without_locks, "pretrain"):
        pass
    assert claims._PlainClaim(without_locks).read().pid == 77


def test_a_process_whose_claim_was_taken_over_ends(tmp_path, short, monkeypatch, caplog):
    ended = threading.Event()
    monkeypatch.setattr(claims, "_end_process", ended.set)
    with claimed(str(tmp_path), "pretrain"):
        (tmp_path / CLAIM).unlink()  # as a message says that a person may
        leave(tmp_path, elsewhere())
        assert ended.wait(10)
    assert "is now claimed by evaluate (process 77 on node7" in caplog.text
    assert Holder.read((tmp_path / CLAIM).read_bytes()).pid == 77


def test_a_holder_gives_signs_of_life(tmp_path, short):
    with claimed(str(tmp_path), "pretrain"):
        first = Holder.read((tmp_path / CLAIM).read_bytes())
        deadline_s = time.monotonic() + 10
        while (now := Holder.read((tmp_path / CLAIM).read_bytes())) in (None, first):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    assert replace(now, beat=0) == first
