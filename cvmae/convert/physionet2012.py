"""Records and outcomes of the PhysioNet/CinC Challenge 2012, as they are published.

A record is a text file of lines ``Time,Parameter,Value``: general descriptors at 00:00 (RecordID,
Age, Gender, Height, ICUType, Weight; -1 where unknown), then the time series of 48 hours. A value
of -1 elsewhere is kept as it stands, as are zeros that stand for nothing.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvmae.convert.physionet2012_codes import UNIT_TYPES, VARIABLES
from cvmae.runtime.tables import counted

__all__ = ["Outcome", "Record", "find_records", "read_outcomes", "read_record"]

SETS = ("a", "b", "c")
HEADER = "Time,Parameter,Value"
OUTCOME_COLUMNS = ("RecordID", "SAPS-I", "SOFA", "Length_of_stay", "Survival", "In-hospital_death")
LAST_MINUTE = 48 * 60
UNKNOWN = -1.0
SIZES = ("Height", "Weight")  # descriptors that are time series, too
GENDERS = {0: "F", 1: "M"}
ORDER = {name: place for place, name in enumerate(VARIABLES)}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One stay: descriptors and values, sorted by minute, those of a minute by variable."""

    age: int | None
    gender: str | None  # F or M
    unit_type: str
    minutes: tuple[int, ...]
    variables: tuple[str, ...]
    values: tuple[float, ...]
    passed_over: Mapping[str, int]  # lines by reason


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a stay ended; days since admission to the ICU, None where unknown or none."""

    length_of_stay: int | None
    survival: int | None
    died_in_hospital: bool


def find_records(folder: str) -> tuple[dict[int, Path], dict[int, Outcome]]:
    """Find every record and its outcome.

    Returns:
        The file of each record, by ascending RecordID, and its outcome.

    Raises:
        FileNotFoundError: There is no set, or one without its outcomes.
        ValueError: A file's name is no RecordID, or records and outcomes are not the same.
    """
    root = Path(folder).expanduser()
    present = [name for name in SETS if (root / f"set-{name}").is_dir()]
    if not present:
        raise FileNotFoundError(
            f"input={folder} has none of the folders set-a, set-b and set-c: unpack the files of "
            "https://physionet.org/content/challenge-2012/1.0.0/ there"
        )
    files: dict[int, Path] = {}
    outcomes: dict[int, Outcome] = {}
    for name in present:
        own = {_record_id(path): path for path in sorted((root / f"set-{name}").glob("*.txt"))}
        found = read_outcomes(root / f"Outcomes-{name}.txt")
        _require_same(f"set-{name}", own.keys(), found.keys(), f"Outcomes-{name}.txt")
        again = own.keys() & files.keys()
        if again:
            raise ValueError(f"set-{name} has {counted(len(again), 'record')} of another set, too")
        files |= own
        outcomes |= found
    return dict(sorted(files.items())), outcomes


def read_outcomes(path: Path) -> dict[int, Outcome]:
    """Read a table of outcomes, by RecordID.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: A line is not what it should be; the message names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: put it beside the folders of records")
    lines = _lines(path)
    number, header = next(lines, (1, ""))
    if tuple(header.split(",")) != OUTCOME_COLUMNS:
        raise _malformed(path, number, f"the columns {','.join(OUTCOME_COLUMNS)}")
    outcomes: dict[int, Outcome] = {}
    for number, line in lines:
        try:
            record_id, _, _, stay, survival, died = (int(field) for field in line.split(","))
        except ValueError:
            raise _malformed(path, number, "six whole numbers") from None
        if died not in (0, 1):
            raise _malformed(path, number, "In-hospital_death to be 0 or 1")
        if record_id in outcomes:
            raise _malformed(path, number, "each RecordID once")
        outcomes[record_id] = Outcome(
            length_of_stay=stay if stay >= 0 else None,
            survival=survival if survival >= 0 else None,
            died_in_hospital=died == 1,
        )
    return outcomes


def read_record(path: Path) -> Record:
    """Read one record.

    Lines are passed over, and counted, that say unknown (Height or Weight of -1), name no
    parameter, or repeat another one with time, parameter and value.

    Raises:
        ValueError: A line is not what it should be; the message tells which, and no value.
    """
    lines = _lines(path)
    number, header = next(lines, (1, ""))
    if header != HEADER:
        raise _malformed(path, number, f"the header {HEADER}")
    told: dict[str, float] = {}
    rows: list[tuple[int, int, float]] = []
    seen: set[tuple[int, int, float]] = set()
    passed_over: Counter[str] = Counter()
    for number, line in lines:
        minute, name, value = _fields(path, number, line)
        if not name:
            passed_over["without a parameter"] += 1
        elif name in ("RecordID", "Age", "Gender", "ICUType"):
            if told.setdefault(name, value) != value:
                raise _malformed(path, number, f"one {name} a record")
        elif name not in ORDER:
            known = ", ".join(("RecordID", "Age", "Gender", "ICUType", *sorted(ORDER)))
            raise _malformed(path, number, f"a parameter of the challenge ({known})")
        elif name in SIZES and value == UNKNOWN:
            passed_over["unknown height or weight"] += 1
        # As it is stored, in four bytes.
        elif (row := (minute, ORDER[name], float(np.float32(value)))) in seen:
            passed_over["said twice"] += 1
        else:
            seen.add(row)
            rows.append(row)
    _require_own(path, told)
    rows.sort(key=lambda row: row[:2])  # stable: several values of one time stay in file order
    names = list(ORDER)
    age = told.get("Age", UNKNOWN)
    return Record(
        age=int(age) if age >= 0 else None,
        gender=GENDERS.get(int(told.get("Gender", UNKNOWN))),
        unit_type=UNIT_TYPES[int(told["ICUType"])],
        minutes=tuple(row[0] for row in rows),
        variables=tuple(names[row[1]] for row in rows),
        values=tuple(row[2] for row in rows),
        passed_over=passed_over,
    )


def _fields(path: Path, number: int, line: str) -> tuple[int, str, float]:
    """Return minute, parameter and value of a line."""
    fields = line.split(",")
    if len(fields) != 3:
        raise _malformed(path, number, "three fields, Time,Parameter,Value")
    hours, separator, minutes = fields[0].partition(":")
    whole = separator and (hours + minutes).isascii() and (hours + minutes).isdigit()
    minute = int(hours) * 60 + int(minutes) if whole and hours and len(minutes) == 2 else -1
    if not whole or not 0 <= minute <= LAST_MINUTE or int(minutes) > 59:
        raise _malformed(path, number, "a time HH:MM from 00:00 to 48:00")
    name = fields[1].strip()
    try:
        value = float(fields[2]) if name else 0.0
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _malformed(path, number, "a value that is a finite number")
    return minute, name, value


def _require_own(path: Path, told: Mapping[str, float]) -> None:
    if told.get("RecordID") != _record_id(path):
        raise ValueError(
            f"{_told(path)}, says another RecordID than its name, or none: unpack the files anew"
        )
    if told.get("ICUType") not in UNIT_TYPES:
        allowed = ", ".join(map(str, UNIT_TYPES))
        raise ValueError(f"{_told(path)}, says no ICUType that is known: {allowed} are")


def _require_same(folder: str, records: Set[int], told: Set[int], table: str) -> None:
    if not records:
        raise ValueError(f"{folder} has no file that ends in .txt: unpack the records there")
    for few, many, where in ((told, records, table), (records, told, folder)):
        missing = many - few
        if missing:
            raise ValueError(
                f"{len(missing)} of the records of {folder} and {table} are not in {where}: unpack "
                "both anew, of the same version"
            )


def _record_id(path: Path) -> int:
    if not _is_record(path):
        raise ValueError(f"{path} is no record: its name should be a RecordID, as in 132539.txt")
    return int(path.stem)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that hold something, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{_told(path)}, is no text ({error.reason}): unpack it anew") from None
    except OSError as error:  # whose own text names the file
        raise OSError(f"{_told(path)}, cannot be read ({error.strerror})") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def _malformed(path: Path, number: int, expected: str) -> ValueError:
    """Say which line it is, and nothing of what it says: it is a patient's."""
    return ValueError(f"{_told(path)}, line {number}, is malformed: expected {expected}")


def _told(path: Path) -> str:
    """Name a file; one of a record, whose name is a subject's, by its place among the others."""
    if not _is_record(path):
        return str(path)
    place = sum(other < path for other in path.parent.glob("*.txt")) + 1
    return f"{path.parent}, file {place} of those that end in .txt, by name"


def _is_record(path: Path) -> bool:
    return path.stem.isascii() and path.stem.isdigit()
