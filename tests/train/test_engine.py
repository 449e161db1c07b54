"""What a setting of the optimiser does to one update."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from cvmae.model.vomae import build_model, param_groups
from cvmae.train.peak import Peak, peak_of
from tests.prepared import training_data
from tests.train.rank_runs import run_steps

CPU = torch.device("cpu")


def updated(config, **optim):
    config = replace(config, optim=replace(config.optim, **optim))
    return run_steps(config, training_data(config), num_steps=1)


@pytest.mark.parametrize("clip_norm", [1e-3, 1e-1])
def test_the_gradient_is_clipped_to_the_norm(tiny, clip_norm):
    def norm(moments):
        # After one step the first moment is a tenth of the gradient.
        squares = [10 * m for name, m in moments.items() if name.endswith("/exp_avg")]
        return torch.cat([m.flatten() for m in squares]).norm().item()

    _, _, unclipped = updated(tiny, clip_norm=None)
    _, _, clipped = updated(tiny, clip_norm=clip_norm)
    assert norm(unclipped) > 0.5
    assert norm(clipped) == pytest.approx(clip_norm, rel=1e-4)


def test_decay_moves_weight_matrices_and_nothing_else(tiny):
    # The rate of the first step is small under warm-up: a large decay makes it visible.
    _, without, _ = updated(tiny, weight_decay=0.0)
    _, with_decay, _ = updated(tiny, weight_decay=5.0)
    moved = {name for name in without if not torch.equal(without[name], with_decay[name])}
    model = build_model(tiny.model, 8, seed=0)
    decayed = {id(p) for p in param_groups(model, 0.05)[0]["params"]}
    assert moved == {name for name, p in model.named_parameters() if id(p) in decayed}


def test_the_learning_rate_scales_the_first_update(tiny):
    before = {k: v.clone() for k, v in build_model(tiny.model, 8, tiny.seed).state_dict().items()}
    steps = []
    for lr in (1e-3, 2e-3):
        _, weights, _ = updated(tiny, lr=lr, weight_decay=0.0, warmup_steps=0)
        steps.append((weights["head.weight"] - before["head.weight"]).numpy())
    np.testing.assert_allclose(steps[1], 2 * steps[0], rtol=1e-3)


def test_the_peak_is_plausible_and_no_lower_for_what_else_the_machine_does(monkeypatch):
    peak_of.cache_clear()
    quiet = peak_of(CPU, bf16=False)._flops_per_s
    assert 1e8 < quiet < 1e14
    product = torch.mm

    def slowed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        time.sleep(0.5)  # another process has the core
        return product(a, b)

    monkeypatch.setattr(torch, "mm", slowed)
    peak_of.cache_clear()
    # Timings of some 50 ms on a machine that others use, too.
    assert peak_of(CPU, bf16=False)._flops_per_s > 0.5 * quiet
    peak_of.cache_clear()


def test_a_peak_is_raised_by_work_that_is_done_and_by_no_other():
    peak = Peak(100.0)
    assert peak.share(200.0) == 1.0
    assert peak.share(50.0) == 0.5
    assert peak.raised_share(200.0) == 1.0
    assert peak.share(50.0) == 0.25
