import numpy as np
import pytest

from cvmae.config import PRESETS, override
from cvmae.evaluate.downstream.hand_features import FEATURES, hand_features
from cvmae.meds.dataset import open_dataset
from cvmae.meds.labels import Labels
from cvmae.settings import ScalingConfig
from tests.prepared import fit

HOUR = 3_600_000_000
ROWS = [
    (1, 0, "LAB//a", 1.0),
    (1, HOUR, "LAB//b", 10.0),
    (1, 2 * HOUR, "LAB//a", 4.0),
    (1, 3 * HOUR, "LAB//a", 3.0),
    (2, 0, "LAB//a", 2.0),
    (2, HOUR, "LAB//b", 20.0),
    (3, 5 * HOUR, "LAB//a", 5.0),
]


def labels_at(*moments):
    subject_L, time_L = (np.array(column, np.int64) for column in zip(*moments, strict=True))
    return Labels(
        name="task",
        kind="boolean",
        subject_id_L=subject_L,
        time_us_L=time_L,
        value_L=np.zeros(len(moments)),
    )


@pytest.fixture
def tabulate(write_meds, tmp_path):
    """Return a function from rows and labels to features, by code and name of the feature."""

    def run(rows, labels, unit_rows=250_000):
        shards = {
            f"{subject}.parquet": [row for row in rows if row[0] == subject]
            for subject in {row[0] for row in rows}
        }
        root = write_meds(shards, {1: "train", 2: "train", 3: "tuning"})
        given = {
            "data.root": root,
            "data.min_count": 2,
            "data.clip_quantiles": None,
            "scaling.num_workers": 0,
        }
        statistics = fit(override(PRESETS["tiny"], given)).statistics
        scaling = ScalingConfig(num_workers=0)
        found_LD = hand_features(
            open_dataset(root), labels, statistics, scaling=scaling, unit_rows=unit_rows
        )
        places = [(name, code) for name in FEATURES for code in statistics.codes]
        return {place: found_LD[:, column] for column, place in enumerate(places)}, statistics

    return run


def test_features_are_of_the_rows_at_or_before_the_prediction(tabulate):
    labels = labels_at((1, 2 * HOUR), (1, 4 * HOUR), (3, HOUR))
    found, statistics = tabulate(ROWS, labels)
    a = statistics.codes.index("LAB//a")
    raw = {
        name: found[name, "LAB//a"] * statistics.std[a] + statistics.mean[a]
        for name in ("last", "mean", "min", "max")
    }
    nan = np.nan
    np.testing.assert_allclose(raw["last"], [4, 3, nan], rtol=1e-5)
    np.testing.assert_allclose(raw["mean"], [2.5, 8 / 3, nan], rtol=1e-5)
    np.testing.assert_allclose(raw["min"], [1, 1, nan], rtol=1e-5)
    np.testing.assert_allclose(raw["max"], [4, 4, nan], rtol=1e-5)
    np.testing.assert_allclose(np.expm1(found["count", "LAB//a"]), [2, 3, 0], rtol=1e-5)
    np.testing.assert_allclose(np.expm1(found["hours_since", "LAB//a"]), [0, 1, nan], atol=1e-5)
    np.testing.assert_allclose(np.expm1(found["hours_since", "LAB//b"]), [1, 3, nan], atol=1e-5)


def test_a_row_a_microsecond_after_the_prediction_changes_nothing(tabulate):
    labels = labels_at((1, 3 * HOUR - 1), (2, 2 * HOUR))
    before, _ = tabulate([row for row in ROWS if row != ROWS[3]] + [ROWS[3]], labels)
    # The statistics are fitted to other values then, so only what is not standardised can be
    # compared: counts and hours would move with any row that is let in.
    rows = [*ROWS[:3], (1, 3 * HOUR, "LAB//a", 1000.0), (1, 3 * HOUR, "LAB//b", 1.0), *ROWS[4:]]
    after, _ = tabulate(rows, labels)
    for name in ("count", "hours_since"):
        for code in ("LAB//a", "LAB//b"):
            np.testing.assert_array_equal(before[name, code], after[name, code])


def test_features_do_not_depend_on_how_units_are_cut(tabulate):
    labels = labels_at((1, HOUR), (1, 4 * HOUR), (2, HOUR), (3, 9 * HOUR))
    one, _ = tabulate(ROWS, labels)
    many, _ = tabulate(ROWS, labels, unit_rows=1)
    for place, found_L in one.items():
        np.testing.assert_array_equal(found_L, many[place])
    assert np.isfinite(one["last", "LAB//a"]).all()
