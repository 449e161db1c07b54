"""What a sweep shows while it runs."""

import io
import logging

import pytest

from cvmae.config import override
from cvmae.runtime.terminal import Foot
from cvmae.settings_of_comparison import SweepConfig
from cvmae.sweep import driver, live
from cvmae.sweep.budget import Budget
from cvmae.sweep.live import LiveTable
from cvmae.sweep.trials import plan_trials
from tests.sweep.fake_trials import write_checkpoint


@pytest.fixture
def lines(monkeypatch):
    """Lines that go to a job's log."""
    stream = io.StringIO()
    monkeypatch.setattr(live.logger, "handlers", [logging.StreamHandler(stream)])
    monkeypatch.setattr(live.logger, "propagate", False)
    return lambda: stream.getvalue().splitlines()


@pytest.fixture
def grid(config):
    return plan_trials(
        override(config, {"sweep.epochs": [4], "sweep.axes": ["mask.ratio=0.1,0.2"]})
    )


def epoch(number, error=0.5):
    return {"epoch": float(number), "tuning_mse": error}


def test_a_job_log_has_a_line_when_a_trial_begins_or_ends_and_one_now_and_then(grid, lines):
    now = [0.0]
    table = LiveTable(grid, clock=lambda: now[0])
    first = grid[0].name
    table.begin(first)
    for number in range(1, 4):
        now[0] = 10.0 * number
        table.epoch(first, epoch(number, 1 / number))
    table.epoch(first, epoch(4, 0.25))
    table.end(first, "finished")
    assert lines() == [
        f"trial {first} begins at epoch 0/4",
        # 13 of 16 epochs are left, at 10 s each.
        f"0 of 4 done, 1 running, ETA 00:02:10; {first} epoch 3/4, tuning 0.3333",
        f"trial {first} finished at epoch 4/4, tuning 0.2500; 1 of 4 done, 0 running, ETA 00:01:30",
    ]


def test_the_pace_counts_the_epochs_of_this_attempt_only(grid):
    write_checkpoint(grid[0].config, 2)
    now = [0.0]
    table = LiveTable(grid, clock=lambda: now[0])
    table.begin(grid[0].name)
    table.epoch(grid[0].name, epoch(2))  # reported again
    assert "ETA unknown" in table.totals()
    now[0] = 60.0
    table.epoch(grid[0].name, epoch(3))
    assert "ETA 00:13:00" in table.totals()


def test_trials_that_the_budget_will_not_let_begin_are_not_waited_for(grid):
    now, budget = [0.0], Budget(SweepConfig(max_epochs=9), {})
    table = LiveTable(grid, clock=lambda: now[0], budget=budget)
    assert budget.begin(grid[0].name, 4)
    table.begin(grid[0].name)
    now[0] = 60.0
    table.epoch(grid[0].name, epoch(1))
    assert "ETA 00:07:00" in table.totals()  # 3 epochs of this, 4 of one other


def test_on_a_terminal_the_table_shows_every_trial_in_place(grid):
    screen = io.StringIO()
    table = LiveTable(grid, Foot(screen))
    table.begin(grid[1].name)
    before = len(screen.getvalue())
    table.end(grid[1].name, "failed")
    drawn = screen.getvalue()[before:]
    assert drawn.startswith("\x1b[7A\r\x1b[J")  # header, rule, four trials, totals
    lines = [line.split() for line in drawn.partition("\x1b[J")[2].splitlines()]
    assert lines[0][-7:] == ["policy", "ratio", "seed", "epoch", "tuning", "error", "trial"]
    assert lines[2:4] == [
        ["random", "0.1", "7", "0/4", "-"],
        ["random", "0.2", "7", "0/4", "-", "failed"],
    ]


def test_where_the_terminal_is_low_those_that_run_are_shown(grid):
    table = LiveTable(grid)
    table.begin(grid[3].name)
    drawn = table.drawn(room=1).splitlines()
    assert "running" in drawn[2]
    assert drawn[3] == "and 3 more"


def test_a_trials_own_progress_does_not_stand_between_the_lines_of_the_table(
    tiny, lines, caplog, monkeypatch
):
    said = io.StringIO()
    monkeypatch.setattr(logging.getLogger("cvmae"), "handlers", [logging.StreamHandler(said)])
    monkeypatch.setattr(logging.getLogger("cvmae"), "level", logging.INFO)
    driver.sweep(override(tiny, {"sweep.policies": ["cv"], "train.epochs": 2}))
    assert "measurements/s" not in said.getvalue()
    first, last = lines()
    assert first.startswith("trial cv_epochs2_seed0 begins at epoch 0/2")
    assert last.startswith("trial cv_epochs2_seed0 finished at epoch 2/2, tuning ")
