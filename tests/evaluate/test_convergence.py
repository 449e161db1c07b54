import pytest

from cvmae.evaluate.convergence import final_slope, learning_curves, reach, smoothed


def history(*errors, rate=100.0, seconds=3.6):
    return [
        {
            "epoch": epoch + 1,
            "tuning_mse": error,
            "measurements_per_s": rate * (epoch > 0),
            "train_s": seconds,
        }
        for epoch, error in enumerate(errors)
    ]


def test_a_target_is_reached_where_the_line_between_two_epochs_crosses_it():
    assert reach(history(1.0, 0.8, 0.6, 0.4), 0.5).epochs == pytest.approx(3.5)
    assert reach(history(1.0, 0.8, 0.6, 0.4), 0.6).epochs == pytest.approx(3.0)


def test_a_run_whose_first_epoch_is_good_enough_needed_one():
    found = reach(history(0.4, 0.3), 0.5)
    assert (found.epochs, found.hours) == (1.0, 0.001)


def test_a_run_that_never_gets_there_has_reached_nothing():
    assert reach(history(1.0, 0.9), 0.5) is None
    assert reach([], 0.5) is None


def test_one_lucky_epoch_reaches_nothing():
    assert smoothed([1.0, 0.2, 0.9, 0.8]).tolist() == [1.0, 0.9, 0.8, 0.8]
    assert reach(history(1.0, 0.2, 0.9, 0.8), 0.5) is None


def test_measurements_and_hours_are_counted_up_to_the_crossing():
    found = reach(history(1.0, 0.8, 0.6, 0.4), 0.5)
    # 100/s for 3.6 s an epoch, but for the first, whose rate is 0 here: as a resumed one's may be.
    assert found.measurements == pytest.approx(3.5 * 360)
    assert found.hours == pytest.approx(3.5 * 0.001)


def test_an_epoch_that_a_resume_cut_takes_as_long_as_the_median_of_the_whole_ones():
    run = history(1.0, 0.8, 0.6, 0.4)
    for entry, seconds in zip(run, (3.6, 0.9, 7.2, 10.8), strict=True):
        entry |= {"train_s": seconds, "measurements_per_s": 360 / seconds}
    run[1]["measurements_per_s"] = 100.0  # 90 of 360 measurements since the resume
    assert reach(run, 0.5).hours == pytest.approx((3.6 + 7.2 + 7.2 + 10.8 / 2) / 3600)


def test_histories_that_counted_nothing_give_epochs_alone():
    found = reach([{"epoch": 1, "tuning_mse": 0.1}], 0.5)
    assert (found.epochs, found.measurements, found.hours) == (1.0, None, None)


def test_everybody_is_timed_against_the_references_best_with_one_percent_of_grace():
    found = learning_curves(
        {"random": [history(1.0, 0.6, 0.5)], "cv": [history(0.9, 0.505, 0.4)]}, "random"
    )
    assert found.reference_best == 0.5
    assert found.names["random"].epochs_to_reference_best == pytest.approx(2.95)
    assert found.names["cv"].epochs_to_reference_best == pytest.approx(2.0)
    assert found.names["cv"].epochs_to_own_best == pytest.approx(3 - 0.004 / 0.105)


def test_a_reference_that_is_not_there_times_nobody():
    found = learning_curves({"cv": [history(0.9, 0.5)]}, "")
    assert found.reference_best is None
    assert found.names["cv"].epochs_to_reference_best is None
    assert found.names["cv"].epochs_to_own_best is not None


def test_a_seed_that_never_gets_there_is_counted_and_not_averaged_away():
    found = learning_curves(
        {"random": [history(0.5)], "cv": [history(0.4), history(0.9)]}, "random"
    ).names["cv"]
    assert found.epochs_to_reference_best is None
    assert found.measurements_to_reference_best is None
    assert found.epochs_to_reference_best_per_run == (1, None)
    assert (found.num_reached, found.num_runs) == (1, 2)


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
