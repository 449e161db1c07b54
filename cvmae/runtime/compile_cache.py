"""Where machine code of compiled passes is kept: by what it was made from, not by where that lies.

Numba keeps it beside the source, and Ray copies a submitted working folder anew for every job, so
that every process of every job would compile again. Here it is kept once a user and machine: below
``NUMBA_CACHE_DIR`` where that is set, else the user's cache folder, else a temporary one.
"""

import contextlib
import functools
import hashlib
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import llvmlite.binding
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

__all__ = ["compile_for"]

logger = logging.getLogger("cvmae")

Function = Callable[..., Any]

DIGEST = re.compile("[0-9a-f]{32}")
KEPT_S = 30 * 86_400  # after the last use

settings: Any = numba.config  # its attributes come from the environment


def compile_for(*signatures: Any, **options: Any) -> Callable[[Function], Function]:
    """Compile a function for the given signatures only, and keep the code for later processes.

    Where no folder can be written to, every process compiles again.

    Args:
        signatures: Numba's types of arguments and result.
        options: Of `numba.njit`.
    """

    def decorate(function: Function) -> Function:
        dispatcher = numba.njit(**options)(function)
        if settings.DISABLE_JIT:  # the function itself: somebody debugs it
            return function
        try:
            dispatcher._cache = _Cache(function)
        except RuntimeError:  # no folder can be written to
            _tell("and again for every process, since no folder for it can be written to")
        for signature in signatures:
            dispatcher.compile(signature)
        dispatcher.disable_compile()
        return dispatcher  # type: ignore[no-any-return]

    return decorate


@functools.cache
def _tell(how_often: str) -> None:
    """Say why nothing happens for some seconds, once a process."""
    logger.info("compiling the passes over rows, some seconds; %s", how_often)


class _Locator(_CacheLocator):
    """A folder for one version of a source file, of Numba and of the processor.

    All three in the folder's name: machines that share a home do not overwrite what others keep.
    """

    def __init__(self, py_func: Function, digest: str, folder: Path) -> None:
        self._name, self._digest, self._folder = py_func.__qualname__, digest, folder

    def get_cache_path(self) -> str:
        """Return the folder."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """Return what changes with the source; when the file was written does not matter."""
        return self._digest

    def get_disambiguator(self) -> str:
        """Return what tells functions of one name apart: none share one."""
        return ""

    @classmethod
    def from_function(cls, py_func: Function, py_file: str) -> Self | None:
        """Return the first folder that can be written to, None where none can."""
        digest = _digest(py_file)
        for parent in _parents():
            locator = cls(py_func, digest, parent / digest)
            with contextlib.suppress(OSError):
                parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _check_ours(parent)
                if not locator._folder.exists():
                    _drop_unused(parent)
                locator.ensure_cache_path()
                os.utime(locator._folder)  # it is in use
                return locator
        return None


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # type: ignore[list-item]  # noqa: RUF012


class _Cache(FunctionCache):
    """Machine code in files; what is wrong with a file costs time, and never ends a process."""

    _impl_class = _Implementation

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the code that is kept, None where there is none that can be read."""
        found = None
        try:
            found = super().load_overload(sig, target_context)
        except Exception:  # cut short by a crash, say; unpickling may raise anything
            with contextlib.suppress(OSError):
                self.flush()
        if found is None:
            _tell("once for this user and machine")
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code, unless the disk is full."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


def _parents() -> Iterator[Path]:
    if settings.CACHE_DIR:
        yield Path(settings.CACHE_DIR) / "cvmae"
    with contextlib.suppress(RuntimeError):  # a user without a home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cvmae"
    yield Path(tempfile.gettempdir()) / f"cvmae-{os.getuid()}"


def _check_ours(folder: Path) -> None:
    """Raise PermissionError if others could put code there: anybody may write to /tmp."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is not this user's alone")


def _drop_unused(parent: Path) -> None:
    """Drop code that no process has used for a month; another may be dropping it, too.

    A process that has just begun to use it compiles what it does not find.
    """
    for folder in parent.iterdir():
        if not DIGEST.fullmatch(folder.name):
            continue
        with contextlib.suppress(OSError):  # dropped meanwhile
            if time.time() - folder.lstat().st_mtime > KEPT_S:
                shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _digest(py_file: str) -> str:
    made_from = hashlib.sha256(Path(py_file).read_bytes())
    features = llvmlite.binding.get_host_cpu_features().flatten()
    for part in (numba.__version__, llvmlite.binding.get_host_cpu_name(), features):
        made_from.update(f"\0{part}".encode())
    return made_from.hexdigest()[:32]
