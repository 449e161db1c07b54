"""What fails after reconstruction costs itself alone."""

import importlib
import json

import pytest

from cvmae.config import override
from cvmae.evaluate.evaluate import evaluate
from cvmae.evaluate.parts import NOT_REACHED
from tests.evaluate.downstream.planted_tasks import write_set
from tests.evaluate.trained import train_models


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings of an evaluation of one model on four tasks."""
    folder = tmp_path_factory.mktemp("failures")
    write_set(folder / "meds")
    shared = train_models(folder / "meds", folder, {"random": {"mask.policy": "random"}})
    given = {
        "evaluate.checkpoints": [f"random={folder / 'random'}"],
        "evaluate.labels": folder / "meds" / "labels",
        "evaluate.bootstrap_samples": 20,
        "evaluate.min_scored": 10,
        "evaluate.leave_one_out": 0,
    }
    return override(shared, given)


def break_task(monkeypatch, name, error):
    """Let the probes of one task raise an error."""
    module = importlib.import_module("cvmae.evaluate.downstream.downstream")
    fit = module.fit_candidates

    def fitted(labels, *args, **options):
        if labels.name == name:
            raise error
        return fit(labels, *args, **options)

    monkeypatch.setattr(module, "fit_candidates", fitted)


def read_results(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_part_that_fails_is_said_and_all_others_are_done(settings, tmp_path, monkeypatch):
    break_task(monkeypatch, "later", RuntimeError("out of memory\nat an address"))
    module = importlib.import_module("cvmae.evaluate.evaluate")

    def broken(*args, **options):
        raise ValueError("no history")

    monkeypatch.setattr(module, "measure_context", broken)
    with pytest.raises(ValueError, match="2 parts of the evaluation failed") as caught:
        evaluate(override(settings, {"output_dir": tmp_path / "out"}))
    results = read_results(tmp_path / "out")
    assert results["failed"] == [
        {"part": "context", "reason": "ValueError: no history"},
        {"part": "task later", "reason": "RuntimeError: out of memory"},
    ]
    assert results["methods"][0]["r2_pooled"] is not None
    assert results["perturbation"] is not None
    assert results["context"] is None
    names = [task["support"]["name"] for task in results["downstream"]["tasks"]]
    assert names == ["known", "number", "readmission_alike"]
    assert (tmp_path / "out" / "predictions" / "known").is_dir()
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (page, str(caught.value)):
        assert "context: ValueError: no history" in text
        assert "task later: RuntimeError: out of memory" in text
    assert "known, held_out: 120 labels" in str(caught.value)  # the tables are printed all the same


def test_what_was_computed_lies_there_where_the_process_ends(settings, tmp_path, monkeypatch):
    break_task(monkeypatch, "later", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        evaluate(override(settings, {"output_dir": tmp_path / "out"}))
    results = read_results(tmp_path / "out")
    assert results["methods"][0]["r2_pooled"] is not None
    missing = [failure["part"] for failure in results["failed"]]
    assert missing == ["task later", "task number", "task readmission_alike"]
    assert {failure["reason"] for failure in results["failed"]} == {NOT_REACHED}
    assert [task["support"]["name"] for task in results["downstream"]["tasks"]] == ["known"]
    assert (tmp_path / "out" / "predictions" / "known").is_dir()
    assert "R2 pooled" in (tmp_path / "out" / "report.html").read_text()


def test_numbers_and_the_table_stay_where_the_report_fails(settings, tmp_path, monkeypatch):
    module = importlib.import_module("cvmae.evaluate.evaluate")

    def broken(*args, **options):
        raise KeyError("template")

    monkeypatch.setattr(module, "write_report", broken)
    with pytest.raises(ValueError, match="1 part of the evaluation failed") as caught:
        evaluate(override(settings, {"output_dir": tmp_path / "out", "evaluate.labels": ""}))
    assert "R2 pooled" in str(caught.value)
    results = read_results(tmp_path / "out")
    assert results["failed"] == [{"part": "report", "reason": "KeyError: 'template'"}]
    assert results["perturbation"] is not None
