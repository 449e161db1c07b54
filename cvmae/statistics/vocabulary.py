"""Which MEDS codes become the vocabulary: by pattern and count, or by file."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Bools, Ints
from cvmae.settings import DataConfig

__all__ = ["CandidateLookup", "Candidates", "choose_codes", "file_hash", "open_candidates"]

# Shape letters beside those of `cvmae.arrays`: K candidate codes.


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """MEDS codes that may enter: those that match a pattern, or the entries of a file."""

    pattern: str
    entries: tuple[tuple[str, ...], ...]  # empty: the pattern decides


class CandidateLookup:
    """Give each candidate the next free number as it comes up: a `meds.Lookup`.

    The codes of a data set are known only once it is read, so numbers hold for one unit and
    `names` says what they mean. Several codes of one entry share the entry's first code.
    """

    def __init__(self, candidates: Candidates) -> None:
        self.names: list[str] = []
        self._pattern = re.compile(candidates.pattern)
        self._name_of = {code: codes[0] for codes in candidates.entries for code in codes}
        self._by_file = bool(candidates.entries)
        self._index: dict[str, int] = {}
        self._number: dict[str, int] = {}

    def __call__(self, dictionary: Sequence[str]) -> npt.NDArray[np.int32]:
        """Return the number of each MEDS code, -1 where it is no candidate."""
        return np.array([self._look_up(code) for code in dictionary], np.int32)

    def _look_up(self, code: str) -> int:
        if code not in self._index:
            name = self._name(code)
            if name and name not in self._number:
                self._number[name] = len(self.names)
                self.names.append(name)
            self._index[code] = self._number[name] if name else -1
        return self._index[code]

    def _name(self, code: str) -> str:
        if self._by_file:
            return self._name_of.get(code, "")
        return code if self._pattern.search(code) else ""

    def examples(self, limit: int = 5) -> list[str]:
        """Return some of the codes that were looked up, candidates or not."""
        return list(self._index)[:limit]


def open_candidates(config: DataConfig) -> Candidates:
    """Read the rule that the settings give.

    Raises:
        FileNotFoundError: data.codes_file does not exist.
        ValueError: data.code_pattern is not a regular expression, or data.codes_file is empty
            or names a code twice.
    """
    if config.codes_file:
        return Candidates(pattern="", entries=_read_entries(config.codes_file))
    try:
        re.compile(config.code_pattern)
    except re.error as error:
        raise ValueError(
            f"data.code_pattern={config.code_pattern!r} is not a regular expression: {error}"
        ) from None
    return Candidates(pattern=config.code_pattern, entries=())


def _read_entries(path: str) -> tuple[tuple[str, ...], ...]:
    entries: list[tuple[str, ...]] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        # Blanks are kept: MIMIC has a code that ends with a blank unit.
        members = tuple(code for code in line.rstrip("\r").split("\t") if code)
        for code in members:
            if code in line_of:
                raise ValueError(
                    f"data.codes_file={path}, line {number}: {code!r} stands on line "
                    f"{line_of[code]} as well; a code belongs to one entry"
                )
            line_of[code] = number
        if members:
            entries.append(members)
    if not entries:
        raise ValueError(f"data.codes_file={path} is empty: give one entry a line")
    return tuple(entries)


def _read_text(path: str) -> str:
    if not Path(path).is_file():
        raise FileNotFoundError(f"data.codes_file={path} does not exist")
    return Path(path).read_text(encoding="utf-8")


def file_hash(path: str) -> str:
    """Return a hash of the content of a vocabulary file, empty where there is none."""
    return hashlib.sha256(_read_text(path).encode()).hexdigest()[:16] if path else ""


def choose_codes(
    config: DataConfig,
    candidates: Candidates,
    names: Sequence[str],
    num_values_K: Ints,
    constant_K: Bools,
) -> tuple[list[int], dict[str, str]]:
    """Choose the vocabulary from the counts on train.

    Args:
        config: data.num_codes and data.min_count hold for a pattern; a file decides itself.
        candidates: The rule that the names follow.
        names: Candidate codes that came up.
        num_values_K: Values of each on train.
        constant_K: True where all values are the same once clipped.

    Returns:
        Places of the chosen names, in the order of ``code_index`` (the most frequent first, or
        the file's), and the reason for each candidate that was left out.
    """
    by_file = bool(candidates.entries)
    place = {name: number for number, name in enumerate(names)}
    chosen: list[int] = []
    dropped: dict[str, str] = {}
    if by_file:
        ranked = [codes[0] for codes in candidates.entries]
    else:
        # Ties by name, so that the order depends on nothing but the counts.
        ranked = sorted(names, key=lambda name: (-int(num_values_K[place[name]]), name))
    least = 2 if by_file else config.min_count
    for name in ranked:
        number = place.get(name, -1)
        num_values = int(num_values_K[number]) if number >= 0 else 0
        if num_values < least:
            rule = "a file's code needs 2" if by_file else f"data.min_count={least}"
            dropped[name] = f"{num_values} values on train ({rule})"
        elif constant_K[number]:
            dropped[name] = "all values on train are equal once clipped"
        elif len(chosen) == config.num_codes and not by_file:
            dropped[name] = f"{num_values} values on train, not among data.num_codes={len(chosen)}"
        else:
            chosen.append(number)
    return chosen, dropped
