"""Predictions of labels as meds-evaluation reads them: exactly its five columns."""

from typing import Any

import numpy as np
import pyarrow as pa
from meds.schema import LabelSchema

from cvmae.arrays import Bools, Floats, Ints

__all__ = ["prediction_table"]

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


def prediction_table(
    *,
    subject_id_L: Ints,
    time_us_L: Ints,
    label_L: Bools,
    predicted_L: Bools,
    chance_L: Floats,
) -> pa.Table:
    """Return a row a label; it names subjects.

    Args:
        subject_id_L: Whose each label is.
        time_us_L: Of the prediction.
        label_L: What came.
        predicted_L: What is predicted.
        chance_L: That it comes.
    """
    columns: list[Any] = [
        subject_id_L,
        time_us_L.astype("datetime64[us]"),
        label_L,
        predicted_L,
        chance_L.astype(np.float32),
    ]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, SCHEMA, strict=True)]
    return pa.table(arrays, SCHEMA)
