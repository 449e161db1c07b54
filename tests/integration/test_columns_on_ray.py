"""Columns on Ray: units are looked at and scored by tasks, and every figure is the same."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cvmae.config import override
from cvmae.evaluate.evaluate import evaluate
from cvmae.train.pretrain import pretrain

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


def test_columns_are_the_same_on_ray_as_in_the_calling_process(tiny, tmp_path, monkeypatch):
    for module in ("columns", "methods"):  # so small a hospital has few subjects of any code
        monkeypatch.setattr(f"cvmae.evaluate.{module}.SMALLEST_CELL", 1)
    run = pretrain(replace(tiny, output_dir=str(tmp_path / "cv")))
    found = []
    for num_workers in (0, 2):
        out = tmp_path / str(num_workers)
        changes = {
            "evaluate.checkpoints": [f"cv={run}"],
            "evaluate.bootstrap_samples": 10,
            "evaluate.leave_one_out": 30,
            "scaling.num_workers": num_workers,
            "output_dir": out,
        }
        evaluate(override(tiny, changes))
        results = json.loads(Path(out, "results.json").read_text(encoding="utf-8"))
        found.append({name: results[name] for name in ("columns", "code_columns", "near_copies")})
    assert len(found[0]["columns"]) == 3
    assert found[0]["columns"][1]["num_hidden"] == 30
    told = [code["r2"]["uniform"]["cv"] for code in found[0]["code_columns"]]
    assert any(value is not None for value in told)
    assert found[0] == found[1]
