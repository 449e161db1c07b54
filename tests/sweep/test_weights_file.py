"""Trials that hide by the weights of a user's file."""

from pathlib import Path

import pytest

from cvmae.config import override
from cvmae.meds.dataset import open_dataset
from cvmae.statistics.fit import fit
from cvmae.sweep import driver
from cvmae.sweep.trials import run_trial


def test_a_policy_that_lacks_a_weight_is_refused_before_any_trial_begins(tiny, tmp_path):
    weights = tmp_path / "weights.csv"
    weights.write_text("code,weight\nnone of them,1\n", encoding="utf-8")
    changes = {"sweep.policies": ["random", "table"], "mask.weights_file": str(weights)}
    with pytest.raises(ValueError, match=r"the trial table_epochs2_seed\d+: .*weights\.csv"):
        driver.sweep(override(tiny, changes))
    left = {path.name for path in Path(tiny.output_dir).iterdir()}
    assert left <= {"statistics", "mlflow.db"}  # as good as new


def test_a_file_that_a_trial_lacks_is_named_with_the_trial(config, pretrained):
    changes = {"sweep.policies": ["random", "table"], "mask.weights_file": "/none.csv"}
    with pytest.raises(FileNotFoundError, match=r"the trial table_epochs2_seed7: .*/none\.csv"):
        driver.sweep(override(config, changes))


def test_weights_from_a_file_wait_in_the_trials_folders_for_nodes_that_lack_it(
    tiny, tmp_path, monkeypatch
):
    codes = fit(tiny, open_dataset(tiny.data.root)).statistics.codes
    weights = tmp_path / "weights.csv"
    rows = [f'"{code}",{1 + place}' for place, code in enumerate(codes)]
    weights.write_text("\n".join(["code,weight", *rows]), encoding="utf-8")

    def run_elsewhere(attempt):
        weights.unlink()
        return {trial.name: run_trial(trial, "", attempt.data) for trial in attempt.waiting}

    monkeypatch.setattr(driver, "_run", lambda attempt: told.append(run_elsewhere(attempt)) or {})
    told = []
    changes = {"sweep.policies": ["table"], "mask.weights_file": str(weights), "sweep.seeds": [3]}
    driver.sweep(override(tiny, changes))
    assert told == [{"table_epochs2_seed3": ""}]
