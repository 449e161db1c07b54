"""Predictions of labels, as meds-evaluation reads them."""

import pyarrow as pa
import pyarrow.parquet as pq
from meds.schema import LabelSchema
from scipy.special import expit

from cvmae.arrays import Floats
from cvmae.storage.folders import written
from cvmae.train.labelled import LabelledWindows

__all__ = ["write_predictions"]

# Of PredictionSchema in meds-evaluation, which takes these columns and no other, and scores those
# only that have both predictions.
SCHEMA = pa.schema(
    [
        pa.field(LabelSchema.subject_id_name, pa.int64(), nullable=False),
        pa.field(LabelSchema.prediction_time_name, pa.timestamp("us"), nullable=False),
        pa.field(LabelSchema.boolean_value_name, pa.bool_()),
        pa.field("predicted_boolean_value", pa.bool_()),
        pa.field("predicted_boolean_probability", pa.float32()),
    ]
)


def write_predictions(path: str, windows: LabelledWindows, logit_L: Floats) -> None:
    """Write a row a label, ascending by subject and time.

    Args:
        path: File or URI, which is written whole or not at all.
        windows: Labels of a split.
        logit_L: Log-odds that a model gives each.
    """
    columns = [
        windows.subject_id_L,
        windows.time_us_L.astype("datetime64[us]"),
        windows.label_L > 0,
        logit_L >= 0,  # as likely as not counts as positive
        expit(logit_L).astype("float32"),
    ]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], SCHEMA)
    with written(path) as aside:
        pq.write_table(table, aside)
