"""Labels of the real sets: what is known of them beforehand comes out."""

from dataclasses import replace

import pytest
from sklearn.metrics import roc_auc_score

from cvmae.config import PRESETS, override
from cvmae.evaluate.downstream.hand_features import hand_features
from cvmae.evaluate.downstream.probes import fit_boosting, fit_linear
from cvmae.evaluate.downstream.tasks import labels_in_splits, support
from cvmae.meds.dataset import open_dataset
from cvmae.meds.labels import read_labels, read_tasks
from cvmae.settings import ScalingConfig
from tests.prepared import fit

# Labels (positives) of train, tuning and held_out.
DEMO = {
    "in_hospital_mortality_24h": [(212, 12), (15, 2), (18, 0)],
    "in_hospital_mortality_48h": [(189, 11), (15, 2), (16, 0)],
    "in_icu_mortality_24h": [(94, 9), (14, 1), (9, 0)],
    "in_icu_mortality_48h": [(60, 8), (8, 1), (6, 0)],
    "readmission_30d": [(226, 49), (15, 0), (19, 4)],
}


@pytest.mark.real
@pytest.mark.parametrize("name", ["mimic4_demo_labs", "mimic4_demo_full"])
def test_the_demo_supports_readmission_and_no_mortality(real_data, name):
    members = open_dataset(str(real_data / name)).members
    found = {}
    for labels in read_tasks(str(real_data / name / "labels")):
        told = support(labels, labels_in_splits(labels, members), "held_out")
        found[labels.name] = [(c.num_labels, c.num_positives) for c in told.splits.values()]
        assert told.not_learned == ""
        assert told.not_scored.startswith(
            "" if labels.name == "readmission_30d" else "held_out has no positive label among"
        )
        assert bool(told.not_scored) == (labels.name != "readmission_30d")
    assert found == DEMO


@pytest.mark.real
@pytest.mark.slow
def test_hand_made_features_reach_what_is_known_of_them(real_data):
    root = real_data / "physionet2012"
    config = override(PRESETS["tiny"], {"data.root": root})
    config = replace(config, scaling=ScalingConfig(num_workers=0))
    labels = read_labels(str(root / "labels" / "in_hospital_mortality_48h"))
    dataset = open_dataset(str(root))
    features_LD = hand_features(
        dataset, labels, fit(config).statistics, scaling=config.scaling, unit_rows=250_000
    )
    within = labels_in_splits(labels, dataset.members)
    scored_L = within["held_out"]
    given = (features_LD, labels.value_L, within["train"], within["tuning"])
    for probe, known in (
        (fit_linear(*given, boolean=True), 0.771),
        (fit_boosting(*given, boolean=True, seed=0), 0.795),
    ):
        found = roc_auc_score(labels.value_L[scored_L], probe.predicted_L[scored_L])
        # Half of what the choice of subjects makes: other features and trees, the same subjects.
        assert abs(found - known) < 0.02, probe.learner
