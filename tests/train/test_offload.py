"""Offloaded state: what AdamW needs lies where the weights are that it updates."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("deepspeed")

from cvmae.train.deepspeed_engine import DeepspeedEngine


def test_the_number_of_updates_lies_beside_offloaded_weights():
    engine = DeepspeedEngine.__new__(DeepspeedEngine)
    engine.device = torch.device("cuda")  # of the model; its optimiser's parts are on the host
    adamw = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], fused=True)
    (part,) = adamw.param_groups[0]["params"]
    zero = SimpleNamespace(single_partition_of_fp32_groups=[part], optimizer=adamw)
    engine._engine = SimpleNamespace(optimizer=zero)
    engine._make_optimizer_state({"weight/step": torch.tensor(5.0)})
    assert adamw.state[part]["step"].device == part.device
    part.grad = torch.ones(3)
    adamw.step()
    assert adamw.state[part]["step"] == 6
