"""The process that a claim of a folder belongs to, as another process can tell it later."""

import json
import os
import platform
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

__all__ = ["Holder"]


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that a claim belongs to."""

    token: str
    verb: str
    host: str
    pid: int
    since: str
    machine: str  # the boot of a machine, the same in all its containers
    numbering: str  # of processes: a container has its own
    started: str  # tells the process from a later one with its number
    beat: int = 0

    @classmethod
    def me(cls, verb: str) -> "Holder":
        """Describe this process."""
        return cls(
            token=uuid.uuid4().hex,
            verb=verb,
            host=platform.node(),
            pid=os.getpid(),
            since=datetime.now().astimezone().isoformat(" ", "seconds"),
            machine=_machine(),
            numbering=_numbering(),
            started=_started(os.getpid()),
        )

    @classmethod
    def read(cls, text: bytes) -> "Holder | None":
        """Read what `text` gives; None where that is half written or foreign."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def text(self) -> bytes:
        """Return what a claim's file holds."""
        return json.dumps(asdict(self)).encode()

    def __str__(self) -> str:
        return f"{self.verb} (process {self.pid} on {self.host}, since {self.since})"

    @property
    def was_on_this_machine(self) -> bool:
        """Tell whether the process belongs to this machine since its last start."""
        return self.machine == _machine()

    @property
    def runs_here(self) -> bool | None:
        """Tell whether the process is still there; None where that cannot be seen from here."""
        if (self.machine, self.numbering) != (_machine(), _numbering()):
            return None
        return bool(self.started) and _started(self.pid) == self.started


def _machine() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return platform.node()


def _numbering() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _started(pid: int) -> str:
    """Return when a process of this machine was started, '' where there is none."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # dead, but not yet waited for
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"
