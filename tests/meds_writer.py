"""Writes small MEDS data sets, sound or not, row by row; a fixture of `conftest`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCHEMA = pa.schema(
    {
        "subject_id": pa.int64(),
        "time": pa.timestamp("us"),
        "code": pa.string(),
        "numeric_value": pa.float32(),
    }
)


@pytest.fixture
def write_meds(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes shards and splits below a new folder, and returns its path.

    A shard is a list of rows (subject_id, time in microseconds, code, numeric_value), or a table.
    """

    def write(
        shards: Mapping[str, Sequence[tuple[Any, ...]] | pa.Table],
        splits: Mapping[int, str] | None,
        *,
        name: str = "meds",
        **options: Any,
    ) -> str:
        root = tmp_path / name
        (root / "data").mkdir(parents=True, exist_ok=True)
        (root / "metadata").mkdir(exist_ok=True)
        for path, rows in shards.items():
            target = root / "data" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            table = rows if isinstance(rows, pa.Table) else table_of(rows)
            pq.write_table(table, target, **options)
        if splits is not None:
            columns = {"subject_id": list(splits), "split": list(splits.values())}
            schema = pa.schema({"subject_id": pa.int64(), "split": pa.string()})
            target = root / "metadata" / "subject_splits.parquet"
            pq.write_table(pa.table(columns, schema=schema), target)
        return str(root)

    return write


def table_of(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], SCHEMA)
