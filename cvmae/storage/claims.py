"""One writer a folder: a claim names the process that writes there, and ends with it.

On this machine a claim is the kernel's lock on a small file, which the kernel releases however its
holder ends. The file names the holder, who writes it anew every 20 s. Where locks say nothing
(object storage, a file system without them, one whose locks do not reach other machines) these
signs of life do: a claim from elsewhere is watched for 90 s, and replaced if it stays as it is.
"""

import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from cvmae.storage.folders import join, local_copy, remove_file, written
from cvmae.storage.holder import Holder
from cvmae.storage.places import is_remote

__all__ = ["CLAIM", "FolderInUseError", "claimed"]

logger = logging.getLogger("cvmae")

CLAIM = ".claim"
BEAT_EVERY_S = 20.0
WATCHED_S = 90.0  # several beats, since a busy machine or storage delays some
LOOK_EVERY_S = 5.0
# After which two that began at the same moment, without locks, both see whose claim has stayed.
SETTLED_S = 1.0
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
EXIT_LOST = 1

# A process that this one forks must not keep its locks beyond its end.
_descriptors: set[int] = set()
os.register_at_fork(after_in_child=lambda: list(map(os.close, _descriptors)))


class FolderInUseError(ValueError):
    """Another process writes to the folder; nothing was changed there."""


@contextmanager
def claimed(folder: str, verb: str) -> Iterator[None]:
    """Hold a folder, in which no other process of this program writes meanwhile.

    Should another one take the claim over (since this machine slept, or a person removed it),
    this process ends at once, as if it were killed: what it has written whole stays.

    Args:
        folder: Path or URI; it exists.
        verb: What this process does, for the messages of others.

    Raises:
        FolderInUseError: Another process holds it; the message names that process.
        OSError: The claim cannot be written.
    """
    own = Holder.me(verb)
    with ExitStack() as stack:
        claim = _PlainClaim(folder) if is_remote(folder) else stack.enter_context(_locked(folder))
        found = claim.read()
        if found is not None:
            _require_ended(claim, found, folder)
        claim.write(own)
        if not claim.is_locked:
            time.sleep(SETTLED_S)
            if (now := claim.read()) is not None and now.token != own.token:
                raise _in_use(folder, now)
        stack.callback(claim.remove, own)
        stack.enter_context(_beating(claim, own, folder))
        yield


def _require_ended(claim: "_PlainClaim", found: Holder, folder: str) -> None:
    """Refuse a folder whose holder still runs, on this machine or another."""
    if claim.is_locked and found.was_on_this_machine:
        return  # it has ended, since the kernel gave its lock away
    if (runs := found.runs_here) is not None:
        if runs:
            raise _in_use(folder, found)
        return
    logger.warning(
        "%s was claimed by %s, which never said that it ended: watched for %.0f s whether it lives",
        folder,
        found,
        WATCHED_S,
    )
    deadline_s = time.monotonic() + WATCHED_S
    while time.monotonic() < deadline_s:
        time.sleep(LOOK_EVERY_S)
        now = claim.read()
        if now is not None and now != found:
            raise _in_use(folder, now)


@contextmanager
def _beating(claim: "_PlainClaim", own: Holder, folder: str) -> Iterator[None]:
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(claim, own, folder, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _beat(claim: "_PlainClaim", own: Holder, folder: str, ended: threading.Event) -> None:
    """Give signs of life, until the block ends or another process has taken the claim over."""
    while not ended.wait(BEAT_EVERY_S):
        own = replace(own, beat=own.beat + 1)
        with suppress(OSError, ValueError):  # a storage that is away: the next one counts
            found = claim.read()
            if found is not None and found.token != own.token:
                logger.error("%s is now claimed by %s: this process ends", folder, found)
                _end_process()
                return
            claim.write(own)


def _end_process() -> None:
    os._exit(EXIT_LOST)


class _PlainClaim:
    """A claim where there are no locks."""

    is_locked = False  # by this process; otherwise signs of life must do

    def __init__(self, folder: str) -> None:
        self._path = join(folder, CLAIM)

    def read(self) -> Holder | None:
        """Return who holds the claim; None where nobody does, or the file is half written."""
        try:
            with local_copy(self._path) as path:
                return Holder.read(path.read_bytes())
        except FileNotFoundError:
            return None

    def write(self, holder: Holder) -> None:
        """Say who holds it."""
        with written(self._path) as path:
            path.write_bytes(holder.text())

    def remove(self, own: Holder) -> None:
        """Give it up."""
        with suppress(OSError, ValueError):  # others will watch it for a while
            found = self.read()
            if found is None or found.token == own.token:  # not of whoever took it over
                remove_file(self._path)


class _LockedClaim(_PlainClaim):
    """A claim that the kernel releases when its holder ends."""

    is_locked = True

    def __init__(self, folder: str, descriptor: int) -> None:
        super().__init__(folder)
        self._descriptor = descriptor

    def write(self, holder: Holder) -> None:
        """Say who holds it, in the file that is locked."""
        # In place: another file of this name would not be the one that is locked.
        text = holder.text()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))


@contextmanager
def _locked(folder: str) -> Iterator[_PlainClaim]:
    """Yield a claim whose file is locked, or a plain one where the file system has no locks."""
    path = Path(folder, CLAIM)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _descriptors.add(descriptor)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _in_use(folder, _PlainClaim(folder).read()) from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                yield _PlainClaim(folder)
                return
            if _is_there(descriptor, path):
                yield _LockedClaim(folder, descriptor)
                return
            # Its holder has ended between our two looks, and removed it: once more.
        finally:
            _descriptors.discard(descriptor)
            os.close(descriptor)


def _is_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _in_use(folder: str, holder: Holder | None) -> FolderInUseError:
    who = str(holder) if holder else "another process, which has just begun"
    return FolderInUseError(
        f"{folder} is being written to by {who}: wait until it ends, stop it, or give another "
        f"folder (if no such process runs anywhere, remove {join(folder, CLAIM)})"
    )
