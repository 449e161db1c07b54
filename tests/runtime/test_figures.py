"""Figures need no backend, and one that fails costs a warning, not the work that it shows."""

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cvmae.checkpoint import load_state
from cvmae.evaluate.evaluate import evaluate
from cvmae.evaluate.report import figures
from cvmae.train.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("drawn")


@pytest.mark.parametrize("backend", ["nonsense", "module://no_such_package.backend"])
def test_figures_are_drawn_whatever_backend_the_surroundings_name(tmp_path, backend):
    program = (
        "import cvmae.evaluate.report.page\n"
        "from cvmae.runtime.figures import Figure\n"
        "figure = Figure()\n"
        "figure.subplots()\n"
        f"figure.savefig({str(tmp_path / 'figure.png')!r})\n"
    )
    environment = os.environ | {"MPLBACKEND": backend}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert (tmp_path / "figure.png").is_file()


def test_the_backend_that_the_surroundings_name_stays_that_of_others():
    program = (
        "import cvmae.runtime.figures, matplotlib, os\n"
        "assert matplotlib.get_backend() == os.environ['MPLBACKEND'] == 'svg'\n"
    )
    environment = os.environ | {"MPLBACKEND": "svg"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def fails(*args, **settings):
    raise RuntimeError("no font")


def test_a_run_whose_figures_fail_is_finished(tiny, monkeypatch, caplog):
    for module, name in (("figures", "_learning_curves"), ("mask_table", "_shares")):
        monkeypatch.setattr(importlib.import_module(f"cvmae.train.{module}"), name, fails)
    run = pretrain(tiny)
    assert load_state(run)[0].is_finished(tiny)
    assert '"status": "FINISHED"' in Path(run, "tracking.json").read_text(encoding="utf-8")
    for name in ("learning_curves", "share_hidden"):
        assert f"figure {name} is not drawn (RuntimeError: no font)" in caplog.text


def test_a_report_is_written_without_the_figure_that_fails(tiny, tmp_path, monkeypatch, caplog):
    run = pretrain(tiny)
    settings = replace(tiny.evaluate, checkpoints=(f"cv={run}",), bootstrap_samples=10)
    config = replace(tiny, output_dir=str(tmp_path / "evaluation"), evaluate=settings)
    monkeypatch.setattr(figures, "FIGURES", (fails, *figures.FIGURES))
    evaluate(config)
    assert "a figure of the report (fails) is not drawn (RuntimeError: no font)" in caplog.text
    report = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert report.count("<figure") == len(list((tmp_path / "evaluation" / "figures").iterdir()))
    assert "<figure" in report
