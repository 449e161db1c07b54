"""Parts of the suite `gpu` are processes: of limited time, stopped whole, told where they break."""

import json
import multiprocessing
import os
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.gpu import suite as gpu
from benchmarks.gpu.suite import run_part, run_processes
from benchmarks.rows import Row
from tests.benchmarks.small_suite import CPU, SMALL, only


def test_a_part_keeps_the_figures_that_came_before_its_error(tmp_path, monkeypatch):
    def part(device, sizes, folder):
        yield Row(suite="gpu", name="first", value=1.0)
        raise ValueError("the second")

    monkeypatch.setattr(gpu, "_part", lambda name: part)
    run_part("speed", CPU, SMALL, tmp_path, tmp_path / "rows.json")
    first, failed = json.loads((tmp_path / "rows.json").read_text())
    assert (first["name"], first["value"], first["failed"]) == ("first", 1.0, False)
    assert (failed["name"], failed["failed"]) == ("speed: failed", True)
    assert "ValueError: the second" in failed["note"]


def test_parts_are_processes_and_those_that_find_no_time_say_so():
    rows = {row.name: row for row in run_processes(["captured"], CPU, SMALL, 900)}
    assert rows.pop("captured: the whole part").value > 0
    assert only(rows).met
    rows = {row.name: row for row in run_processes(["speed"], CPU, SMALL, 0.1)}
    assert rows["speed: failed"].note.startswith("stopped after 0 s: give more budget_s")
    rows = {row.name: row for row in run_processes(["speed"], CPU, SMALL, 0)}
    assert rows["speed: failed"].note == "not begun: no time is left of budget_s"
    assert rows["speed: failed"].failed


def test_a_process_is_stopped_with_those_that_it_has_started(tmp_path):
    context, path = multiprocessing.get_context("spawn"), tmp_path / "pid"
    process = context.Process(target=start_another, args=(path,))
    process.start()
    while not path.exists():
        time.sleep(0.05)
    gpu._kill(process)
    assert has_ended(path)


def test_a_process_that_breaks_leaves_none_that_it_has_started(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "_process", start_another_and_break)
    rows = gpu._run_process("speed", CPU, SMALL, tmp_path, 60)
    assert [row.note for row in rows] == ["its process ended with 3"]
    assert has_ended(tmp_path / "pid")


def start_another(path):
    os.setpgrp()
    other = subprocess.Popen(["sleep", "60"])
    path.with_suffix(".aside").write_text(str(other.pid))
    path.with_suffix(".aside").rename(path)
    time.sleep(60)


def start_another_and_break(name, device, sizes, folder, path):
    os.setpgrp()
    (folder / "pid").write_text(str(subprocess.Popen(["sleep", "60"]).pid))
    os._exit(3)


def has_ended(path: Path) -> bool:
    for _ in range(100):
        status = Path(f"/proc/{path.read_text()}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return True
        time.sleep(0.05)
    return False


def test_a_part_has_a_third_of_the_time_at_most(monkeypatch):
    given = []
    monkeypatch.setattr(gpu, "_run_process", lambda *rest: iter(given.append(rest[-1]) or []))
    list(run_processes(["speed", "input"], CPU, SMALL, 300))
    assert given == [pytest.approx(100)] * 2


def test_a_process_that_breaks_is_told_by_its_exit_code(monkeypatch):
    monkeypatch.setitem(gpu.PARTS, "broken", ("agreement", "captured_rows"))
    monkeypatch.setattr(gpu, "_process", end_at_once)
    rows = {row.name: row for row in run_processes(["broken"], CPU, SMALL, 900)}
    assert rows["broken: failed"].note == "its process ended with 3"


def end_at_once(*_):
    os._exit(3)
