"""A hospital with ids and values that occur nowhere else by chance, and where they have got to."""

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cvmae.infer.notice import NOTE

FIRST_SUBJECT, APART = 748_113_000_019, 7_919  # twelve digits, no run of which is a count or a time
NOTED = re.compile(r"^(?:The files below )?(\S+?)/? are patient data", re.M)
# Said to hold them (docs/data.md): of checkpoints and statistics, which subjects are in a read, and
# the least and the greatest value of each code.
KEPT = re.compile(r"(unit_index|code_statistics)\.parquet")

Secrets = tuple[list[int], set[str]]


@contextlib.contextmanager
def heard() -> Iterator[io.StringIO]:
    """Yield what is printed and logged while the block lasts, with tracebacks."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield said
    finally:
        logging.getLogger().removeHandler(handler)


def plant(hospital: str, folder: Path) -> Path:
    """Write a hospital again, its subjects under other ids."""
    for path in sorted(Path(hospital).rglob("*.parquet")):
        table = pq.read_table(path)
        if "subject_id" in table.column_names:
            ids = pc.add(pc.multiply(table["subject_id"], APART), FIRST_SUBJECT)
            table = table.set_column(table.column_names.index("subject_id"), "subject_id", ids)
        target = folder / path.relative_to(hospital)
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, target)
    return folder


def copied(root: Path, target: Path) -> Path:
    """Copy a data set, and return one of its files with many subjects."""
    for path in sorted(root.rglob("*.parquet")):
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return sorted((target / "data" / "train").glob("*.parquet"))[0]


def not_ascending(root: Path, target: Path) -> None:
    path = copied(root, target)
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array(range(table.num_rows - 1, -1, -1))), path)


def secrets_of(root: Path) -> Secrets:
    """Return all ids, and all values that have six digits or more, as they are written."""
    files = sorted((root / "data").rglob("*.parquet"))
    rows = pa.concat_tables(pq.read_table(path) for path in files)
    ids = sorted(set(rows["subject_id"].to_pylist()))
    labs = rows.filter(pc.match_substring_regex(rows["code"], "^LAB//"))
    measured = labs["numeric_value"].drop_null().to_numpy()
    short = {str(value) for value in measured}  # as float32, and as Python's floats are written:
    long = {repr(value) for value in measured.astype(float).tolist()}
    values = {text for text in short | long if len(text.replace(".", "").lstrip("0")) >= 6}
    assert len(ids) > 50
    assert len(values) > 500
    return ids, values


def found_in(text: str, secrets: Secrets) -> list[str]:
    """Name what kind of secret a text holds; the secret itself stays out of the message."""
    ids, values = secrets
    numbers = set(re.findall(r"\d+\.\d+", text))
    return [f"id of subject {place}" for place, own in enumerate(ids) if str(own) in text] + [
        "a value" for _ in numbers & values
    ]


def patient_data(path: Path, folder: Path) -> bool:
    """Tell whether a note names this file, or a folder that it is in, as patient data."""
    own = path.relative_to(folder).parts[:-1]
    for depth in range(1, len(own) + 1):
        note = folder.joinpath(*own[:depth], NOTE)
        if note.is_file():
            (named,) = NOTED.findall(note.read_text())
            inside = path.relative_to(note.parent).parts
            return path != note and named in (note.parent.name, inside[0])
    return False


def leaks(folder: Path, secrets: Secrets) -> tuple[int, list[tuple[Path, str]]]:
    """Search all below a folder but what is said to be patient data; return how many files."""
    searched, found = 0, []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or KEPT.fullmatch(path.name) or patient_data(path, folder):
            continue
        searched += 1
        found += [(path.relative_to(folder), what) for what in search(path, secrets)]
    return searched, found


def search(path: Path, secrets: Secrets) -> list[str]:
    """Name what kinds of secrets a file holds."""
    ids, _ = secrets
    content = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        content += str(table.to_pydict()).encode() + str(table.schema.metadata).encode()
    binary = [
        f"id {place}" for place, own in enumerate(ids) if own.to_bytes(8, "little") in content
    ]
    return binary + found_in(content.decode("utf-8", errors="replace"), secrets)
