"""Predictions of probes, a file for each and task, as `prediction_table` has them.

They name subjects, as that schema does: they stay in the folder of the evaluation, beside a note
that says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cvmae.arrays import Bools, Floats
from cvmae.infer.notice import write_notice
from cvmae.infer.predictions import prediction_table
from cvmae.meds.labels import Labels
from cvmae.tracking.results import PRIVATE

__all__ = ["Predictions", "write_predictions"]

THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What one probe says of the labels of a boolean task."""

    name: str  # of the file, below the folder of all of them
    labels: Labels
    scored_L: Bools  # labels to write
    chance_L: Floats  # of all labels


def write_predictions(folder: Path, predictions: Sequence[Predictions]) -> None:
    """Write the predicted chances of the labels that are scored, and whose data they are.

    Args:
        folder: That of the evaluation.
        predictions: A file of each; without any, there is no folder of them.
    """
    if predictions:
        write_notice(str(folder / PRIVATE), f"The files below {PRIVATE}/")
    for one in predictions:
        _write(folder / PRIVATE / one.name, one)


def _write(path: Path, predictions: Predictions) -> None:
    labels, scored_L = predictions.labels, predictions.scored_L
    chance_L = predictions.chance_L[scored_L]
    table = prediction_table(
        subject_id_L=labels.subject_id_L[scored_L],
        time_us_L=labels.time_us_L[scored_L],
        label_L=labels.value_L[scored_L] > 0,
        predicted_L=chance_L > THRESHOLD,
        chance_L=np.clip(chance_L, 0, 1),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
