"""What an epoch amounts to, over ranks, and what a person sees of it."""

import io
import logging
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from cvmae.settings import ModelConfig
from cvmae.train.meter import EpochMeter, ProgressLine
from cvmae.train.peak import Peak
from tests.ranks import on_ranks

METRICS = {
    "epoch": 1,
    "train_loss": 0.5,
    "tuning_mse": 0.6,
    "tuning_r2": 0.4,
    "measurements_per_s": 1234.0,
    "data_wait_share": 0.01,
    "mfu": 0.42,
    "step_ms_median": 10.0,
    "step_ms_p95": 31.0,
    "peak_memory_gib": 2.5,
}


def make_meter(peak: Peak | None = None) -> EpochMeter:
    return EpochMeter(
        ModelConfig(), 8, torch.device("cpu"), peak=peak or Peak(1e9, is_measured=True)
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_on_a_terminal_shows_speed_waiting_and_utilisation(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    line = ProgressLine("run", total_steps=2, first_step=0, enabled=True)
    line.step(1, make_meter())
    line.close()
    shown = sys.stderr.getvalue()
    assert "1/2" in shown
    assert "0 measurements/s, waiting 0.0%, 0% of peak" in shown


def test_the_line_of_an_epoch_tells_of_slow_steps_and_memory(caplog):
    line = ProgressLine("run", total_steps=2, first_step=0, enabled=True)
    with caplog.at_level(logging.INFO, "cvmae"):
        line.epoch(2, 1, METRICS, "tuning 0.5")
    assert "42% of peak, step 10 ms (p95 31), memory 2.5 GiB, ETA" in caplog.text


def test_who_listens_is_told_now_and_then_and_after_an_epoch(monkeypatch):
    clock, told = [0.0], []
    monkeypatch.setattr("cvmae.train.meter.time.monotonic", lambda: clock[0])
    meter = make_meter()
    line = ProgressLine("run", total_steps=8, first_step=0, enabled=True, tell=told.append)
    for step in range(1, 5):
        clock[0] += 6.0
        meter.add([], torch.tensor(3.0 * step), torch.tensor(2.0))
        line.step(step, meter)
    expected = {"progress": 0.25, "measurements_per_s": 0.0, "data_wait_share": 0.0}
    assert told == [
        expected | {"train_loss": 9 / 4},  # after 12 seconds: of the steps so far
        expected | {"progress": 0.5, "train_loss": 30 / 8},
    ]
    line.epoch(4, 2, METRICS, "tuning 0.5")
    assert told[-1] == METRICS | {"progress": 0.5}


def test_other_ranks_tell_nothing(monkeypatch):
    clock, told = [0.0], []
    monkeypatch.setattr("cvmae.train.meter.time.monotonic", lambda: clock[0])
    line = ProgressLine("run", total_steps=2, first_step=0, enabled=False, tell=told.append)
    clock[0] += 60.0
    line.step(1, make_meter())
    line.epoch(1, 1, METRICS, "tuning 0.5")
    assert told == []


def test_the_cpu_of_a_step_is_that_of_the_thread_that_trains():
    meter, zero = make_meter(), torch.zeros(())
    for _ in range(3):
        began = time.thread_time()
        while time.thread_time() - began < 0.01:
            pass
        time.sleep(0.05)  # costs time, and no CPU
        meter.add([], zero, zero)
    summary = meter.summary()
    assert 10 <= summary["step_cpu_ms_median"] < 50
    assert summary["step_ms_median"] >= 60


def test_utilisation_is_never_above_all_of_the_peak(monkeypatch):
    """It was measured while others kept the machine busy, and the epoch was not disturbed."""
    peak, clock = Peak(1e9, is_measured=True), [0.0]
    monkeypatch.setattr("cvmae.train.meter.time.monotonic", lambda: clock[0])
    shares = []
    for work in (4e9, 3e9):
        meter = make_meter(peak)
        meter._flops = work
        clock[0] += 1.0
        shares.append((meter.utilisation, meter.summary()["mfu"]))
    assert shares == [(1.0, 1.0), (0.75, 0.75)]


def memory_on_rank(number: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/ranks", rank=number, world_size=2)
    meter = make_meter()
    meter._peak_memory_gib = lambda: 1.0 + number
    (folder / f"rank{number}").write_text(str(meter.summary()["peak_memory_gib"]))
    dist.destroy_process_group()


@pytest.mark.slow
def test_peak_memory_is_that_of_the_rank_with_most(tmp_path):
    on_ranks(memory_on_rank, (tmp_path,), world=2)
    assert [(tmp_path / f"rank{number}").read_text() for number in range(2)] == ["2.0", "2.0"]
