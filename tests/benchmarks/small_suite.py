"""The suite `gpu`, shrunk to what a CPU does in seconds."""

import torch

from benchmarks.gpu.sizes import Sizes
from cvmae.config import PRESETS

CPU = torch.device("cpu")
TINY = PRESETS["tiny"].model
SMALL = Sizes(
    rounds=1,
    models={"tiny": TINY},
    large_step=600,
    small_step=300,
    num_batches=2,
    timed_steps=2,
    agreement_model=TINY,
    agreement_steps=3,
    agreement_measurements=256,
    replayed_steps=5,
    golden_steps=4,
    input_epochs=3,
    input_model=TINY,
    widths=((32, 2),),
    calls=1,
    backend="aot_eager",
    tests=("tests/train/test_captured_engine.py",),
)


def only(rows):
    (row,) = rows.values()
    return row
