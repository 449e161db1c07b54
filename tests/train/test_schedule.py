"""Learning rate: warm-up, constant, cosine."""

from itertools import pairwise

import pytest

from cvmae.settings import OptimConfig
from cvmae.train.schedule import learning_rate


def test_a_constant_schedule_warms_up_and_stays():
    config = OptimConfig(lr=0.5, warmup_steps=4)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:5] == [0.125, 0.25, 0.375, 0.5, 0.5]
    assert set(rates[4:]) == {0.5}


def test_a_cosine_falls_from_its_peak_to_nearly_zero():
    config = OptimConfig(lr=1.0, schedule="cosine", warmup_steps=10)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))


def test_warm_up_takes_at_most_a_tenth_of_a_short_run():
    config = OptimConfig(lr=1.0, warmup_steps=300)
    assert learning_rate(config, 2, 30) == 1.0


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_the_rate_follows_the_batch_by_the_rule(rule, factor):
    config = OptimConfig(lr=0.5, lr_scaling=rule, schedule="cosine", warmup_steps=10)
    for step in (0, 9, 10, 60):
        alone = learning_rate(config, step, 100, batch_sequences=256)
        assert learning_rate(config, step, 100, batch_sequences=1024) == factor * alone
