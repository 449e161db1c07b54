"""What labels are predicted from, and what is said of it, is on Ray as it is in this process."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from cvmae.config import override
from cvmae.evaluate.downstream.hand_features import hand_features
from cvmae.evaluate.downstream.subject_groups import label_groups, read_facts
from cvmae.evaluate.evaluate import evaluate
from cvmae.meds.dataset import open_dataset
from cvmae.meds.labels import read_labels
from cvmae.settings import ScalingConfig
from cvmae.train.pretrain import pretrain
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


@pytest.mark.survival  # for its minutes: three passes over actors that import torch
def test_an_evaluation_with_labels_is_the_same_on_ray(tiny, tmp_path):
    run = pretrain(override(tiny, {"train.epochs": 1, "output_dir": tmp_path / "cv"}))
    found = []
    for num_workers in (0, 2):
        out = tmp_path / str(num_workers)
        changes = {
            "evaluate.checkpoints": [f"cv={run}"],
            "evaluate.labels": f"{tiny.data.root}/labels",
            "evaluate.bootstrap_samples": 20,
            "evaluate.min_scored": 10,
            "scaling.num_workers": num_workers,
            "output_dir": out,
        }
        evaluate(override(tiny, changes))
        results = json.loads((out / "results.json").read_text(encoding="utf-8"))
        del results["provenance"]
        folder = out / "predictions"
        tables = {
            str(path.relative_to(folder)): pq.read_table(path).to_pydict()
            for path in sorted(folder.rglob("*.parquet"))
        }
        found.append((results, tables))
    (one, one_tables), (other, other_tables) = found
    assert one == other
    assert one_tables == other_tables
    probes = {probe["method"] for task in one["downstream"]["tasks"] for probe in task["probes"]}
    assert probes == {"cv", "untrained encoder", "hand-made features"}
    assert one_tables
