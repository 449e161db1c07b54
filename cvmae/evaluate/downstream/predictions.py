"""Predictions of probes, a file for each and task, as `prediction_table` has them.

They name subjects, as that schema does: they stay in the folder of the evaluation.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cvmae.arrays import Bools, Floats
from cvmae.infer.predictions import prediction_table
from cvmae.meds.labels import Labels

__all__ = ["Predictions", "write_predictions"]

THRESHOLD = 0.5


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
    chance_L = predictions.chance_L[scored_L]
    table = prediction_table(
        subject_id_L=labels.subject_id_L[scored_L],
        time_us_L=labels.time_us_L[scored_L],
        label_L=labels.value_L[scored_L] > 0,
        predicted_L=chance_L > THRESHOLD,
        chance_L=np.clip(chance_L, 0, 1),
    )
    path = folder / predictions.path
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
