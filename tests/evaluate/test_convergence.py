import pytest

from cvmae.evaluate.convergence import epochs_to, final_slope, learning_curves


def history(*errors, rate=100.0):
    return [
        {"epoch": epoch + 1, "tuning_mse": error, "measurements_per_s": rate * (epoch > 0)}
        for epoch, error in enumerate(errors)
    ]


def test_epochs_count_to_the_first_one_at_the_target():
    assert epochs_to(history(1.0, 0.5, 0.4, 0.5), 0.5) == 2
    assert epochs_to(history(1.0, 0.9), 0.5) is None


def test_everybody_is_timed_against_the_references_best_with_one_percent_of_grace():
    found = learning_curves(
        {"random": [history(1.0, 0.6, 0.5)], "cv": [history(0.9, 0.504, 0.4)]}, "random"
    )
    assert found.reference_best == 0.5
    assert found.names["random"].epochs_to_reference_best == 3
    assert found.names["cv"].epochs_to_reference_best == 2
    assert found.names["cv"].epochs_to_own_best == 3


def test_a_seed_that_never_gets_there_is_not_averaged_away():
    found = learning_curves(
        {"random": [history(0.5)], "cv": [history(0.4), history(0.9)]}, "random"
    )
    assert found.names["cv"].epochs_to_reference_best is None
    assert found.names["cv"].epochs_to_reference_best_per_run == (1, None)


def test_a_curve_is_the_mean_over_seeds_and_ends_with_the_shortest():
    curve = learning_curves({"cv": [history(1.0, 0.8), history(0.5)]}, "cv").names["cv"]
    assert curve.epoch == (1,)
    assert (curve.tuning_mse, curve.lowest, curve.highest) == ((0.75,), (0.5,), (1.0,))


def test_throughput_leaves_out_the_first_epoch_which_warms_up():
    curve = learning_curves({"cv": [history(1.0, 0.9, rate=70.0)]}, "cv").names["cv"]
    assert curve.measurements_per_s == pytest.approx(70.0)


def test_a_run_without_a_finished_epoch_has_no_curve():
    curve = learning_curves({"cv": [[]]}, "cv").names["cv"]
    assert curve.epoch == ()
    assert curve.epochs_to_own_best is None


def test_the_final_slope_is_that_of_the_last_five_epochs_only():
    assert final_slope([100.0, 50.0, 10.0, 8.0, 6.0, 4.0, 2.0]) == pytest.approx(-2.0)
    assert final_slope([3.0, 3.0, 3.0]) == pytest.approx(0.0)
    assert final_slope([3.0]) is None
