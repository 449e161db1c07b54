import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numba
import pytest

from cvmae.runtime import compile_cache
from cvmae.runtime.compile_cache import compile_for

PACKAGE = Path(__file__).resolve().parents[2] / "cvmae"
INT = numba.types.int64
COUNT = """
from cvmae import compiled

stats = [getattr(compiled, name).stats for name in compiled.__all__]
print(*(sum(sum(s[place].values()) for s in stats) for place in (1, 2)))
"""


def copy_of_the_package(folder):
    """Return a working folder with as much of the package as the compiled passes need."""
    for name in ("__init__.py", "compiled.py", "runtime/__init__.py", "runtime/compile_cache.py"):
        target = folder / "cvmae" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / name, target)  # with another time of change
    return folder


def hits_and_misses(folder, home):
    """Import the passes of a working folder in a process of its own."""
    kept = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        cwd=folder,
        env=kept | {"HOME": str(home), "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(map(int, done.stdout.split()))


@pytest.mark.slow
def test_every_copy_of_a_working_folder_finds_what_the_first_one_compiled(tmp_path):
    first, second = (copy_of_the_package(tmp_path / name) for name in ("first", "second"))
    hits, compiled = hits_and_misses(first, tmp_path)
    assert hits == 0
    assert compiled > 0
    assert hits_and_misses(second, tmp_path) == (compiled, 0)
    # Another source is another program, though only a comment of it changed.
    with (second / "cvmae" / "compiled.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert hits_and_misses(second, tmp_path) == (0, compiled)
    assert hits_and_misses(first, tmp_path) == (compiled, 0)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Give each of the three places a folder of its own; a test spoils some."""
    monkeypatch.setattr(compile_cache.settings, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / ".cache"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path


def double(x):
    return 2 * x


def compiled_double():
    return compile_for(INT(INT))(double)


def kept_in(folder):
    return sorted(path.suffix for path in folder.rglob("*.nb?"))


def test_machine_code_is_kept_in_the_users_cache_folder(folders):
    assert compiled_double()(21) == 42
    assert kept_in(folders / "home" / ".cache" / "cvmae") == [".nbc", ".nbi"]
    assert sum(compiled_double().stats.cache_hits.values()) == 1


def test_numbas_own_setting_of_a_folder_is_followed(folders, monkeypatch):
    monkeypatch.setattr(compile_cache.settings, "CACHE_DIR", str(folders / "chosen"))
    assert compiled_double()(21) == 42
    assert kept_in(folders / "chosen") == [".nbc", ".nbi"]


def test_without_a_home_to_write_to_it_is_kept_in_a_temporary_folder(folders):
    (folders / "home").write_text("no folder", encoding="utf-8")
    assert compiled_double()(21) == 42
    assert kept_in(folders / "tmp" / f"cvmae-{os.getuid()}") == [".nbc", ".nbi"]
    assert sum(compiled_double().stats.cache_hits.values()) == 1


def test_what_is_compiled_is_said_once_and_only_where_it_is_not_kept(folders, caplog):
    caplog.set_level(logging.INFO, "cvmae")
    compile_cache._tell.cache_clear()
    compile_for(INT(INT), numba.types.int32(numba.types.int32))(double)
    assert caplog.messages == [
        "compiling the passes over rows, some seconds; once for this user and machine"
    ]
    caplog.clear()
    compile_cache._tell.cache_clear()
    assert compiled_double()(21) == 42
    assert caplog.messages == []


def test_where_nothing_can_be_kept_that_is_said_too(folders, caplog):
    for name in ("home", "tmp"):
        place = folders / name
        shutil.rmtree(place, ignore_errors=True)
        place.write_text("no folder", encoding="utf-8")
    caplog.set_level(logging.INFO, "cvmae")
    compile_cache._tell.cache_clear()
    assert compiled_double()(21) == 42
    (line,) = caplog.messages
    assert line.endswith("for every process, since no folder for it can be written to")


@pytest.mark.parametrize("kind", ["writable by all", "a link"])
def test_a_temporary_folder_that_others_may_write_to_is_not_trusted(folders, kind):
    (folders / "home").write_text("no folder", encoding="utf-8")
    own = folders / "tmp" / f"cvmae-{os.getuid()}"
    if kind == "a link":
        (folders / "elsewhere").mkdir(mode=0o700)
        own.symlink_to(folders / "elsewhere")
    else:
        own.mkdir()
        own.chmod(0o777)
    assert compiled_double()(21) == 42
    assert kept_in(folders) == []


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04nonsense"])
def test_a_damaged_file_is_compiled_anew_and_replaced(folders, suffix, content):
    compiled_double()
    (kept,) = (folders / "home").rglob(f"*{suffix}")
    kept.write_bytes(content)
    again = compiled_double()
    assert again(21) == 42
    assert sum(again.stats.cache_misses.values()) == 1
    assert sum(compiled_double().stats.cache_hits.values()) == 1


def test_a_full_disk_costs_only_time(folders, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    assert compiled_double()(21) == 42


@pytest.mark.usefixtures("folders")
def test_other_types_than_those_given_are_refused():
    with pytest.raises(TypeError, match="No matching definition"):
        compiled_double()("text")


def test_code_that_was_not_used_for_a_month_goes_when_other_code_comes(folders):
    parent = folders / "home" / ".cache" / "cvmae"
    old, recent, other = (parent / name for name in ("0" * 32, "1" * 32, "not ours"))
    for folder, age_s in ((old, 40 * 86_400), (recent, 20 * 86_400), (other, 40 * 86_400)):
        folder.mkdir(parents=True, mode=0o700)
        (folder / "code.nbi").touch()
        os.utime(folder, (time.time() - age_s,) * 2)
    parent.chmod(0o700)
    assert compiled_double()(21) == 42
    assert not old.exists()
    assert recent.exists()
    assert other.exists()
    (own,) = {path.parent for path in parent.rglob("*.nbc")}
    os.utime(own, (0, 0))
    compiled_double()  # a use, which a later one that drops code sees
    assert time.time() - own.stat().st_mtime < 86_400


def test_a_pass_that_is_debugged_is_python(folders, monkeypatch):
    monkeypatch.setattr(compile_cache.settings, "DISABLE_JIT", True)
    assert compiled_double() is double
    assert kept_in(folders) == []
