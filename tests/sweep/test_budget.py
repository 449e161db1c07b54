from cvmae.settings_of_comparison import SweepConfig
from cvmae.sweep.budget import Budget


def begun(budget, *trials):
    return [name for name, epochs in trials if budget.begin(name, epochs)]


def test_without_limits_everything_begins():
    budget = Budget(SweepConfig(), {})
    assert begun(budget, ("a", 100), ("b", 100)) == ["a", "b"]
    assert budget.used_up == ""


def test_trials_of_earlier_attempts_count_and_go_on_all_the_same():
    budget = Budget(SweepConfig(max_trials=2), {"old": 5})
    assert begun(budget, ("old", 5), ("a", 5), ("b", 5)) == ["old", "a"]
    assert budget.used_up == "sweep.max_trials=2"


def test_epochs_are_set_aside_when_a_trial_begins_and_no_smaller_one_slips_in():
    budget = Budget(SweepConfig(max_epochs=10), {})
    assert begun(budget, ("a", 6), ("b", 6), ("c", 1)) == ["a"]


def test_what_a_stopped_trial_has_not_used_is_there_for_others():
    budget = Budget(SweepConfig(max_epochs=10), {})
    assert begun(budget, ("a", 6)) == ["a"]
    budget.stopped("a", 3)
    assert begun(budget, ("b", 6), ("c", 2)) == ["b"]


def test_after_its_hours_nothing_begins_not_even_what_has_begun_before():
    now = [0.0]
    budget = Budget(SweepConfig(max_hours=2), {"old": 1}, clock=lambda: now[0])
    assert begun(budget, ("a", 1)) == ["a"]
    now[0] = 7200.0
    assert begun(budget, ("old", 1), ("b", 1)) == []
