"""What Ray reads of the environment: set before it is imported, and where it would not start.

Only variables that Ray documents are set, and none that a user has set.
"""

import logging
import os
import secrets
import sys
from collections.abc import MutableMapping
from pathlib import Path

__all__ = ["prepare_environment", "prepare_local_start"]

logger = logging.getLogger("cvmae")

# What Ray's own processes say to the driver's terminal at every run, where there is nothing wrong.
NOTICES = "|".join(
    [
        "RayDeprecationWarning",
        r"^ *self\.exclude_resources = exclude_resources",  # the line that it quotes
        "^Progress bars disabled",
        r"core_worker\.cc:\d+: Actor with class name: 'PreemptionWatcher'",
        "worker processes have been started on node",
    ]
)
ENVIRONMENT = {
    # Notices are dropped, and of other lines each is shown: trials side by side say similar ones,
    # of which Ray would swallow all but one.
    "RAY_DEDUP_LOGS_SKIP_REGEX": NOTICES,
    "RAY_DEDUP_LOGS_ALLOW_REGEX": f"^(?!.*(?:{NOTICES}))",
    # A busy machine needs more than the minute that Ray gives its dashboard.
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # The newer output prints a frame about an experiment even where it should be silent.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Ctrl-C would end an experiment as if its trials were done.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # On a busy machine what Tune does takes longer than the half second after which it complains.
    "TUNE_WARN_THRESHOLD_S": "30",
}
LONGEST_SOCKET = 107  # bytes of a path that the system takes for a socket
# What Ray adds to its folder, with the largest id of a process.
SESSION = "/ray/session_2026-11-29_21-01-23_878123_4194304/sockets/plasma_store"


def prepare_environment(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set what Ray reads when it is imported."""
    for name, value in ENVIRONMENT.items():
        environ.setdefault(name, value)


def prepare_local_start(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let a local Ray start whatever TMPDIR and HOME are, as far as that is possible.

    Raises:
        ValueError: Ray's sockets fit nowhere; the message names the variable to set.
    """
    _find_room_for_sockets(environ)
    _give_token(environ)


def _find_room_for_sockets(environ: MutableMapping[str, str]) -> None:
    """Replace a TMPDIR in which sockets have no room: Ray's, or those of Python that it uses."""
    folder = environ.get("RAY_TMPDIR", "/tmp")
    reason = _unfit(environ.get("TMPDIR", folder))
    if (reason or "RAY_TMPDIR" in environ) and (other := _unfit(folder)):
        raise ValueError(
            f"RAY_TMPDIR={folder} {other}: set it to a folder with a short name that this user can "
            "write to, for the sockets of a local Ray"
        )
    if reason:
        logger.warning(
            "TMPDIR=%s %s: a local Ray and this process keep temporary files in %s instead; "
            "RAY_TMPDIR names another folder",
            environ.get("TMPDIR"),
            reason,
            folder,
        )
        environ["TMPDIR"] = folder


def _unfit(folder: str) -> str:
    """Say why Ray cannot keep its session in a folder; '' where it can."""
    room = LONGEST_SOCKET - len(SESSION)
    if len(os.fsencode(folder)) > room:
        return f"is longer than the {room} bytes that Ray's sockets leave"
    try:
        own = Path(folder, "ray")
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"cannot be written to ({error.strerror})"
    return "" if os.access(own, os.W_OK | os.X_OK) else f"holds {own}, which cannot be written to"


def _give_token(environ: MutableMapping[str, str]) -> None:
    """Let a local Ray and its processes share a token of their own.

    Ray would write one to the home folder, where it may not write, where it would let a later
    `ray start` demand it of users who do not have it, and would say so on every start.
    """
    if environ.get("RAY_AUTH_MODE", "token") != "token":
        return
    if "ray" not in sys.modules:  # else it has read the mode, and sets it in its own way
        environ.setdefault("RAY_AUTH_MODE", "token")
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & environ.keys() and not _has_token_file():
        environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _has_token_file() -> bool:
    try:
        return (Path.home() / ".ray" / "auth_token").is_file()
    except (OSError, RuntimeError):  # no home, or none that may be looked into
        return False
