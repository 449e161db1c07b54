"""What labels are predicted from comes out of Ray's tasks as it does of this process."""

from dataclasses import replace

import numpy as np
import pytest

from cvmae.evaluate.downstream.hand_features import hand_features
from cvmae.evaluate.downstream.subject_groups import label_groups, read_facts
from cvmae.meds.dataset import open_dataset
from cvmae.meds.labels import read_labels
from cvmae.settings import ScalingConfig
from tests.prepared import fit

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


def test_features_and_groups_are_the_same_on_ray(tiny):
    dataset = open_dataset(tiny.data.root)
    labels = read_labels(f"{tiny.data.root}/labels/in_hospital_mortality")
    statistics = fit(replace(tiny, scaling=ScalingConfig(num_workers=0))).statistics
    found = []
    for num_workers in (0, 2):
        places = {"scaling": ScalingConfig(num_workers=num_workers), "unit_rows": 500}
        features_LD = hand_features(dataset, labels, statistics, **places)
        groups = label_groups(read_facts(dataset, **places), labels)
        found.append((features_LD, {kind: level_L.tolist() for kind, level_L in groups.items()}))
    (one_LD, one), (other_LD, other) = found
    np.testing.assert_array_equal(one_LD, other_LD)
    assert np.isfinite(one_LD).any()
    assert one == other
    assert one
