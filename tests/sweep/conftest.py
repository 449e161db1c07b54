"""A sweep whose trials take no time."""

import types
from pathlib import Path

import pytest

from cvmae.config import PRESETS, override
from cvmae.sweep import driver, figures, trials
from tests.sweep.fake_trials import statistics_of, write_checkpoint


@pytest.fixture
def pretrained(monkeypatch):
    """Replace pretrain and the fit of statistics; list what pretrain was called with.

    `pretrained.fails` holds names of trials that raise, `pretrained.epochs` limits epochs, and
    figures, which take a second each, are drawn if `pretrained.draws`.
    """
    record = types.SimpleNamespace(
        calls=[], parents=[], fails=set(), epochs=10**9, num_fits=0, draws=False
    )
    draw = figures.draw

    def fake(config, *, parent_run_id="", data=None, listen=None):
        record.calls.append(config)
        record.parents.append(parent_run_id)
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        if Path(config.output_dir).name in record.fails:
            raise RuntimeError("lost its worker\nsecond line")
        write_checkpoint(config, min(config.train.epochs, record.epochs))
        for entry in trials.progress_of(config.output_dir).history:
            listen(entry)
        return config.output_dir

    def fit(config, dataset):
        record.num_fits += 1
        return types.SimpleNamespace(fitted=types.SimpleNamespace(statistics=statistics_of()))

    monkeypatch.setattr(trials, "pretrain", fake)
    monkeypatch.setattr(figures, "draw", lambda *a: draw(*a) if record.draws else iter(()))
    monkeypatch.setattr(driver, "fit_data", fit)
    monkeypatch.setattr(driver, "open_dataset", lambda root, splits: None)
    monkeypatch.setattr(driver, "describe_dataset", lambda data: {"name": "meds"})
    monkeypatch.setattr(driver, "require_weights", lambda trials, data: None)
    monkeypatch.setattr(driver, "warn_of_long_run", lambda runs, fitted, num_at_once: None)
    return record


@pytest.fixture
def config(tmp_path):
    changes = {
        "scaling.num_workers": 0,
        "output_dir": str(tmp_path / "out"),
        "data.root": str(tmp_path / "meds"),
        "sweep.policies": ["random", "cv"],
        "sweep.epochs": [2, 3],
        "sweep.seeds": [7],
    }
    return override(PRESETS["tiny"], changes)
