"""One parquet file of embeddings for each unit, written whole; a job goes on by what is there."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.arrays import Bools, Float32s, Floats, Ints
from cvmae.infer.histories import Moments
from cvmae.meds.measurements import Measurements
from cvmae.meds.rows import SUBJECT
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.storage.folders import join, local_copy, names, written

__all__ = [
    "FOLDER",
    "CodeSums",
    "embedding_table",
    "read_unit_file",
    "unit_file",
    "units_there",
    "write_unit_file",
]

# Shape letters: L moments (a subject and a time), C codes, D entries of an embedding.

FOLDER = "embeddings"
METADATA = b"cvmae"  # of a file's schema: the sums of its unit's codes


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
    """Return which units' files are in a job's folder."""
    found = set(names(join(folder, FOLDER)))
    return {number for number in numbers if unit_file(number) in found}


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
    path: str, moments: Moments, embedding_LD: Float32s, has_rows_L: Bools, sums: CodeSums | None
) -> None:
    """Write a file of embeddings, whole or not at all; the same input gives the same bytes."""
    table = embedding_table(moments, embedding_LD, has_rows_L)
    if sums:
        text = json.dumps({name: array.tolist() for name, array in vars(sums).items()})
        table = table.replace_schema_metadata({METADATA: text.encode("ascii")})
    with written(path) as aside:
        pq.write_table(table, aside)


def read_unit_file(path: str) -> tuple[Ints, CodeSums]:
    """Return the subjects of a unit's file, and the sums of its codes."""
    with local_copy(path) as copy:
        table: Any = pq.read_table(copy, columns=[SUBJECT], partitioning=None)
    sums = json.loads(table.schema.metadata[METADATA])
    return table[SUBJECT].to_numpy(), CodeSums(**{n: np.array(v) for n, v in sums.items()})
