"""Residuals and coverage of hidden values: the same figures however the work is cut or taken up."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cvmae.checkpoint import load_model
from cvmae.config import override
from cvmae.infer import calibration
from cvmae.infer.calibration import Calibration
from cvmae.infer.hidden import restore_hidden
from cvmae.infer.impute_set import impute
from cvmae.meds.dataset import open_dataset
from cvmae.statistics.residual_sample import ResidualSample

NAMES = ("low_C", "high_C", "count_C", "is_own_C")


@pytest.fixture
def own(many):
    """How it is measured, by a model without a folder."""
    config = override(many, {"infer.level": 0.8})
    model, dataset = load_model(many.output_dir), open_dataset(many.data.root)
    return Calibration(model=model, dataset=dataset, config=config, device="cpu")


def assert_same(one, other):
    # Batches are cut elsewhere, which sums in another order.
    for name in NAMES:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=2e-5)


def cut(own, unit_rows):
    return replace(own, config=override(own.config, {"data.unit_rows": unit_rows}))


def test_units_cut_otherwise_give_the_same_residuals_and_coverage(own):
    one, other = cut(own, 10**9), cut(own, 500)
    assert_same(one.residuals(), other.residuals())
    residuals = one.residuals()
    whole, parts = one.coverage(residuals), other.coverage(residuals)
    assert whole.count_C.tolist() == parts.count_C.tolist()
    assert whole.subjects_C.tolist() == parts.subjects_C.tolist()
    assert whole.count_C.min() > 200
    assert 20 < whole.subjects_C.max() <= own.dataset.num_subjects["held_out"]
    np.testing.assert_allclose(whole.held_C, parts.held_C, atol=2)


def test_of_very_many_values_the_same_are_kept_however_units_are_cut(own, monkeypatch):
    everything = own.residuals()
    fewer = staticmethod(partial(ResidualSample.total, most=150))
    monkeypatch.setattr(ResidualSample, "total", fewer)
    one, other = (cut(own, rows).residuals() for rows in (10**9, 500))
    assert_same(one, other)
    assert one.count_C.tolist() == everything.count_C.tolist()
    assert one.count_C.min() > 300
    assert (one.low_C != everything.low_C).all()
    # Quantiles of 150 values of a law that is about normal.
    np.testing.assert_allclose(one.low_C, everything.low_C, rtol=0.3)


class KilledError(Exception):
    """In place of what ends a process."""


@pytest.mark.parametrize("split", ["tuning", "held_out"])
def test_what_was_interrupted_takes_up_the_units_that_are_there(many, tmp_path, monkeypatch, split):
    changes = {"infer.checkpoint": many.output_dir, "data.unit_rows": 1000}
    config = override(many, changes | {"output_dir": tmp_path / "out"})
    read, parts = calibration.read_unit, Path(config.output_dir, "imputed", "calibration", split)

    def stop(source, unit, lookup, own):
        if own == split and len(list(parts.glob("*.npz"))) == 2:
            raise KilledError
        return read(source, unit, lookup, own)

    with monkeypatch.context() as patch:
        patch.setattr(calibration, "read_unit", stop)
        with pytest.raises(KilledError):
            impute(config)
    restored = []

    def counted(model, rows, own):
        restored.append(rows)
        return restore_hidden(model, rows, own)

    monkeypatch.setattr(calibration, "restore_hidden", counted)
    resumed = impute(replace(config, resume=config.output_dir))
    num_resumed = len(restored)
    assert not parts.parent.exists()
    whole = replace(config, output_dir=str(tmp_path / "whole"))
    assert resumed == impute(whole).replace(whole.output_dir, config.output_dir)
    num_whole = len(restored) - num_resumed
    # All units of tuning and of held_out, less the two; of tuning none where it was held_out.
    assert num_whole % 2 == 0
    assert num_resumed == num_whole // (2 if split == "held_out" else 1) - 2
    for name in ("report.json", "residuals.parquet", "coverage.json"):
        one, other = (Path(folder, name) for folder in (config.output_dir, whole.output_dir))
        assert one.read_bytes() == other.read_bytes()
