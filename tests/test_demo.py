"""The demo: refuses to overwrite, compares with what is attainable, says that data are made up."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cvmae.command_line import main
from cvmae.config import PRESETS, override
from cvmae.demo import SYNTHETIC_NOTE, DemoConfig, demo, format_table
from cvmae.demo import _places as places
from cvmae.evaluate.results import Failure
from cvmae.evaluate.summary import SummaryRow
from cvmae.synthetic.reference import Attainable
from tests.evaluate.made_results import make_results

BEST = Attainable(
    name="best attainable R2",
    num_hidden_C=np.array([5]),
    r2_C=np.array([0.6]),
    r2_pooled=0.61,
    r2_macro=0.6,
)
ROW = SummaryRow(
    policy="random",
    kind="model",
    r2_pooled=0.5,
    r2_pooled_interval=(0.4, 0.6),
    r2_macro=0.45,
    r2_pooled_best=0.5,
    won=None,
    num_codes=None,
    epochs_to_reference_best=12,
    final_slope=None,
    measurements_per_s=12_345.6,
)


def test_the_table_has_policies_then_what_is_attainable_then_baselines():
    cv = replace(ROW, policy="cv", won=61, num_codes=98, epochs_to_reference_best=None)
    untrained = {"epochs_to_reference_best": None, "measurements_per_s": None}
    mean = replace(ROW, policy="code mean", kind="baseline", r2_pooled=0.0, **untrained)
    lines = format_table([cv, ROW, mean], BEST).splitlines()
    assert [line.split("  ")[0].strip() for line in lines[2:]] == [
        "cv",
        "random",
        "best attainable R2",
        "code mean",
    ]
    assert "61 of 98" in lines[2]
    assert "never" in lines[2]
    assert lines[3].split()[-2:] == ["12", "12,346"]
    assert "0.610" in lines[4]
    assert "never" not in lines[5]


def test_a_folder_that_holds_something_is_refused_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "kept").touch()
    monkeypatch.setattr(sys, "argv", ["jobs/demo.py", "--output_dir", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"cvmae: output_dir=.* is not empty: remove it"):
        main("demo")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.slow
def test_the_demo_runs_in_one_process_and_says_where_everything_is(tmp_path, drawn):
    out = tmp_path / "demo"
    config = DemoConfig(output_dir=str(out), num_subjects=150, epochs=1, num_workers=0)
    text = demo(config)
    for policy in ("random", "variance", "cv"):
        assert f"\n{policy} " in text
    assert "\nbest attainable R2 " in text
    assert SYNTHETIC_NOTE in text
    assert (out / "evaluation" / "report.html").is_file()
    assert str(out / "evaluation" / "report.html") in text
    with pytest.raises(ValueError, match="is not empty"):
        demo(config)


def test_a_part_of_the_evaluation_that_failed_fails_the_demo_after_its_table(tmp_path, monkeypatch):
    failed = (Failure(part="context", reason="RuntimeError: out of memory"),)
    results = replace(make_results({"random": 0.6, "cv": 0.5}, seeds=1), failed=failed)
    best = replace(BEST, r2_C=np.full(len(results.codes), 0.6))
    made = {
        "write_hospital": lambda config: config.root,
        "sweep": lambda config: None,
        "compare_models": lambda config: results,
        "hospital_attainable": lambda config, run: best,
    }
    for name, function in made.items():
        monkeypatch.setattr(f"cvmae.demo.{name}", function)
    config = DemoConfig(output_dir=str(tmp_path / "demo"), num_workers=0)
    with pytest.raises(ValueError, match="1 part of the evaluation failed") as caught:
        demo(config)
    assert "context: RuntimeError: out of memory" in str(caught.value)
    assert "\nbest attainable R2 " in str(caught.value)
    assert SYNTHETIC_NOTE in str(caught.value)
    monkeypatch.setattr("cvmae.demo.compare_models", lambda config: replace(results, failed=()))
    assert SYNTHETIC_NOTE in demo(replace(config, output_dir=str(tmp_path / "whole")))


@pytest.mark.parametrize(
    ("given", "shown", "opens"),
    [
        ("http://me:secret@host:5000", "MLflow store: http://host:5000", False),
        ("", "MLflow store: sqlite:////out/sweep/mlflow.db", True),
    ],
)
def test_the_demo_names_its_store_without_a_password_and_opens_only_a_database(
    given, shown, opens, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    monkeypatch.setattr("cvmae.demo.experiment_page", lambda config: f"{config.tracking.uri}#7")
    config = override(PRESETS["tiny"], {"output_dir": "/out/sweep", "scaling.num_workers": 2})
    told = places(config, Path("/out"))
    assert shown in told.splitlines()
    assert "secret" not in told
    assert ("--backend-store-uri sqlite:" in told) is opens
    assert ("--backend-store-uri" in told) is opens
    assert ("  then sqlite:////out/sweep/mlflow.db#7 in a browser" in told) is opens
