"""Writes records of the PhysioNet/CinC Challenge 2012, made up or rebuilt from a MEDS data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path

DESCRIBED = ("00:00,Age,54", "00:00,Gender,0", "00:00,Height,-1", "00:00,ICUType,4")
OUTCOMES = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"


def write_challenge(
    root: Path,
    records: Mapping[int, Sequence[str]],
    outcomes: Mapping[int, str] | None = None,
    *,
    name: str = "a",
) -> Path:
    """Write one set: lines after the descriptors for each record, and the end of its outcome."""
    folder = root / f"set-{name}"
    folder.mkdir(parents=True)
    for record_id, lines in records.items():
        text = "\n".join(["Time,Parameter,Value", f"00:00,RecordID,{record_id}", *lines])
        (folder / f"{record_id}.txt").write_text(text + "\n", encoding="ascii")
    told = dict.fromkeys(records, "6,1,5,-1,0") if outcomes is None else outcomes
    lines = [OUTCOMES, *(f"{record_id},{rest}" for record_id, rest in told.items())]
    (root / f"Outcomes-{name}.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
    return root
