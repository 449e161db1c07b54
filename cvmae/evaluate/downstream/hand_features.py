"""Hand-made features: what a clinician would tabulate of each code before a prediction.

Six numbers a code: last, mean, smallest and largest value, how many, and hours since the last.
Rows of a subject at or before the label's prediction_time count, and no other.
"""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cvmae.arrays import Float32s, Ints
from cvmae.meds.dataset import Dataset, Source
from cvmae.meds.labels import Labels
from cvmae.meds.reading import read_unit
from cvmae.meds.units import Unit, plan_units
from cvmae.runtime.map_units import map_units
from cvmae.settings import ScalingConfig
from cvmae.statistics.code_statistics import CodeStatistics

if TYPE_CHECKING:
    import polars as pl

__all__ = ["FEATURES", "hand_features"]

# Shape letters beside those of `cvmae.arrays`: L labels, D features, P (label, code) pairs.

FEATURES = ("last", "mean", "min", "max", "count", "hours_since")
US_PER_HOUR = 3_600_000_000
ASKED = "asked"  # the subjects with a label, whatever their split


def hand_features(
    dataset: Dataset,
    labels: Labels,
    statistics: CodeStatistics,
    *,
    scaling: ScalingConfig,
    unit_rows: int,
) -> Float32s:
    """Return the features of every label: ``[L, 6 x C]``, NaN where a code has no value.

    Values are standardised and clipped as the model sees them; counts (0 where there is none) and
    hours are on a log scale, log(1 + x), which trees do not notice and lines need.

    Args:
        dataset: Whose rows are read.
        labels: Of any of its subjects.
        statistics: Vocabulary, clipping and scale.
        scaling: Where the work runs.
        unit_rows: Rows that one read covers, about.
    """
    source = Source(root=dataset.root, members={ASKED: np.unique(labels.subject_id_L)})
    tabulate = partial(_unit_features, source=source, labels=labels, statistics=statistics)
    num_codes = statistics.num_codes
    features_LD = np.full((len(labels.subject_id_L), len(FEATURES) * num_codes), np.nan, np.float32)
    first = FEATURES.index("count") * num_codes
    features_LD[:, first : first + num_codes] = 0
    units = plan_units(dataset, unit_rows)
    for label_P, code_P, values_P6 in map_units(tabulate, units, scaling, "hand-made features"):
        for number in range(len(FEATURES)):
            features_LD[label_P, number * num_codes + code_P] = values_P6[:, number]
    return features_LD


def _unit_features(
    unit: Unit, *, source: Source, labels: Labels, statistics: CodeStatistics
) -> tuple[Ints, Ints, Float32s]:
    """Return which label and code have features in a unit, and these."""
    import polars as pl

    measurements, _ = read_unit(source, unit, statistics.lookup, ASKED)
    code_N = measurements.code_index_N.astype(np.int32)
    rows = pl.DataFrame(
        {
            "subject_id": np.repeat(measurements.subject_id_S, np.diff(measurements.offsets_S)),
            "time": measurements.time_us_N,
            "code": code_N,
            "value": statistics.standardise(code_N, measurements.numeric_value_N),
        }
    )
    own_L = np.flatnonzero(np.isin(labels.subject_id_L, measurements.subject_id_S))
    asked = pl.DataFrame(
        {
            "label": own_L,
            "subject_id": labels.subject_id_L[own_L],
            "prediction_time": labels.time_us_L[own_L],
        }
    )
    table = _tabulate(rows, asked)
    return (
        table["label"].to_numpy(),
        table["code"].cast(pl.Int64).to_numpy(),
        table.select(FEATURES).cast(pl.Float32).to_numpy(),
    )


def _tabulate(rows: "pl.DataFrame", asked: "pl.DataFrame") -> "pl.DataFrame":
    """Return a row for each label and code that has a value at or before the prediction."""
    import polars as pl

    value, time = pl.col("value"), pl.col("time")
    hours = (pl.col("prediction_time").first() - time.last()) / US_PER_HOUR
    return (
        rows.lazy()
        .join(asked.lazy(), on="subject_id", maintain_order="left")
        .filter(time <= pl.col("prediction_time"))
        # Rows of a subject stand in the order of time, so the last is the latest.
        .group_by("label", "code", maintain_order=True)
        .agg(
            value.last().alias("last"),
            value.mean().alias("mean"),
            value.min().alias("min"),
            value.max().alias("max"),
            pl.len().cast(pl.Float64).log1p().alias("count"),
            hours.log1p().alias("hours_since"),
        )
        .collect()
    )
