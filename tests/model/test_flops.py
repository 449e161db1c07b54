"""The formula against torch's own count of operations."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cvmae.batches.batch import make_batch
from cvmae.model.flops import flops
from cvmae.model.loss import hidden_error
from cvmae.model.vomae import build_model
from cvmae.settings import ModelConfig


@pytest.mark.parametrize("asked", [24, 96], ids=["hidden ones asked for", "all asked for"])
@pytest.mark.parametrize(("encoder_input", "read"), [("visible_only", 72), ("masked_value", 96)])
def test_formula_equals_the_counted_operations(rng, encoder_input, read, asked):
    config = ModelConfig(
        width=64, num_layers=2, num_heads=2, num_decoder_layers=1, encoder_input=encoder_input
    )
    lengths = np.array([48, 48])  # of one length, so that nothing is padded
    batch = make_batch(
        lengths_B=lengths,
        code_index_N=rng.integers(0, 5, 96),
        minutes_N=rng.integers(0, 9_000, 96),
        value_N=rng.normal(size=96).astype(np.float32),
        hidden_N=np.tile(np.arange(48) < 12, 2),
    )
    model = build_model(config, 5, seed=0)
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        scale = torch.ones(()) if asked == 96 else None
        hidden_error(model, batch, visible_scale=scale)[0].backward()
    # The formula leaves out embeddings (whose input needs no gradient) and the head.
    time, value, head = 2 * 2 * 64 * 64 * (read + asked), 2 * 2 * 64 * read, 3 * 2 * 64 * asked
    formula = flops(config, batch.num_visible_B, batch.num_hidden_B, ask_all=asked == 96)
    assert counter.get_total_flops() == formula + time + value + head
