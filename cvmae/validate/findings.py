"""What `validate` has found: one table for people, plain dictionaries for machines."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from cvmae.meds.refused import RefusedDataError
from cvmae.runtime.tables import counted, text_table

__all__ = ["Finding", "Level", "Validation", "as_finding", "format_findings", "merge_findings"]

Level = Literal["refused", "counted"]

SHOWN_ROWS = 5  # of one kind in one file
# Files with the same finding; the JSON holds all of them.
SHOWN_FILES = {"refused": 10, "counted": 3}
COLUMN_WIDTH = 44  # of the columns of text


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of defect or oddity in one file."""

    level: Level
    what: str
    remedy: str
    file: str = ""  # below data.root; empty: the data set as a whole
    rows: tuple[int, ...] = ()  # the first ones, from 0 in the file; empty: of no row
    count: int = 1  # rows, or whatever `what` speaks of

    def as_json(self) -> dict[str, Any]:
        """Return what `validation.json` holds of it."""
        return {
            "level": self.level,
            "file": self.file,
            "rows": list(self.rows),
            "count": self.count,
            "what": self.what,
            "what_to_do": self.remedy,
        }


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What was looked at, and what was found."""

    findings: tuple[Finding, ...]
    counts: Mapping[str, int]  # shards, rows by kind, duplicates
    num_subjects: Mapping[str, int]  # with rows, in each split and in none

    @property
    def accepted(self) -> bool:
        """Return whether pretraining would take the data set."""
        return not any(found.level == "refused" for found in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the report for machines."""
        return {
            "accepted": self.accepted,
            "counts": dict(self.counts),
            "num_subjects": dict(self.num_subjects),
            "findings": [found.as_json() for found in self.findings],
        }

    def as_text(self) -> str:
        """Return the table of findings, what was looked at, and the verdict."""
        number = Counter(self.counts)
        subjects = ", ".join(f"{split} {count:,}" for split, count in self.num_subjects.items())
        num_refused = sum(found.level == "refused" for found in self.findings)
        return "\n".join(
            [
                *([format_findings(self.findings), ""] if self.findings else []),
                f"checked: {counted(number['shards'], 'shard')}, "
                f"{counted(number['rows'], 'row')}, subjects: "
                f"{subjects or 'not counted'}",
                f"rows of matching codes: {number['matching']:,}; of these without value "
                f"{number['null_value']:,}, without time {number['null_time']:,}, NaN "
                f"{number['nan']:,}, infinite {number['infinite']:,}, before 1900 or after 2300 "
                f"{number['absurd_time']:,}",
                f"measurements: {number['measurements']:,}; of these repeated "
                f"{number['duplicates']:,}",
                "pretraining would accept this data set with these settings"
                if self.accepted
                else "pretraining would refuse this data set: "
                f"{counted(num_refused, 'finding')} to mend",
            ]
        )


def as_finding(error: Exception, file: str = "") -> Finding:
    """Turn the error with which a data set or a setting is refused into a finding.

    Args:
        error: What pretraining would raise.
        file: What it is about, where the error does not say so itself.
    """
    if not isinstance(error, RefusedDataError):
        return Finding(level="refused", file=file, what=str(error), remedy="")
    return Finding(
        level="refused",
        file=error.file or file,
        rows=error.rows,
        count=len(error.rows) or 1,
        what=error.what,
        remedy=error.remedy,
    )


def merge_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Put findings of the same kind in the same file together, those that refuse first."""
    merged: list[Finding] = []
    for _, same in groupby(sorted(findings, key=_order), key=lambda found: _order(found)[:-1]):
        parts = list(same)
        rows = sorted(row for part in parts for row in part.rows)
        count = sum(part.count for part in parts)
        merged.append(replace(parts[0], rows=tuple(rows[:SHOWN_ROWS]), count=count))
    return tuple(merged)


def _order(found: Finding) -> tuple[Any, ...]:
    return (found.level != "refused", found.what, found.remedy, found.file, found.rows)


def format_findings(findings: Sequence[Finding]) -> str:
    """Return a table: level, file, row, count, what, what to do.

    A finding of many files is shown for the first of them, with the number of the others.
    """
    lines = []
    for _, same in groupby(findings, key=lambda found: _order(found)[:3]):
        files = list(same)
        shown = SHOWN_FILES[files[0].level]
        lines += [_cells(found) for found in files[:shown]]
        if rest := files[shown:]:
            count = sum(found.count for found in rest)
            lines.append(
                ("", f"and {counted(len(rest), 'more file')}", "", f"{count:,}", "likewise", "")
            )
    header = ("level", "file", "row (from 0)", "count", "what", "what to do")
    return text_table(header, lines, align="<", wrapped={4: COLUMN_WIDTH, 5: COLUMN_WIDTH})


def _cells(found: Finding) -> tuple[str, str, str, str, str, str]:
    rows = ", ".join(map(str, found.rows)) + (", ..." if found.count > len(found.rows) > 0 else "")
    file = found.file or "(all)"
    return found.level, file, rows, f"{found.count:,}", found.what, found.remedy
