"""Where a run comes from, as tags: user, command, commit, versions, machines."""

import getpass
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import cvmae
from cvmae.config import without_password
from cvmae.runtime.submitted import runs_in_a_copy
from cvmae.runtime.tables import counted

__all__ = [
    "WORKER_HOST",
    "begun_or_resumed",
    "command",
    "first_line",
    "host",
    "inherited",
    "origin_tags",
    "versions",
]

COMMAND, VERSIONS, CLUSTER = "cvmae.command", "cvmae.versions", "cvmae.ray_cluster"
HOST, WORKER_HOST = "cvmae.host", "cvmae.worker_host"  # of the driver, and of rank 0
USER, SOURCE, SOURCE_TYPE = "mlflow.user", "mlflow.source.name", "mlflow.source.type"
COMMIT, DIRTY = "mlflow.source.git.commit", "mlflow.source.git.dirty"
# What a trial does not know, whose process was started by Ray, its sweep knows.
INHERITED = (COMMAND, SOURCE, SOURCE_TYPE, COMMIT, DIRTY)
RESUMED = "cvmae.resumed."  # before the names of what the last resume has changed

PACKAGES = ("cvmae", "torch", "ray", "mlflow", "numpy")
RAY_WORKER = "default_worker.py"  # what Ray starts its processes with
GIT_PATIENCE_S = 10
IMAGE_COMMIT = "CVMAE_COMMIT"  # set where the image is built, which has no history
GPUS = Path("/proc/driver/nvidia/gpus")


def origin_tags() -> dict[str, str]:
    """Return the tags of this process; what cannot be told is left out."""
    told_versions = ", ".join(f"{name} {number}" for name, number in versions(PACKAGES).items())
    tags = {USER: _user(), VERSIONS: told_versions, HOST: host(), CLUSTER: _cluster()}
    program = Path((sys.argv or [""])[0]).name
    if program != RAY_WORKER:
        tags |= {
            COMMAND: command(),
            SOURCE: program,
            SOURCE_TYPE: "JOB" if runs_in_a_copy() else "LOCAL",
        }
    commit, is_dirty = _commit()
    tags |= {COMMIT: commit, DIRTY: "true" if is_dirty else ""}
    return {name: value for name, value in tags.items() if value}


def begun_or_resumed(tags: Mapping[str, str], first: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a process that begins or resumes a run, beside those that it has.

    What the first start said stays; of a resume's, what differs has names of its own.

    Example:
        >>> begun_or_resumed({HOST: "b", VERSIONS: "1"}, {HOST: "a", VERSIONS: "1"})
        {'cvmae.resumed.host': 'b'}
    """
    if not first:
        return dict(tags)
    again = {_resumed(name): (name, value) for name, value in tags.items()}
    return {
        own: value
        for own, (name, value) in again.items()
        if own in first or (name in first and first[name] != value)
    }


def inherited(sweep: Mapping[str, str], *, begins: bool) -> dict[str, str]:
    """Return what a trial has from its sweep: of its last resume if the trial begins only now."""
    known = {name: sweep[name] for name in INHERITED if name in sweep}
    if begins:
        known |= {name: sweep[_resumed(name)] for name in INHERITED if _resumed(name) in sweep}
    return known


def _resumed(name: str) -> str:
    return f"{RESUMED}{name.removeprefix('cvmae.').removeprefix('mlflow.')}"


def command(argv: Sequence[str] | None = None) -> str:
    """Return a command line as a shell takes it, without passwords.

    Example:
        >>> command(["pretrain.py", "--tracking.uri=http://me:secret@host:5000", "--seed", "1"])
        'python pretrain.py --tracking.uri=http://host:5000 --seed 1'
    """
    shown, before = ["python"], ""
    for token in sys.argv if argv is None else argv:
        name, equals, value = token.partition("=")
        if before == "--tracking.uri":  # it may be one without a scheme
            shown.append(without_password(token))
        elif equals and name == "--tracking.uri":
            shown.append(f"{name}={without_password(value)}")
        else:
            shown.append(_without_passwords(token))
        before = token
    return shlex.join(shown)


def first_line(error: Exception) -> str:
    """Return what an error says first, or its name; no password."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return _without_passwords(line)[:300]


def _without_passwords(text: str) -> str:
    """Return a text in which every address is as `without_password` has it."""
    return re.sub(r"\w[\w+.-]*://\S+", lambda found: without_password(found[0]), text)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):  # or a checkout
            found[package] = importlib.metadata.version(package)
    return found


def host() -> str:
    """Return what kind of machine this is: processor and GPUs."""
    cpus = f"{counted(os.cpu_count() or 1, 'CPU')} ({_cpu_name()})"
    # Not from torch, which would take memory of a GPU that another process trains on.
    names = [_field(path, "Model") for path in sorted(GPUS.glob("*/information"))]
    counts = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return ", ".join([f"{platform.system()} {platform.machine()}", cpus, *counts])


def _cpu_name() -> str:
    return _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or "unknown"


def _field(path: Path, name: str) -> str:
    """Return a value of a file of lines ``name: value``, '' where there is none."""
    try:
        found = re.search(rf"^{name}\s*:\s*(.*)$", path.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1].strip() if found else ""


def _cluster() -> str:
    """Return the shape of the Ray cluster that this process has joined, '' without one."""
    if "ray" not in sys.modules:
        return ""
    from cvmae.runtime.start_ray import cluster_shape

    return cluster_shape()


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container whose user has no name
        return ""


def _commit() -> tuple[str, bool]:
    """Return the commit of the program or of the working folder, and whether files were changed.

    Ray's copy of a folder has no history either, and the image's commit is not that of its code.
    """
    package = Path(cvmae.__file__).resolve().parents[1]
    # A checkout that merely holds the environment, as many do, says nothing of the package.
    folder = package if (package / ".git").exists() else Path.cwd()
    git = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        said = subprocess.run(
            [*git, "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=GIT_PATIENCE_S,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        said = "" if runs_in_a_copy() else os.environ.get(IMAGE_COMMIT, "")
    return said.removesuffix("-dirty"), said.endswith("-dirty")
