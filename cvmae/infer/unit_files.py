"""One parquet file for each unit, written whole; a job goes on by what is there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.arrays import Bools, Float32s, Floats, Ints
from cvmae.infer.histories import Moments
from cvmae.meds.measurements import Measurements
from cvmae.meds.parquet import reading
from cvmae.meds.refused import RefusedDataError
from cvmae.meds.rows import SUBJECT
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.storage.folders import join, local_copy, names, written
from cvmae.storage.places import map_reads, open_file, reaching

__all__ = [
    "CodeSums",
    "UnitFiles",
    "embedding_table",
    "read_unit_files",
    "unit_file",
    "units_there",
    "write_unit_file",
]

# Shape letters: L moments (a subject and a time), C codes, D entries of an embedding.

METADATA = b"cvmae"  # of a file's schema: the sums of its unit's codes
COUNTS = b"cvmae.counts"  # likewise: what its rows are


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeSums:
    """Of the standardised values of each code: how many, their sum and that of their squares."""

    count_C: Floats
    sum_C: Floats
    square_C: Floats

    @classmethod
    def of(cls, measurements: Measurements, statistics: CodeStatistics) -> Self:
        """Sum over the measurements of a unit."""
        code_N = np.asarray(measurements.code_index_N, np.int64)
        z_N = statistics.standardise(code_N, measurements.numeric_value_N).astype(np.float64)
        count_C, sum_C, square_C = (
            np.bincount(code_N, weight_N, statistics.num_codes).astype(np.float64)
            for weight_N in (np.ones_like(z_N), z_N, z_N * z_N)
        )
        return cls(count_C=count_C, sum_C=sum_C, square_C=square_C)

    @classmethod
    def total(cls, parts: Sequence[Self]) -> Self:
        """Add up, in the order given."""
        names = ("count_C", "sum_C", "square_C")
        return cls(**{n: np.sum([getattr(part, n) for part in parts], axis=0) for n in names})


def unit_file(number: int) -> str:
    """Return the name of a unit's file."""
    return f"unit_{number:06d}.parquet"


def units_there(folder: str, numbers: Sequence[int]) -> set[int]:
    """Return which units' files are in a folder; their footers are read, not their rows.

    Raises:
        ValueError: A file is damaged; the message says what to do with it.
    """
    found = set(names(folder))
    there = [number for number in numbers if unit_file(number) in found]
    map_reads(folder, partial(_check_footer, folder), [unit_file(number) for number in there])
    return set(there)


def _check_footer(folder: str, name: str) -> None:
    path = join(folder, name)
    with _undamaged(path), reaching(folder, "output_dir"), open_file(folder, name) as source:
        if METADATA not in (pq.read_metadata(source).metadata or {}):
            raise RefusedDataError("has no sums of codes", "it is no file of a unit")


@contextmanager
def _undamaged(path: str) -> Iterator[None]:
    """Say of a file that cannot be read how the job is gone on with."""
    try:
        with reading(path):
            yield
    except RefusedDataError as error:
        if error.what.startswith("may not be read"):
            raise
        job = path.rpartition("/")[0].rpartition("/")[0]
        raise ValueError(
            f"{path} is cut short, damaged or no file of this job: remove it, and --resume {job} "
            "makes it anew"
        ) from None


def embedding_table(moments: Moments, embedding_LD: Float32s, has_rows_L: Bools) -> pa.Table:
    """Return a row for each moment: whose it is, its time, whether anything was known, vector."""
    num_labels, width = embedding_LD.shape
    flat = pa.array(np.ascontiguousarray(embedding_LD).reshape(num_labels * width))
    return pa.table(
        {
            SUBJECT: pa.array(moments.subject_id_L),
            "prediction_time": pa.array(moments.time_us_L).cast(pa.timestamp("us")),
            "has_rows": pa.array(has_rows_L),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, width),
        }
    )


def write_unit_file(
    path: str, table: pa.Table, sums: CodeSums | None, counts: Mapping[str, int] | None = None
) -> None:
    """Write a file, whole or not at all; the same input gives the same bytes.

    Args:
        path: Where it is to be.
        table: A subject's rows together.
        sums: Of the unit's codes.
        counts: Whatever is to be counted over all units.
    """
    metadata = {}
    if sums:
        text = json.dumps({name: array.tolist() for name, array in vars(sums).items()})
        metadata[METADATA] = text.encode("ascii")
    if counts:
        metadata[COUNTS] = json.dumps(dict(counts)).encode("ascii")
    with written(path) as aside:
        pq.write_table(table.replace_schema_metadata(metadata or None), aside)


@dataclass(frozen=True, kw_only=True)
class UnitFiles:
    """What the files of all units say together."""

    found_S: Bools = field(repr=False)  # of the subjects that were asked for: who has a row
    num_rows: int
    sums: CodeSums
    counts: dict[str, int]


def read_unit_files(folder: str, numbers: Sequence[int], asked_S: Ints) -> UnitFiles:
    """Read the files of all units of a job.

    Args:
        folder: Where they are.
        numbers: Of the units, one or more.
        asked_S: Subjects that were asked for, who ascend.

    Raises:
        RefusedDataError: A subject has rows in two of them.
        ValueError: A file is damaged; the message says what to do with it.
    """
    found_S = np.zeros(len(asked_S), np.bool_)
    sums, num_rows, counts = [], 0, dict[str, int]()
    paths = [join(folder, unit_file(number)) for number in numbers]
    for subject_S, own_rows, part, own_counts in map_reads(folder, _read_unit_file, paths):
        place_S = np.searchsorted(asked_S, subject_S)
        if found_S[place_S].any():
            raise RefusedDataError(
                "a subject has rows in two files",
                "MEDS needs all rows of a subject in one file: check the data with "
                "jobs/validate.py",
            )
        found_S[place_S] = True
        sums.append(part)
        num_rows += own_rows
        counts |= {name: counts.get(name, 0) + number for name, number in own_counts.items()}
    return UnitFiles(found_S=found_S, num_rows=num_rows, sums=CodeSums.total(sums), counts=counts)


def _read_unit_file(path: str) -> tuple[Ints, int, CodeSums, dict[str, int]]:
    """Return the subjects of a unit's file, its rows, the sums of its codes, and its counts."""
    with _undamaged(path), local_copy(path) as copy:
        table: Any = pq.read_table(copy, columns=[SUBJECT], partitioning=None)
    metadata = table.schema.metadata
    sums = CodeSums(**{n: np.array(v) for n, v in json.loads(metadata[METADATA]).items()})
    counts = json.loads(metadata.get(COUNTS, b"{}"))
    return np.unique(table[SUBJECT].to_numpy()), table.num_rows, sums, counts
