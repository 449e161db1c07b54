"""What a run writes, whole or not at all: files and folders here or on object storage.

Here they are written aside and renamed. Object stores have no rename, but show a file only when
it has come whole; of a folder, one file is sent last, and without it the folder does not count.
What is sent is written to a temporary folder of this machine first.
"""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import pyarrow.fs as pafs

from cvmae.storage.places import is_remote, locate, reaching

__all__ = [
    "exists",
    "file_sizes",
    "is_file",
    "join",
    "local_copy",
    "make_folder",
    "names",
    "remove_aside",
    "remove_file",
    "remove_folder",
    "written",
]

ASIDE = ".writing_"
SETTING = "output_dir"  # what messages call the place


def join(folder: str | Path, *parts: str) -> str:
    """Return the place of something in a folder.

    Example:
        >>> join("s3://bucket/run/", "checkpoints", "step_00000002")
        's3://bucket/run/checkpoints/step_00000002'
    """
    return "/".join([str(folder).rstrip("/"), *parts])


@contextmanager
def written(target: str | Path, last: str = "") -> Iterator[Path]:
    """Yield a path of this machine; the file or folder made there appears at the target, whole.

    What is at the target is replaced; a folder that is there stays, since it may be a mount, and
    the files in it are replaced one by one. Where the block fails, nothing changes. When this
    returns, a machine that loses its power keeps what was written.

    Args:
        target: A path or a URI.
        last: The file of a folder without which it does not count.

    Raises:
        OSError: It cannot be written.
    """
    if is_remote(str(target)):
        with TemporaryDirectory(prefix=_scratch(str(target).rpartition("/")[0])) as scratch:
            aside = Path(scratch) / Path(target).name
            yield aside
            _send(aside, str(target), last)
        return
    place = Path(target)
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place if place.is_dir() else place.parent
    aside = beside / f"{ASIDE}{uuid.uuid4().hex}_{place.name}"
    try:
        yield aside
        for path in (aside, *aside.rglob("*")):
            _sync(path)  # a full disk may say so as late as here
        if place.is_dir() and aside.is_dir():
            _fill(place, aside, last)
        else:
            _replace(aside, place)
        _sync(beside)
    finally:
        _remove(aside)


@contextmanager
def local_copy(source: str | Path) -> Iterator[Path]:
    """Yield a path of this machine at which a file or folder can be read while the block lasts.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: The storage does not answer, or refuses.
    """
    if not is_remote(str(source)):
        yield Path(source)
        return
    with TemporaryDirectory(prefix="cvmae_") as scratch:
        copy = Path(scratch) / Path(source).name
        with _reached(source) as (filesystem, location):
            if filesystem.get_file_info(location).type == pafs.FileType.NotFound:
                raise FileNotFoundError(f"{source} does not exist")
            # Within the block, since the copy of a folder is a folder that must exist.
            if not filesystem.get_file_info(location).is_file:
                copy.mkdir()
            pafs.copy_files(
                location,
                str(copy),
                source_filesystem=filesystem,
                destination_filesystem=pafs.LocalFileSystem(),
            )
        yield copy


def names(folder: str | Path) -> list[str]:
    """Return what is in a folder, sorted; nothing where there is none."""
    with _reached(folder) as (filesystem, location):
        selector = pafs.FileSelector(location, allow_not_found=True)
        return sorted(info.base_name for info in filesystem.get_file_info(selector))


def file_sizes(folder: str | Path) -> dict[str, int]:
    """Return the size in bytes of every file below a folder; nothing where there is none."""
    with _reached(folder) as (filesystem, location):
        selector = pafs.FileSelector(location, recursive=True, allow_not_found=True)
        start = location.rstrip("/") + "/"
        found = filesystem.get_file_info(selector)
        return {info.path.removeprefix(start): info.size for info in found if info.is_file}


def exists(path: str | Path) -> bool:
    """Tell whether there is a file or a folder; object stores have no empty folders."""
    with _reached(path) as (filesystem, location):
        return bool(filesystem.get_file_info(location).type != pafs.FileType.NotFound)


def is_file(path: str | Path) -> bool:
    """Tell whether there is a file."""
    with _reached(path) as (filesystem, location):
        return bool(filesystem.get_file_info(location).is_file)


def make_folder(folder: str | Path) -> None:
    """Make a folder where there is none, which shows early whether it can be written to.

    Raises:
        OSError: It cannot be made.
        ValueError: The storage does not answer, or refuses.
    """
    filesystem, location = locate(str(folder), setting=SETTING)
    try:
        filesystem.create_dir(location, recursive=True)
    except OSError as error:
        raise _unwritten(str(folder), error) from None


def remove_folder(folder: str | Path) -> None:
    """Remove a folder and what is in it, if it is there."""
    with _reached(folder) as (filesystem, location):
        if filesystem.get_file_info(location).type == pafs.FileType.Directory:
            filesystem.delete_dir(location)


def remove_file(path: str | Path) -> None:
    """Remove a file, if it is there."""
    with _reached(path) as (filesystem, location):
        if filesystem.get_file_info(location).is_file:
            filesystem.delete_file(location)


def remove_aside(folder: str | Path) -> None:
    """Remove what a killed process left half written in a folder; no other may write meanwhile.

    For a remote folder that is what lay on this machine to be sent there.
    """
    place, start = Path(folder), ASIDE
    if is_remote(str(folder)):
        place, start = Path(gettempdir()), _scratch(str(folder))
    for path in place.glob(f"{start}*"):
        _remove(path)


def _fill(folder: Path, aside: Path, last: str) -> None:
    """Move what is in a folder into another one, which does not count until the last file is."""
    if last:
        (folder / last).unlink(missing_ok=True)
    for path in sorted(aside.iterdir(), key=lambda path: (path.name == last, path.name)):
        if path.name == last:
            _sync(folder)
        _replace(path, folder / path.name)


def _replace(aside: Path, place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    os.replace(aside, place)


def _sync(path: Path) -> None:
    """Wait until the disk has a file, or the names that are in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems keep names by themselves, and know no such call for folders.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def _scratch(folder: str) -> str:
    """Return how the temporary folders begin in which files for a remote folder are written."""
    return f"cvmae_{hashlib.sha256(folder.rstrip('/').encode()).hexdigest()[:16]}_"


@contextmanager
def _reached(place: str | Path) -> Iterator[tuple[Any, str]]:
    with reaching(str(place), SETTING):
        yield locate(str(place), setting=SETTING)


def _send(source: Path, target: str, last: str) -> None:
    """Copy a file or folder to remote storage, which repeats requests that fail."""
    try:
        filesystem, location = locate(target, setting=SETTING)
        if source.is_file():
            _send_file(source, filesystem, location)
            return
        remove_file(join(target, last))
        files = sorted(path for path in source.rglob("*") if path.is_file())
        for path in sorted(files, key=lambda path: path == source / last):
            name = path.relative_to(source).as_posix()
            _send_file(path, filesystem, join(location, name))
    except (OSError, ValueError) as error:
        raise _unwritten(target, error) from error


def _unwritten(target: str, error: Exception) -> OSError:
    return OSError(f"{target} cannot be written: {(str(error).splitlines() or [''])[0]}")


def _send_file(source: Path, filesystem: Any, location: str) -> None:
    pafs.copy_files(
        str(source),
        location,
        source_filesystem=pafs.LocalFileSystem(),
        destination_filesystem=filesystem,
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
