"""Who begins with the published sizes on a CPU learns before how long that takes."""

import importlib
from dataclasses import replace

import numpy as np
import pytest

from cvmae.checkpoint import Progress
from cvmae.config import PRESETS
from cvmae.meds.dataset import open_dataset
from cvmae.statistics.fit import fit
from cvmae.train import outlook
from cvmae.train.outlook import cpu_hours, warn_of_long_run
from cvmae.train.pretrain import pretrain


class StoppedError(Exception):
    """Stands for a run that begins."""


def stop(*args):
    raise StoppedError


def hospital_of(fitted, num_sequences, num_measurements):
    counts = {"num_sequences": num_sequences, "num_measurements": num_measurements}
    index = {name: {"train": np.array([number])} for name, number in counts.items()}
    return replace(fitted, unit_index=replace(fitted.unit_index, **index))


@pytest.fixture
def fitted(tiny):
    return fit(tiny, open_dataset(tiny.data.root))


def in_process(preset):
    base = PRESETS[preset]
    return replace(base, scaling=replace(base.scaling, num_workers=0))


def test_the_estimate_is_what_runs_have_taken(fitted):
    # 588,000 measurements of 2,400 subjects: 10 core-hours for 100 epochs of the published sizes.
    known = hospital_of(fitted, 2_400, 588_000)
    assert cpu_hours(in_process("paper"), known) == pytest.approx(10, rel=0.3)


@pytest.mark.parametrize(
    ("preset", "num_measurements", "on_gpu", "epoch", "warns"),
    [
        ("paper", 100e6, False, 0, True),
        ("paper", 100e6, True, 0, False),
        ("paper", 100e6, False, 100, False),
        ("paper", 1e6, False, 60, False),
        ("small", 1e6, False, 0, False),
    ],
)
def test_only_a_run_of_many_hours_on_cpus_is_warned_of(
    fitted, monkeypatch, caplog, preset, num_measurements, on_gpu, epoch, warns
):
    monkeypatch.setattr(outlook, "trains_on_gpu", lambda scaling: on_gpu)
    data = hospital_of(fitted, num_measurements / 250, num_measurements)
    warn_of_long_run(in_process(preset), data, Progress(epoch=epoch))
    assert (" days on CPUs (100 epochs" in caplog.text) == warns
    assert ("--base small" in caplog.text) == warns


def test_a_run_that_is_called_long_is_warned_of_before_its_first_step(tiny, monkeypatch, caplog):
    monkeypatch.setattr(outlook, "LONG_H", 0.0)
    monkeypatch.setattr(importlib.import_module("cvmae.train.pretrain"), "_train_here", stop)
    with pytest.raises(StoppedError):
        pretrain(tiny)
    assert "--base small" in caplog.text
