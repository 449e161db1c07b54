"""Rows that are measured or asked for, and what a job has written of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.infer.asked import Asked
from cvmae.meds.measurements import Measurements

HOUR = 3_600_000_000


def measured(*rows: tuple[int, int, int, float]) -> Measurements:
    """Measurements (subject, hour, code, value), which are in order."""
    subject, hour, code, value = (np.array(column) for column in zip(*rows, strict=True))
    begins = np.flatnonzero(np.diff(subject, prepend=-1))
    return Measurements(
        subject_id_S=subject[begins],
        offsets_S=np.append(begins, len(subject)),
        code_index_N=code.astype(np.int32),
        time_us_N=hour * HOUR,
        numeric_value_N=value.astype(np.float32),
    )


def asking(*rows: tuple[int, int, int]) -> Asked:
    """Rows (subject, hour, code) that are asked for."""
    subject, hour, code = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return Asked(subject_id_L=subject, time_us_L=hour * HOUR, code_L=code)


def rows_of(root: str) -> pa.Table:
    """All rows of a data set."""
    return pa.concat_tables(pq.read_table(p) for p in sorted(Path(root).glob("data/**/*.parquet")))


def report_of(out: str) -> Any:
    """What a job of imputing reports."""
    return json.loads(Path(out, "report.json").read_text("utf-8"))
