"""Who is compared: runs under names that the user gave."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["BEST_WEIGHTS", "Contestant"]

# Suffix of the method that stands for a name's weights with the least tuning error.
BEST_WEIGHTS = " (best weights)"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One run of a name; several runs of a name are seeds of it."""

    name: str
    path: str
    which: Literal["last", "best"] = "last"
    stamp: str  # of the checkpoint that the path stood for when it was looked up

    @property
    def method(self) -> str:
        """Name under which its errors are averaged with those of other seeds."""
        return self.name + (BEST_WEIGHTS if self.which == "best" else "")
