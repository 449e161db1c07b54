"""A sweep's folder as a checkpoint."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cvmae.config import PRESETS, override
from cvmae.evaluate.evaluate import evaluate
from cvmae.evaluate.models import find_contestants
from cvmae.evaluate.sweeps import sweep_notes
from cvmae.sweep.driver import sweep


@pytest.fixture(scope="module")
def swept(hospital, tmp_path_factory):
    """The settings and the folder of a sweep of two policies and two seeds."""
    folder = tmp_path_factory.mktemp("sweep") / "study"
    given = {
        "data.root": hospital,
        "data.min_count": 2,
        "data.sequence_length": 32,
        "scaling.num_workers": 0,
        "train.epochs": 2,
        "sweep.policies": ("random", "cv"),
        "sweep.seeds": (0, 1),
        "output_dir": folder,
    }
    settings = override(PRESETS["tiny"], given)
    sweep(settings)
    return settings, folder


def runs_of(*entries):
    return [(c.name, Path(c.path).name) for c in find_contestants(entries) if c.which == "last"]


def test_a_sweep_stands_for_the_trials_of_a_label(swept):
    _, folder = swept
    trials = {policy: [f"{policy}_epochs2_seed{n}" for n in (0, 1)] for policy in ("random", "cv")}
    assert runs_of(f"cv={folder}") == [("cv", name) for name in trials["cv"]]
    both = [(policy, name) for policy, names in trials.items() for name in names]
    assert runs_of(f"all={folder}") == both
    assert runs_of(f"cv={folder}", f"random={folder}") == both
    # A trial by itself is a run as any other, under any name.
    assert runs_of(f"mine={folder}/trials/cv_epochs2_seed1") == [("mine", "cv_epochs2_seed1")]
    with pytest.raises(ValueError, match="no finished trial of label 'variance'; there are random"):
        find_contestants([f"variance={folder}"])


def test_labels_of_a_sweep_may_not_be_names_that_stand_for_something_else(swept, tmp_path):
    folder = shutil.copytree(swept[1], tmp_path / "moved")
    summary = json.loads((folder / "summary.json").read_text())
    for trial in summary["trials"]:
        trial["label"] = "untrained encoder" if trial["label"] == "cv" else trial["label"]
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=r"checkpoints=untrained encoder=.*this name is taken"):
        find_contestants([f"all={folder}"])


def test_trials_without_an_end_are_left_out_and_said(swept, tmp_path):
    folder = shutil.copytree(swept[1], tmp_path / "moved")
    summary = json.loads((folder / "summary.json").read_text())
    stopped = next(t for t in summary["trials"] if t["trial"] == "cv_epochs2_seed0")
    stopped["status"] = "stopped"
    (folder / "summary.json").write_text(json.dumps(summary))
    assert runs_of(f"cv={folder}") == [("cv", "cv_epochs2_seed1")]
    (note,) = sweep_notes([f"random={folder}", f"all={folder}", f"x={folder}/trials/none"])
    assert note.startswith("Of the 4 trials of all in the sweep moved, 1 are left out")
    assert "cv_epochs2_seed0 (stopped)" in note
    (folder / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"is a sweep that has not ended .* go on with --resume"):
        find_contestants([f"cv={folder}"])


def test_convergence_is_that_of_the_sweeps_trials(swept, tmp_path):
    settings, folder = swept
    few = {"min_scored": 10, "bootstrap_samples": 20, "leave_one_out": 0, "sequence_length": 32}
    asked = override(settings, {f"evaluate.{name}": value for name, value in few.items()})
    asked = override(asked, {"evaluate.checkpoints": [f"all={folder}"]})
    evaluate(replace(asked, output_dir=str(tmp_path / "out")))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    trials = json.loads((folder / "summary.json").read_text())["trials"]
    for policy in ("random", "cv"):
        errors = [t["curve"]["tuning_mse"] for t in trials if t["policy"] == policy]
        curve = results["convergence"]["names"][policy]
        assert curve["num_runs"] == 2
        # The summary has six digits.
        np.testing.assert_allclose(curve["tuning_mse"], np.mean(errors, axis=0), rtol=1e-5)
