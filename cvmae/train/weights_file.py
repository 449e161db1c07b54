"""The weights of policy `table`: read from a user's file, checked by code, and kept with the run.

Workers and resumed runs hide by what the run keeps, so that the file may change or go away.
"""

import csv
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.arrays import Floats
from cvmae.config import Config
from cvmae.runtime.tables import counted
from cvmae.storage.folders import is_file, join, local_copy, written

__all__ = ["KEPT_WEIGHTS", "check_weights_file", "keep_weights", "read_weights", "table_weights"]

KEPT_WEIGHTS = "mask_weights.parquet"
SHOWN_CODES = 5
COLUMNS = ("code", "weight")

logger = logging.getLogger("cvmae")

Row = tuple[str, str, object]  # where it stands, code, weight


def check_weights_file(config: Config) -> None:
    """Refuse a `mask.weights_file` that cannot be read, where policy `table` will need it.

    Raises:
        FileNotFoundError: There is none.
        ValueError: See `read_weights`.
    """
    if config.mask.policy == "table" and not is_file(_place(config)):
        read_weights(config.mask.weights_file)


def keep_weights(config: Config, codes: Sequence[str], *, has_begun: bool) -> None:
    """Keep each code's weight in the run folder; one that has begun goes on with its own.

    A copy that is there already, written on another node, is enough where the file is not.

    Raises:
        FileNotFoundError: There is neither the file nor a copy.
        ValueError: See `read_weights`; a code of the vocabulary has no weight; or the file says
            other than the run was begun with.
    """
    if config.mask.policy != "table":
        return
    path, kept = config.mask.weights_file, None
    if is_file(_place(config)) and (has_begun or not Path(path).is_file()):
        kept = _read_kept(config, codes)
        if not Path(path).is_file():
            return
    weights = read_weights(path)
    given = _of_codes(weights, codes, path)
    if beyond := len(weights) - len({*weights} & {*codes}):
        logger.info("mask.weights_file=%s: %d of its codes are not in the vocabulary", path, beyond)
    if kept is not None and not np.array_equal(kept, given):
        if "mask.weights_file" not in config.resume_allow:
            changed = [c for c, a, b in zip(codes, kept, given, strict=True) if a != b]
            raise ValueError(
                f"cannot resume {config.output_dir}: mask.weights_file={path} gives "
                f"{_named(changed)} another weight than the run was begun with: give the same, "
                "say --resume_allow mask.weights_file if the change is meant, or start a new run"
            )
        logger.warning("values are hidden by other weights from here on: those of %s", path)
    with written(_place(config)) as file:
        pq.write_table(pa.table({"code": list(codes), "weight": given}), file)


def table_weights(config: Config, codes: Sequence[str]) -> Floats | None:
    """Return the weight of each code under policy `table`, None under others.

    Raises:
        FileNotFoundError: There is neither the file nor the run's copy of it.
        ValueError: See `read_weights`, or a code of the vocabulary has no weight.
    """
    if config.mask.policy != "table":
        return None
    if is_file(_place(config)):
        return _read_kept(config, codes)
    path = config.mask.weights_file
    return _of_codes(read_weights(path), codes, path)


def read_weights(path: str) -> dict[str, float]:
    """Read the weights of codes: CSV with the header code,weight, or parquet with these columns.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column is missing, a code stands twice, or a weight is no number above 0; the
            message names the row.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"mask.weights_file={path} is no file of this machine")
    with Path(path).open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    weights: dict[str, float] = {}
    place_of: dict[str, str] = {}
    for place, code, weight in _parquet_rows(path) if is_parquet else _csv_rows(path):
        if not code:
            raise ValueError(f"mask.weights_file={path}, {place}: there is no code")
        if code in weights:
            raise ValueError(
                f"mask.weights_file={path}, {place}: {code!r} stands in {place_of[code]} as well; "
                "give each code one weight"
            )
        weights[code], place_of[code] = _number(weight), place
        if not 0 < weights[code] < math.inf:
            raise ValueError(
                f"mask.weights_file={path}, {place}: the weight of {code!r} is {weight!r}; give a "
                "finite number above 0"
            )
    return weights


def _number(weight: object) -> float:
    try:
        return float(weight)  # type: ignore[arg-type]  # what it cannot take it refuses
    except (TypeError, ValueError):
        return math.nan


def _csv_rows(path: str) -> Iterator[Row]:
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            _require_columns(path, reader.fieldnames or ())
            for row in reader:
                yield f"line {reader.line_num}", row["code"], row["weight"]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"mask.weights_file={path} is neither parquet nor CSV in UTF-8 ({error})"
        ) from None


def _parquet_rows(path: str) -> Iterator[Row]:
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"mask.weights_file={path} is damaged ({error})") from None
    _require_columns(path, table.column_names)
    columns = (table[name].to_pylist() for name in COLUMNS)
    for number, (code, weight) in enumerate(zip(*columns, strict=True), start=1):
        yield f"row {number}", code, weight


def _require_columns(path: str, found: Sequence[str]) -> None:
    if missing := [name for name in COLUMNS if name not in found]:
        raise ValueError(
            f"mask.weights_file={path} has no column {missing[0]!r} (found: "
            f"{', '.join(map(repr, found)) or 'none'}): give a CSV file with the header "
            "code,weight, or parquet with these columns"
        )


def _of_codes(weights: dict[str, float], codes: Sequence[str], path: str) -> Floats:
    if missing := [code for code in codes if code not in weights]:
        raise ValueError(
            f"mask.weights_file={path} gives no weight to {_named(missing)}: each of the "
            f"{counted(len(codes), 'code')} of the vocabulary needs one"
        )
    return np.array([weights[code] for code in codes])


def _named(codes: Sequence[str]) -> str:
    more = f" and {len(codes) - SHOWN_CODES} more" if len(codes) > SHOWN_CODES else ""
    return ", ".join(map(repr, codes[:SHOWN_CODES])) + more


def _read_kept(config: Config, codes: Sequence[str]) -> Floats:
    with local_copy(_place(config)) as path:
        columns = pq.read_table(path).to_pydict()
    weights = dict(zip(columns["code"], columns["weight"], strict=True))
    return _of_codes(weights, codes, _place(config))


def _place(config: Config) -> str:
    return join(config.output_dir, KEPT_WEIGHTS)
