"""Predictions as meds-evaluation reads them: exactly its five columns, one file a model and task.

They name subjects, as that schema does: they stay in the folder of the evaluation.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.arrays import Bools, Floats
from cvmae.meds.labels import Labels

__all__ = ["Predictions", "write_predictions"]

THRESHOLD = 0.5

SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        pa.field("boolean_value", pa.bool_()),
        pa.field("predicted_boolean_value", pa.bool_()),
        pa.field("predicted_boolean_probability", pa.float32()),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What one probe says of the labels of a boolean task."""

    path: str  # of the file, below the evaluation's folder
    labels: Labels
    scored_L: Bools  # labels to write
    chance_L: Floats  # of all labels


def write_predictions(folder: Path, predictions: Predictions) -> None:
    """Write the predicted chances of the labels that are scored."""
    labels, scored_L = predictions.labels, predictions.scored_L
    chance = predictions.chance_L[scored_L]
    columns = [
        labels.subject_id_L[scored_L],
        pa.array(labels.time_us_L[scored_L], pa.int64()).cast(pa.timestamp("us")),
        labels.value_L[scored_L] > 0,
        chance > THRESHOLD,
        np.clip(chance, 0, 1).astype(np.float32),
    ]
    path = folder / predictions.path
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=SCHEMA), path)
