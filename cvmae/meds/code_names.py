"""What codes mean in words: metadata/codes.parquet, where the data set has it."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meds.schema import CodeMetadataSchema, code_metadata_filepath

from cvmae.meds.parquet import is_text, read_columns
from cvmae.storage.folders import is_file, join

__all__ = [
    "SHOWN",
    "beginning",
    "code_names",
    "read_code_names",
    "short_code",
    "short_names",
]

logger = logging.getLogger("cvmae")

CODE, NAME = CodeMetadataSchema.code_name, CodeMetadataSchema.description_name
SILENT = ("LAB", "RESULT", "VITAL", "UNK")  # parts of a code that tell a reader nothing
LONGEST = 40  # characters of a short name, without its unit
SHOWN = 3  # codes that a message shows


def code_names(root: str, codes: Iterable[str]) -> dict[str, str]:
    """Return the description of each code that metadata/codes.parquet has one for.

    Names are for readers only, so a table that cannot be read is no reason to stop: that is
    logged, and there are no names.
    """
    wanted = set(codes)
    try:
        return {code: name for code, name in read_code_names(root).items() if code in wanted}
    except (ValueError, OSError) as error:
        logger.warning("codes are shown without names: %s", error)
        return {}


def beginning(codes: Sequence[str]) -> str:
    """Return what a message shows of some codes.

    Example:
        >>> beginning(["a", "b", "c", "d"]), beginning(["a"]), beginning([])
        ('a, b, c, ...', 'a', 'none')
    """
    shown = ", ".join(codes[:SHOWN])
    return shown + (", ..." if codes[SHOWN:] else "") or "none"


def read_code_names(root: str) -> dict[str, str]:
    """Return the descriptions of all codes; none where the data set has no such table.

    Raises:
        RefusedDataError: The table cannot be read.
    """
    if not is_file(join(root, code_metadata_filepath)):
        return {}
    table = read_columns(root, code_metadata_filepath, CODE, NAME)
    columns = [_texts(table, name) for name in (CODE, NAME)]
    return {code: " ".join(name.split()) for code, name in zip(*columns, strict=False) if name}


def _texts(table: Any, name: str) -> list[Any]:
    """Return a column of strings, nothing where it is missing, ambiguous or of another type."""
    if table.column_names.count(name) != 1 or not is_text(table.schema.field(name).type):
        return []
    texts: list[Any] = table.column(name).to_pylist()
    return texts


def short_code(code: str, *, unit: bool = True) -> str:
    """Return the readable part of a MEDS code.

    Example:
        >>> short_code("LAB//RESULT//50813//mmol/L"), short_code("LAB//pH//UNK")
        ('50813 mmol/L', 'pH')
    """
    parts = [part for part in code.split("//") if part not in SILENT]
    return " ".join(parts if unit else parts[:1]) or code


def short_names(
    codes: Iterable[str], names: Mapping[str, str], *, unit: bool = True
) -> dict[str, str]:
    """Return a short text for each code, unlike the others.

    A description is cut at the first comma that leaves it unlike all others, and longer than a
    letter: "Glucose, Urine".
    Codes without one, or with one that stands for another code as well, keep their own parts.

    Args:
        codes: The codes that are shown together.
        names: Descriptions of some of them, as `code_names` returns them.
        unit: Whether the unit of measurement follows.

    Example:
        >>> names = {"LAB//50809//mg/dL": "Glucose, Blood", "LAB//51084//mg/dL": "Glucose, Urine"}
        >>> list(short_names([*names, "LAB//50820//UNK"], names).values())
        ['Glucose, Blood mg/dL', 'Glucose, Urine mg/dL', '50820']
    """
    codes = list(dict.fromkeys(codes))
    parts = {code: names[code].split(", ") for code in codes if code in names}
    shown = dict.fromkeys(codes, "")
    for length in range(1, 1 + max(map(len, parts.values()), default=0)):
        texts = {c: _short(c, ", ".join(own[:length]), unit) for c, own in parts.items()}
        seen = Counter(texts.values())
        for code, text in texts.items():
            is_clear = seen[text] == 1 and len(", ".join(parts[code][:length])) > 1
            shown[code] = shown[code] or (text if is_clear else "")
    fallback = {code: _of_code(code, names, unit) for code in codes if not shown[code]}
    return {code: shown[code] or fallback[code] for code in codes}


def _of_code(code: str, names: Mapping[str, str], unit: bool) -> str:
    own = short_code(code, unit=unit)
    first = names[code].split(", ")[0] if code in names else ""
    return f"{_cut(first)} ({own})" if first else own


def _short(code: str, name: str, unit: bool) -> str:
    own = code.split("//")
    measure = own[-1] if unit and len(own) > 2 and own[-1] not in SILENT else ""
    return f"{_cut(name)} {measure}".strip()


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3].rstrip()}..."
