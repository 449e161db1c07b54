"""A small hospital whose labels can be learnt, and a model that was pretrained on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.config import PRESETS, Config, override
from cvmae.synthetic.hospital import SyntheticConfig, write_hospital
from cvmae.train.pretrain import pretrain

SMALL = {
    "data.min_count": 2,
    "data.unit_rows": 4000,
    "data.sequence_length": 64,
    "scaling.num_workers": 0,
    "train.epochs": 2,
    "finetune.epochs": 2,
    "finetune.batch_labels": 16,
    "finetune.lr": 2e-3,
}


def write_labels(path: Path, rows: list[tuple[int, int, Any]], value: str = "boolean") -> str:
    """Write labels (subject, time in microseconds, value) as a file of MEDS's label schema."""
    subjects, times, values = zip(*rows, strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "subject_id": pa.array(subjects, pa.int64()),
            "prediction_time": pa.array(times, pa.timestamp("us")),
            f"{value}_value": pa.array(
                values, {"boolean": pa.bool_(), "float": pa.float32()}[value]
            ),
        }
    )
    pq.write_table(table, path)
    return str(path)


def planted_labels(root: str) -> list[tuple[int, int, bool]]:
    """Return a label a subject, in the middle of its labs: are they high for their codes so far?

    A subject without labs has one as well, which nothing tells.
    """
    rows = pa.concat_tables(
        pq.read_table(path, columns=["subject_id", "time", "code", "numeric_value"])
        for path in sorted(Path(root, "data").rglob("*.parquet"))
    ).to_pandas()
    everyone = rows["subject_id"].unique()
    labs = rows[rows["code"].str.match("LAB//(?!2)") & rows["numeric_value"].notna()].copy()
    labs = labs[labs["time"].notna()]
    by_code = labs.groupby("code")["numeric_value"]
    labs["z"] = (labs["numeric_value"] - by_code.transform("mean")) / by_code.transform("std")
    high: dict[int, tuple[int, float]] = {}
    for subject, own in labs.groupby("subject_id"):
        known = own.iloc[: len(own) // 2 + 1]
        known = known.iloc[-32:]
        high[subject] = int(known["time"].iloc[-1].value // 1000), float(known["z"].mean())
    middle = np.median([mean for _, mean in high.values()])
    return [
        (int(subject), high[subject][0], high[subject][1] > middle)
        if subject in high
        else (int(subject), 0, False)
        for subject in everyone
    ]


def make_planted(folder: Path, num_subjects: int) -> Config:
    """Write hospital and labels, pretrain for a moment, and return settings of a fine-tuning."""
    root = write_hospital(
        SyntheticConfig(
            root=str(folder / "meds"),
            num_subjects=num_subjects,
            num_codes=8,
            median_measurements=60,
            split_shares=(0.6, 0.2, 0.2),
            num_shards=3,
        )
    )
    labels = write_labels(folder / "labels" / "high.parquet", planted_labels(root))
    config = override(PRESETS["tiny"], SMALL | {"data.root": root})
    run = pretrain(override(config, {"output_dir": str(folder / "pretrained")}))
    return override(config, {"finetune.checkpoint": run, "finetune.labels": labels})
