"""The folder that a verb writes to: looked at once, before any work, and held until its end."""

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cvmae.config import resolved_path
from cvmae.runtime.submitted import runs_in_a_copy
from cvmae.storage.claims import CLAIM, claimed
from cvmae.storage.folders import ASIDE, is_file, join, make_folder, names, remove_aside, written
from cvmae.storage.places import is_remote

__all__ = ["absolute_output", "output_folder", "refuse_in_data_set", "require_new"]

# A claim, what a killed process left half written, and what file systems keep for themselves.
NO_CONTENT = rf"{re.escape(CLAIM)}|{re.escape(ASIDE)}.*|lost\+found"

Check = Callable[[str], None]


def require_new(
    folder: str,
    setting: str = "output_dir",
    *,
    unfinished: Callable[[str], bool] = lambda name: False,
    advice: Callable[[Sequence[str]], str] = lambda found: ": choose a new folder",
) -> None:
    """Refuse a folder in which there is something.

    Args:
        folder: Path or URI.
        setting: What the message calls it.
        unfinished: Tells by a name what the verb itself leaves when it is killed, and may replace.
        advice: What to say of the names that are there.

    Raises:
        ValueError: It is not empty.
    """
    found = [name for name in names(folder) if not re.fullmatch(NO_CONTENT, name)]
    if not all(unfinished(name) for name in found):
        raise ValueError(f"{setting}={folder} is not empty{advice(found)}")


@contextmanager
def output_folder(
    given: str,
    verb: str,
    *,
    setting: str = "output_dir",
    data_root: str = "",
    check: Check | None = None,
    only_local: str = "",
    look: bool = False,
) -> Iterator[str]:
    """Make a folder, see that it can be written to, and hold it while the block lasts.

    Args:
        given: Folder or URI as the user says it.
        verb: What writes there, for the messages of other processes.
        setting: What messages call it.
        data_root: Data set in which it may not lie.
        check: Refuses what is in it; by default it must be new.
        only_local: Why it may not be on remote storage, where that is so.
        look: Refuse what would be refused as far as that takes no writing, and leave it alone.

    Yields:
        The folder's absolute path, or its URI.

    Raises:
        ValueError: None is given, it is remote and may not be, another process holds it, it is
            not new, or see `absolute_output` and `refuse_in_data_set`.
        OSError: It cannot be made or written to.
    """
    folder = absolute_output(given, setting)
    if only_local and is_remote(folder):  # not named here: it may hold credentials
        raise ValueError(f"{setting} is a {folder.partition('://')[0]}:// URI: {only_local}")
    refuse_in_data_set(folder, data_root, setting)
    if is_file(folder):
        raise ValueError(f"{setting}={folder} is a file: give a folder")
    check = check or partial(require_new, setting=setting)
    if look:
        check(folder)
        yield folder
        return
    is_here = not is_remote(folder)
    is_new = is_here and not Path(folder).exists()
    try:
        with ExitStack() as held:
            try:
                make_folder(folder)
                held.enter_context(claimed(folder, verb))
                if is_here:
                    _try_to_write(folder)
            except OSError as error:
                raise _unusable(folder, setting, error) from None
            check(folder)
            remove_aside(folder)
            yield folder
    finally:
        if is_new:
            with suppress(OSError):  # there is something in it now, as there should be
                os.rmdir(folder)


def absolute_output(given: str, setting: str = "output_dir") -> str:
    """Return where a folder for output is: an absolute path, or a URI of another place.

    Raises:
        ValueError: None is given, or a job that was submitted with its working folder would
            write into Ray's copy of that.
    """
    if not given:
        raise ValueError(f"{setting} is empty: say --{setting} FOLDER")
    place = _absolute(given)
    if runs_in_a_copy() and "://" not in given and not Path(given).expanduser().is_absolute():
        raise ValueError(
            f"{setting}={given} is relative, and this job runs in Ray's copy of the folder that it "
            "was submitted from, which Ray removes: give an absolute path of a folder that all "
            "nodes share, or a URI"
        )
    return place


def refuse_in_data_set(folder: str, data_root: str, setting: str = "output_dir") -> None:
    """Refuse a folder whose files a data set would take for its own.

    Raises:
        ValueError: The folder is that of the data set, or lies in it.
    """
    root = _absolute(data_root) if data_root else ""
    if root and (folder == root or folder.startswith(f"{root.rstrip('/')}/")):
        raise ValueError(
            f"{setting}={folder} lies in the data set's own folder, data.root={root}: give a "
            "folder outside of it"
        )


def _absolute(place: str) -> str:
    if is_remote(place):
        return place.rstrip("/")
    if place.startswith("file://"):
        place = unquote(urlsplit(place, allow_fragments=False).path)
    return resolved_path(place)


def _try_to_write(folder: str) -> None:
    """Write, replace and remove a file and a folder, as everything in the folder will be."""
    probe = Path(join(folder, f"{ASIDE}{uuid.uuid4().hex}"))
    try:
        for text in ("", "replaced"):
            with written(probe) as aside:
                aside.write_text(text, encoding="ascii")
        if probe.read_text(encoding="ascii") != "replaced":
            raise OSError("a file that replaces another does not appear")
        probe.unlink()
        with written(probe) as aside:
            aside.mkdir()
            (aside / "file").touch()
    finally:
        # Itself alone: whose the folder is, and what else is half written there, is not known yet.
        if probe.is_dir():
            shutil.rmtree(probe, ignore_errors=True)
        else:
            probe.unlink(missing_ok=True)


def _unusable(folder: str, setting: str, error: OSError) -> OSError:
    reason = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
    reason = reason.removeprefix(f"{folder} cannot be written: ")
    if error.filename:  # a claim that another user has left, say
        reason += f" ({error.filename})"
    return OSError(
        f"{setting}={folder} cannot be written to: {reason}; give a folder where files can be made "
        "and replaced"
    )
