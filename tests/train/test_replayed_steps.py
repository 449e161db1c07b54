"""The way of a GPU on a CPU: compiled layers, interpreted kernels, steps that are replayed."""

import functools

import numpy as np
import pytest
import torch

from cvmae.config import override
from cvmae.model import static
from cvmae.train import captured_engine
from cvmae.train.captured_engine import CapturedEngine
from cvmae.train.replicated_engine import DDPEngine
from tests.model.test_vomae import random_batch
from tests.train.test_captured_engine import config_of, losses, make, weighted

pytest.importorskip("triton")

from cvmae.model.kernels import attention, gelu, norm


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted here")
@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="visible_only", marks=pytest.mark.survival),  # the next adds to it
        pytest.param(
            {"train.loss_weighting": "inclusion", "train.visible_weight": 0.5},
            id="weighted and visible",
        ),
        pytest.param(
            {"model.encoder_input": "masked_value"}, id="masked_value", marks=pytest.mark.survival
        ),
        pytest.param({"mask.target": "measurement"}, id="measurement", marks=pytest.mark.survival),
    ],
)
def test_steps_of_compiled_layers_by_kernels_that_are_replayed_are_plain_ones(
    rng, monkeypatch, changes
):
    """All of a GPU's way at once, but for graphs, for which something stands in."""
    captured, replays = [], []

    def record(work, pool):
        """Stand in for a capture, which does nothing yet, and for replays, which do."""
        captured.append(pool)
        return lambda: replays.append(work())

    monkeypatch.setattr(captured_engine, "_capture", record)
    monkeypatch.setattr(captured_engine, "_new_pool", lambda: "a pool")
    monkeypatch.setattr(static, "SMALLEST", 8)  # and few sequences beyond
    monkeypatch.setattr(norm, "PROGRAMS", 3)  # few: each takes a millisecond
    monkeypatch.setattr(gelu, "PROGRAMS", 32)
    config = override(config_of(precision="bf16"), changes)
    torch._dynamo.reset()
    engine = make(functools.partial(CapturedEngine, backend="aot_eager"), config)
    half = functools.partial(torch.autocast, "cpu", torch.float16)  # what the interpreter knows
    monkeypatch.setattr(engine, "_autocast", half)
    for graphs in (engine._gradients, engine._updates):
        graphs._captures = True
        graphs.forget()
    met, run_forward = [], attention.run_forward
    monkeypatch.setattr(attention, "run_forward", lambda *x: met.append(1) or run_forward(*x))
    # All but the fourth of one size, though other rows in other sequences.
    shapes = [[9, 20, 30], [30, 2, 25, 4], [19, 39], [40] * 3, [12, 35, 12]]
    steps = [[random_batch(rng, lengths, [n // 4 for n in lengths])] for lengths in shapes]
    if config.train.loss_weighting != "none":
        steps = list(weighted(rng, steps))
    expected = losses(make(DDPEngine, override(config_of(), changes)), steps)
    # float16 rounds by 5e-4, a few times in a row.
    np.testing.assert_allclose(losses(engine, steps), expected, rtol=2e-3)
    num_layers = config.model.num_layers + config.model.num_decoder_layers
    assert len(met) == len(steps) * num_layers
    # The first is launched, an update is captured once, a batch again after a larger one.
    assert captured == ["a pool"] * 4
    assert len(replays) == 2 * (len(steps) - 1)
    torch._dynamo.reset()
