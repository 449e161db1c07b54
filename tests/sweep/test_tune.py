"""What Ray Tune asks of a sweep, without a Ray that runs."""

import pickle
import types

import pytest

from cvmae.config import override
from cvmae.settings_of_comparison import SweepConfig
from cvmae.sweep.attempt import Attempt
from cvmae.sweep.budget import Budget
from cvmae.sweep.live import LiveTable
from cvmae.sweep.trials import plan_trials
from tests.sweep.fake_trials import write_checkpoint

pytest.importorskip("ray")

from ray.tune.search import Searcher

from cvmae.sweep import tune
from cvmae.sweep.halving import Halving


@pytest.fixture
def grid(config):
    changes = {
        "sweep.policies": ["cv", "random"],
        "sweep.epochs": [9],
        "sweep.axes": ["optim.lr=1e-4,2e-4,3e-4,4e-4"],
    }
    return plan_trials(override(config, changes))


def result(halving, trial, epoch, error):
    """Tell a scheduler what a trial has reached, as Tune does."""
    of_tune = types.SimpleNamespace(config={"trial": trial.name}, trial_id="changes with attempts")
    return halving.on_trial_result(None, of_tune, {"epoch": float(epoch), "tuning_mse": error})


def test_a_trial_behind_others_of_its_policy_is_stopped_at_a_rung_and_not_before(grid):
    halving = Halving(grid)
    ours = grid[:4]
    early = [result(halving, trial, 2, 1.0 + place) for place, trial in enumerate(ours)]
    assert early == ["CONTINUE"] * 4
    decisions = [result(halving, trial, 3, 1.0 + place) for place, trial in enumerate(ours)]
    assert decisions == ["CONTINUE", "STOP", "STOP", "STOP"]


def test_other_policies_do_not_decide_who_is_stopped(grid):
    halving = Halving(grid)
    for trial in grid[:4]:
        result(halving, trial, 3, 0.1)
    assert result(halving, grid[4], 3, 5.0) == "CONTINUE"


@pytest.mark.parametrize("axis", ["mask.ratio=0.1,0.5", "mask.target=value,measurement"])
def test_errors_that_do_not_compare_do_not_race(config, axis):
    changes = {"sweep.policies": ["cv"], "sweep.epochs": [9], "sweep.axes": [axis]}
    one, other = plan_trials(override(config, changes))
    halving = Halving([one, other])
    result(halving, one, 3, 0.1)
    assert result(halving, other, 3, 5.0) == "CONTINUE"


def test_a_trial_that_has_come_to_its_end_is_not_stopped_there(grid):
    halving = Halving(grid)
    assert [result(halving, trial, 9, 1.0 + place) for place, trial in enumerate(grid[:3])] == [
        "CONTINUE"
    ] * 3


def test_a_resumed_sweep_asks_of_its_trials_what_earlier_ones_have_shown(grid):
    write_checkpoint(grid[0].config, 3, errors=[0.9, 0.5, 0.1])
    assert result(Halving(grid), grid[1], 3, 0.2) == "STOP"


def test_what_a_driver_says_at_its_end_is_no_result(grid):
    of_tune = types.SimpleNamespace(config={"trial": grid[0].name})
    assert Halving(grid).on_trial_result(None, of_tune, {"error": ""}) == "CONTINUE"


def test_trials_are_handed_out_in_order_while_the_budget_lasts(grid):
    budget = Budget(SweepConfig(max_trials=2), {})
    in_order = tune._InOrder(grid, budget)
    asked = [in_order.suggest(str(number)) for number in range(4)]
    assert asked == [
        {"trial": grid[0].name},
        {"trial": grid[1].name},
        Searcher.FINISHED,
        Searcher.FINISHED,
    ]


@pytest.fixture
def events(config, grid):
    stopped = []
    budget = Budget(SweepConfig(max_epochs=12), {})
    attempt = Attempt(
        config=config,
        grid=grid,
        waiting=grid,
        num_at_once=1,
        data=None,
        parent_run_id="",
        budget=budget,
        table=LiveTable(grid),
    )
    return tune._Events(attempt, lambda *told: stopped.append(told)), budget, stopped


def of_tune(trial, **last):
    return types.SimpleNamespace(config={"trial": trial.name}, last_result=last)


def test_a_trial_that_ends_without_a_word_of_its_driver_was_stopped(grid, events):
    made, budget, stopped = events
    assert budget.begin(grid[0].name, 9)
    made.on_trial_complete(1, [], of_tune(grid[0], epoch=3.0, tuning_mse=0.5))
    assert stopped == [(grid[0], 3)]
    assert made.stopped == {grid[0].name}
    assert budget.begin(grid[1].name, 9)  # of the 12 epochs, 3 are used


@pytest.mark.parametrize("error", ["", "ValueError: no"])
def test_a_trial_whose_driver_came_to_its_end_was_not_stopped(grid, events, error):
    made, _, stopped = events
    made.on_trial_complete(1, [], of_tune(grid[0], error=error))
    assert stopped == []
    assert made.stopped == set()


def test_tune_can_write_down_what_it_is_begun_with(grid, events):
    for part in (events[0], tune._InOrder(grid, events[1]), Halving(grid)):
        pickle.dumps(part)
