"""What a setting of the optimiser does to one update."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from cvmae.model.vomae import build_model, param_groups
from cvmae.train.make_engine import make_engine
from cvmae.train.peak import Peak, measured_flops_per_s, peak_of
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
    measured_flops_per_s.cache_clear()
    quiet = measured_flops_per_s(CPU, bf16=False)
    assert 1e8 < quiet < 1e14
    product = torch.mm

    def slowed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        time.sleep(0.5)  # another process has the core
        return product(a, b)

    monkeypatch.setattr(torch, "mm", slowed)
    measured_flops_per_s.cache_clear()
    # Timings of some 50 ms on a machine that others use, too.
    assert measured_flops_per_s(CPU, bf16=False) > 0.5 * quiet
    measured_flops_per_s.cache_clear()


def test_a_measured_peak_is_raised_by_work_that_is_done_and_by_no_other():
    peak = Peak(100.0, is_measured=True)
    assert peak.share(200.0) == 1.0
    assert peak.share(50.0) == 0.5
    assert peak.raised_share(200.0) == 1.0
    assert peak.share(50.0) == 0.25


def test_what_one_run_has_shown_does_not_change_the_peak_of_the_next(tiny):
    model = build_model(tiny.model, 10, 0)
    first, second = (make_engine(model, tiny, device=CPU, total_steps=1) for _ in range(2))
    before = second.peak.share(1.0)
    assert first.peak.raised_share(1e18) == 1.0
    assert first.peak.share(1e17) == 0.1
    assert second.peak.share(1.0) == peak_of(CPU, bf16=False).share(1.0) == before


@pytest.mark.parametrize(
    ("name", "flops_per_s"),
    [
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA L40S", None),
        ("NVIDIA A10G", None),
        ("NVIDIA RTX A1000", None),
    ],
)
def test_a_data_sheet_is_that_of_the_very_device_and_is_never_raised(
    name, flops_per_s, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr("cvmae.train.peak.measured_flops_per_s", lambda *_, bf16: 1e12)
    peak = peak_of(torch.device("cuda"), bf16=True)
    assert peak.share(1e11) == pytest.approx(1e11 / (flops_per_s or 1e12))
    over = peak.raised_share(2e15)
    assert over == (1.0 if flops_per_s is None else 2e15 / flops_per_s)
