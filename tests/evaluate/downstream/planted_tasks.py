"""A small data set with tasks whose answer is known."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.meds_writer import table_of

HOUR = 3_600_000_000
ASKED = 20 * HOUR  # prediction_time, but for task `known`
TRAIN, TUNING, ALL = 200, 280, 400
FIRST = 8_676_309_000  # subject id: no other number begins with these digits
SPLIT_OF = {
    FIRST + subject: "train" if subject < TRAIN else "tuning" if subject < TUNING else "held_out"
    for subject in range(ALL)
}
COLUMN = {"boolean": ("boolean_value", pa.bool_()), "number": ("float_value", pa.float64())}


def write_set(root: Path) -> None:
    """Write subjects whose label is planted in a row a microsecond after the prediction."""
    rng = np.random.default_rng(3)
    outcome_S = rng.random(ALL) < 0.4
    shards, means = [], []
    for subject in range(ALL):
        value_N = rng.normal(10, 2, 15)
        means.append(value_N[::3].mean())
        sex = "X" if subject >= ALL - 7 else "FM"[subject % 2]
        subject_id = FIRST + subject
        shards.append((subject_id, None, f"GENDER//{sex}", None))
        shards += [
            (subject_id, n * HOUR, f"LAB//{'abc'[n % 3]}", float(value))
            for n, value in enumerate(value_N)
        ]
        planted = 10 + (4 if outcome_S[subject] else -4) + rng.normal()
        shards.append((subject_id, ASKED + 1, "LAB//a", float(planted)))
    (root / "data").mkdir(parents=True)
    (root / "metadata").mkdir()
    pq.write_table(table_of(shards), root / "data" / "0.parquet", row_group_size=1000)
    splits = {"subject_id": list(SPLIT_OF), "split": list(SPLIT_OF.values())}
    pq.write_table(pa.table(splits), root / "metadata" / "subject_splits.parquet")
    write_labels(root, "later", ASKED, outcome_S)
    write_labels(root, "known", ASKED + 1, outcome_S)
    write_labels(root, "number", ASKED, np.array(means) + 0.2 * rng.normal(size=ALL), "number")
    never_S = outcome_S & (np.arange(ALL) < TUNING)
    write_labels(root, "readmission_alike", ASKED, never_S)


def write_labels(root, task, time, value_S, kind="boolean"):
    """Write a label a subject."""
    name, value_type = COLUMN[kind]
    table = {
        "subject_id": pa.array(range(FIRST, FIRST + ALL), pa.int64()),
        "prediction_time": pa.array([time] * ALL, pa.timestamp("us")),
        name: pa.array(value_S.tolist(), value_type),
    }
    (root / "labels" / task).mkdir(parents=True)
    pq.write_table(pa.table(table), root / "labels" / task / "0.parquet")
