"""Which MEDS codes become the vocabulary: by pattern and count, or by file."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Bools, Ints
from cvmae.runtime.tables import counted
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
        ValueError: data.code_pattern is not a regular expression, or data.codes_file is empty,
            is not UTF-8, may not be read, or has a code twice or in quotes.
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
    for number, line in enumerate(re.split("\r\n|\r|\n", _read_text(path)), start=1):
        # Blanks are kept: MIMIC has a code that ends with a blank unit.
        members = tuple(code for code in line.split("\t") if code)
        for code in members:
            if len(code) > 1 and code[0] == code[-1] == '"':
                raise ValueError(
                    f"data.codes_file={path}, line {number}: {code} is in quotes; write codes "
                    "without, one entry a line, tabs between the codes of an entry"
                )
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
    """Read a text in UTF-8, with or without the mark that Windows programs put before it."""
    if Path(path).is_dir():
        raise ValueError(f"data.codes_file={path} is a folder: give a text file")
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"data.codes_file={path} does not exist") from None
    except PermissionError:
        raise ValueError(
            f"data.codes_file={path} may not be read by this user: ask its owner for read access"
        ) from None
    try:
        text = content.decode("utf-8-sig")
        wrong = text.find("\0")  # UTF-16 without its mark
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        line = content.count(b"\n", 0, wrong) + 1
        raise ValueError(
            f"data.codes_file={path}, line {line}, is not UTF-8: save it as UTF-8 (editors and "
            "spreadsheets ask for the encoding when they save)"
        )
    return text


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
            dropped[name] = f"{counted(num_values, 'value')} on train ({rule})"
        elif constant_K[number]:
            dropped[name] = "all values on train are equal once clipped"
        elif len(chosen) == config.num_codes and not by_file:
            dropped[name] = (
                f"{counted(num_values, 'value')} on train, not among data.num_codes={len(chosen)}"
            )
        else:
            chosen.append(number)
    return chosen, dropped
