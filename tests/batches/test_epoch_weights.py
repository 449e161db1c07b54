"""Weights that move from epoch to epoch: by the errors of the one before, and by sharpness."""

import numpy as np
import pytest

from cvmae.batches.code_metrics import CodeMetrics
from cvmae.batches.policies import epoch_weights
from cvmae.settings import MaskConfig
from tests.batches.test_policies import volatile, weights


def weights_of(policy, **settings):
    return epoch_weights(volatile(4), MaskConfig(policy=policy, **settings), seed=0)


def shown(train_mse) -> CodeMetrics:
    error_C = np.array(train_mse)
    nothing_C = np.full(len(error_C), np.nan)
    return CodeMetrics(
        mask_rate_C=nothing_C,
        train_mse_C=error_C,
        tuning_mse_C=nothing_C,
        tuning_r2_C=nothing_C,
        tuning_count_C=nothing_C,
    )


def test_adaptive_weights_are_the_errors_of_the_epoch_before():
    adaptive = weights_of("adaptive")
    assert adaptive.of_epoch(0, None) is None
    found = adaptive.of_epoch(1, shown([0.2, 0.8, 0.4, 0.1]))
    assert found.tolist() == pytest.approx([0.25, 1, 0.5, 0.125])
    assert found.dtype == np.float32
    assert adaptive.of_epoch(2, shown([1.0, 1, 1, 1])).tolist() == [1, 1, 1, 1]


def test_a_code_of_which_nothing_was_hidden_is_treated_like_the_median_of_the_others():
    found = weights_of("adaptive").of_epoch(1, shown([np.nan, 0.8, 0.4, 0.1]))
    assert found[0] == found[2]


def test_errors_that_say_nothing_leave_all_codes_alike():
    for errors in ([np.nan] * 4, [0.0] * 4):
        assert weights_of("adaptive").of_epoch(1, shown(errors)).tolist() == [1, 1, 1, 1]


def test_adaptive_weights_are_tempered_like_others():
    errors = shown([0.16, 0.64, 0.36, 0.01])
    found = weights_of("adaptive", sharpness=0.5).of_epoch(1, errors)
    assert found.tolist() == pytest.approx([0.5, 1, 0.75, 0.125])


@pytest.mark.parametrize(
    ("start", "end", "powers"), [(0, 1, [0, 0.25, 0.5, 0.75, 1, 1]), (1, 0.5, [1, 0.875, 0.75])]
)
def test_sharpness_moves_linearly_from_its_start_to_its_end_and_stays(start, end, powers):
    moving = weights_of("cv", sharpness=end, anneal_epochs=4, anneal_from=start)
    for epoch, power in enumerate(powers):
        wanted = weights(volatile(4), "cv", sharpness=power)
        np.testing.assert_array_equal(moving.of_epoch(epoch, None), wanted)
    settled = moving.of_epoch(99, shown([1.0] * 4))
    np.testing.assert_array_equal(settled, weights(volatile(4), "cv", sharpness=end))


def test_only_weights_that_change_keep_a_run_from_reading_ahead():
    assert weights_of("adaptive", anneal_epochs=1).change_after(99)
    annealed = weights_of("cv", anneal_epochs=2)
    assert [annealed.change_after(epoch) for epoch in range(4)] == [True, True, False, False]
    assert not weights_of("cv", sharpness=0.5).change_after(0)
    assert not weights_of("cv_two_level", two_level_ratio="published").change_after(0)
    assert weights_of("random", anneal_epochs=3).of_epoch(2, None) is None
