"""Told to stop: a checkpoint at that step, all ranks at the same one, and exactly on from there."""

import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from cvmae.checkpoint import find_checkpoint, read_progress
from cvmae.command_line import run_job
from cvmae.config import write_config
from cvmae.runtime import preemption
from cvmae.runtime.preemption import PreemptedError, Watch, on_signal
from cvmae.train.pretrain import pretrain
from cvmae.train.replicated_engine import DDPEngine
from tests.ranks import on_ranks

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny):
    return replace(tiny, train=replace(tiny.train, epochs=3, batch_sequences=8))


def signal_at(patch, step: int, number: int) -> None:
    """Send this process a signal in the middle of a global step; questions come at every step."""
    take = DDPEngine.step

    def step_and_signal(self, micro_batches, global_step):
        if global_step == step:
            os.kill(os.getpid(), number)
        return take(self, micro_batches, global_step)

    patch.setattr(DDPEngine, "step", step_and_signal)
    patch.setattr(preemption, "ASK_EVERY_S", 0.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("place", ["in an epoch", "at the end of an epoch"])
def test_a_signal_costs_no_step(config, tmp_path, monkeypatch, number, place):
    whole = pretrain(replace(config, output_dir=str(tmp_path / "whole")))
    epoch = int(read_progress(find_checkpoint(whole)).history[0]["step"])
    step = epoch + 3 if place == "in an epoch" else epoch - 1
    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        signal_at(patch, step, number)
        with pytest.raises(PreemptedError, match=rf"checkpoint at step {step + 1} of .*{cut}"):
            pretrain(replace(config, output_dir=str(cut)))
    assert read_progress(find_checkpoint(cut)).global_step == step + 1
    assert '"KILLED"' in (cut / "tracking.json").read_text()
    pretrain(replace(config, output_dir=str(cut), resume=str(cut)))
    ours, theirs = (load_file(find_checkpoint(run) / "model.safetensors") for run in (whole, cut))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_signal_during_the_last_step_lets_the_run_finish(config, tmp_path, monkeypatch):
    whole = pretrain(replace(config, output_dir=str(tmp_path / "whole")))
    last = read_progress(find_checkpoint(whole)).global_step
    signal_at(monkeypatch, last - 1, signal.SIGTERM)
    assert read_progress(find_checkpoint(pretrain(config))).is_finished(config)


def test_a_job_that_was_stopped_says_how_to_go_on_and_that_it_can(monkeypatch, capsys):
    def stopped(config):
        raise PreemptedError("stopped by a signal, with a checkpoint at step 7 of 9 in runs/cv")

    monkeypatch.setattr(sys, "argv", ["job", "--output_dir", "runs/cv"])
    with pytest.raises(SystemExit) as ended:
        run_job(stopped)
    assert ended.value.code == 75
    said = capsys.readouterr().err
    assert "step 7" in said
    assert "--resume runs/cv" in said


def test_the_line_that_was_stopped_continues_when_it_is_submitted_again(
    config, tmp_path, monkeypatch
):
    whole = pretrain(replace(config, output_dir=str(tmp_path / "whole")))
    write_config(config, tmp_path / "base.yaml")
    folder = str(tmp_path / "cut")
    line = ["--base", str(tmp_path / "base.yaml"), "--output_dir", folder, "--resume", folder]
    monkeypatch.setattr(sys, "argv", ["jobs/pretrain.py", *line])
    with monkeypatch.context() as patch:
        signal_at(patch, 3, signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            run_job(pretrain)
    assert ended.value.code == 75
    assert read_progress(find_checkpoint(folder)).global_step == 4
    run_job(pretrain)
    ours, theirs = (load_file(find_checkpoint(r) / "model.safetensors") for r in (whole, folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_second_signal_acts_as_without_us():
    before = signal.getsignal(signal.SIGTERM)
    calls = []
    with on_signal(signal.SIGTERM, signal.SIGINT, call=lambda: calls.append(1)):
        os.kill(os.getpid(), signal.SIGTERM)
        assert calls == [1]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_handlers_are_put_back_and_left_alone_in_other_threads():
    before = signal.getsignal(signal.SIGTERM)
    with on_signal(signal.SIGTERM, call=lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with on_signal(signal.SIGTERM, call=lambda: None):
                assert signal.getsignal(signal.SIGTERM) is before
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert errors == []


@pytest.mark.parametrize(("step_s", "questions"), [(0.01, (9, 17)), (2.0, (999, 1001))])
def test_ranks_are_asked_about_once_a_second(monkeypatch, step_s, questions):
    clock, asked = [0.0], []
    monkeypatch.setattr(preemption.time, "monotonic", lambda: clock[0])
    watch = Watch(lambda: asked.append(clock[0]) or "", CPU)
    for _ in range(1000):
        clock[0] += step_s
        watch()
    assert questions[0] <= len(asked) <= questions[1]
    assert asked[0] == step_s  # a run that was signalled before it began


def test_pauses_between_short_epochs_do_not_put_off_the_question(monkeypatch):
    clock, asked = [0.0], []
    monkeypatch.setattr(preemption.time, "monotonic", lambda: clock[0])
    watch = Watch(lambda: asked.append(clock[0]) or "", CPU)
    for step in range(600):
        clock[0] += 0.01
        watch()
        if step % 6 == 5:
            clock[0] += 2.0
    assert np.diff([0.0, *asked, clock[0]]).max() < 5


def watch_on_rank(number: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/ranks", rank=number, world_size=3)
    preemption.ASK_EVERY_S = 0.02
    steps = 0

    def ask():
        told = "stop" if number == 2 and steps >= 20 else "save" if steps == 1 else ""
        return told if number else ""

    watch = Watch(ask, CPU)
    demands = []
    while not watch.is_stopped:
        steps += 1
        threading.Event().wait(0.001 * (number + 1))  # ranks are not equally fast
        demands.append(watch())
    (folder / f"rank{number}").write_text(repr(demands))
    dist.destroy_process_group()


@pytest.mark.slow
def test_all_ranks_stop_at_the_same_step_though_one_alone_was_told(tmp_path):
    on_ranks(watch_on_rank, (tmp_path,), world=3)
    demands = [(tmp_path / f"rank{number}").read_text() for number in range(3)]
    assert demands[0] == demands[1] == demands[2]
    assert demands[0].startswith("['save',")
    assert demands[0].endswith("'stop']")
