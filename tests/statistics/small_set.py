"""A MEDS set of 30 subjects that tests may spoil, and its values read the plain way."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.config import Config
from cvmae.meds.splits import SPLITS
from cvmae.settings import DataConfig, ScalingConfig

# (subject, code, value) -> the value that is written, None for a row without value.
Change = Callable[[int, str, float], float | None]
CODES = ("LAB//Na", "LAB//K", "LAB//CRP", "VITAL//HR")
SUBJECTS = 30  # of which 0-19 train, 20-24 tuning, 25-29 held_out


def unchanged(subject: int, code: str, value: float) -> float | None:
    return value


def write_meds(
    root: Path,
    change: Change = unchanged,
    codes: Sequence[str] = CODES,
    shards: Sequence[Sequence[int]] = (range(17), range(17, SUBJECTS)),
) -> str:
    """Write 30 subjects with 5 to 9 values of each code; shards are not split-pure."""
    rng = np.random.default_rng(0)
    rows: dict[int, list[dict[str, object]]] = {}
    for subject in range(SUBJECTS):
        rows[subject] = [{"subject_id": subject, "time": None, "code": "GENDER//F"}]
        for time in range(rng.integers(5, 10)):
            for place, code in enumerate(codes):
                value = change(subject, code, float(rng.lognormal(place, 0.3)))
                row = {"subject_id": subject, "time": time, "code": code, "numeric_value": value}
                rows[subject].append(row)
    schema = pa.schema(
        [
            ("subject_id", pa.int64()),
            ("time", pa.timestamp("us")),
            ("code", pa.string()),
            ("numeric_value", pa.float32()),
        ]
    )
    for number, subjects in enumerate(shards):
        path = root / "data" / "anywhere" / f"{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        shard = [row for subject in subjects for row in rows[subject]]
        pq.write_table(pa.Table.from_pylist(shard, schema=schema), path, row_group_size=60)
    (root / "metadata").mkdir()
    split = [SPLITS[0]] * 20 + [SPLITS[1]] * 5 + [SPLITS[2]] * 5
    splits = pa.table({"subject_id": pa.array(range(SUBJECTS), pa.int64()), "split": split})
    pq.write_table(splits, root / "metadata" / "subject_splits.parquet")
    return str(root)


def config_of(root: str, **settings) -> Config:
    return Config(
        data=DataConfig(root=root, **{"unit_rows": 100} | settings),
        scaling=ScalingConfig(num_workers=0),
    )


def train_values(root: str, code: str) -> np.ndarray:
    """The plain way: every row, in Python."""
    values = [
        row["numeric_value"]
        for path in sorted(Path(root).rglob("data/**/*.parquet"))
        for row in pq.read_table(path).to_pylist()
        if row["subject_id"] < 20 and row["code"] == code and row["numeric_value"] is not None
    ]
    return np.array(values)
