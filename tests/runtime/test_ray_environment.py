"""A local Ray starts whatever TMPDIR and HOME are, and its notices stay off the terminal."""

import re

import pytest

from cvmae.runtime import ray_environment
from cvmae.runtime.ray_environment import ENVIRONMENT, prepare_environment, prepare_local_start

NOTICES = [
    "Progress bars disabled. To enable, set `ray.data.DataContext.get_current()...",
    "/lib/ray/data/options.py:436: RayDeprecationWarning: `ExecutionOptions.exclude_resources` is",
    "  self.exclude_resources = exclude_resources",
    "[2026-11-29 21:03:02,999 E 19 19] core_worker.cc:2465: Actor with class name: "
    "'PreemptionWatcher' and ID: '06a2' has constructor arguments in the object store",
    "[2026] WARNING: 12 PYTHON worker processes have been started on node: ab with address: 1.2",
]
OTHERS = [
    "21:03:36 random_seed0: step 7/14, epoch 1/2, train 0.9286, 635 measurements/s",
    "ValueError: data.root has no train split",
    "[2026-11-29 21:03:02,999 E 19 19] core_worker.cc:99: out of memory",
    "(raylet) 1 Workers (tasks / actors) killed due to memory pressure\nsee Progress bars disabled",
]


@pytest.fixture(autouse=True)
def _no_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_notices_are_dropped_and_every_other_line_is_shown_each_time():
    skip, allow = (
        re.compile(ENVIRONMENT[f"RAY_DEDUP_LOGS_{name}_REGEX"]) for name in ("SKIP", "ALLOW")
    )
    for line in NOTICES:
        assert skip.search(line)
        assert not allow.search(line)
    for line in OTHERS:
        assert allow.search(line)


def test_what_a_user_has_set_stays():
    environ = {"RAY_DATA_DISABLE_PROGRESS_BARS": "0", "RAY_AUTH_MODE": "disabled"}
    prepare_environment(environ)
    prepare_local_start(environ)
    assert environ["RAY_DATA_DISABLE_PROGRESS_BARS"] == "0"
    assert environ["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN" not in environ


@pytest.mark.parametrize("own", [{}, {"RAY_TMPDIR": "/var/tmp"}])
def test_a_long_tmpdir_is_replaced_with_a_line_that_names_the_variable(own, tmp_path, caplog):
    """For Python, too: Ray's dashboard opens sockets below TMPDIR, whatever RAY_TMPDIR is."""
    environ = {"TMPDIR": str(tmp_path / ("a" * 60)), **own}
    prepare_local_start(environ)
    assert environ["TMPDIR"] == environ.get("RAY_TMPDIR", "/tmp")
    assert "longer than the" in caplog.text
    assert "RAY_TMPDIR names another" in caplog.text


def test_a_tmpdir_that_ray_can_use_is_left_to_it(monkeypatch, tmp_path, caplog):
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(ray_environment, "LONGEST_SOCKET", 1000)
    environ = {"TMPDIR": str(tmp_path / "t")}
    prepare_local_start(environ)
    assert environ["TMPDIR"] == str(tmp_path / "t")
    assert not caplog.text


@pytest.mark.parametrize("name", ["a" * 60, "file"])
def test_a_ray_tmpdir_that_cannot_serve_is_refused_by_name(name, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    if name == "file":
        monkeypatch.setattr(ray_environment, "LONGEST_SOCKET", 1000)
    with pytest.raises(ValueError, match=r"RAY_TMPDIR=.*: set it to a folder"):
        prepare_local_start({"RAY_TMPDIR": str(tmp_path / name)})


def test_the_longest_path_that_is_let_through_is_one_that_ray_takes(monkeypatch):
    validate = pytest.importorskip("ray._private.utils").validate_socket_filepath
    room = ray_environment.LONGEST_SOCKET - len(ray_environment.SESSION)
    validate("/" + "a" * (room - 1) + ray_environment.SESSION)
    with pytest.raises(OSError, match="AF_UNIX"):
        validate("/" + "a" * room + ray_environment.SESSION)


def test_a_local_ray_has_a_token_of_its_own_unless_the_user_has_one(monkeypatch, tmp_path):
    first, second = {}, {}
    prepare_local_start(first)
    prepare_local_start(second)
    assert len(first["RAY_AUTH_TOKEN"]) == 64
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]
    assert not (tmp_path / "home").exists()
    for own in ({"RAY_AUTH_TOKEN": "mine"}, {"RAY_AUTH_TOKEN_PATH": "/mine"}):
        environ = dict(own)
        prepare_local_start(environ)
        assert own.items() <= environ.items()
        assert len({"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & environ.keys()) == 1
    (tmp_path / "home/.ray").mkdir(parents=True)
    (tmp_path / "home/.ray/auth_token").write_text("mine")
    environ = {}
    prepare_local_start(environ)
    assert "RAY_AUTH_TOKEN" not in environ
