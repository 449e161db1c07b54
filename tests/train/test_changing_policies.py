"""Policies whose weights change hide in a resumed run what they would have hidden."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from cvmae.settings import MaskConfig
from cvmae.train.pretrain import pretrain


def by_epoch(run: str, column: str) -> np.ndarray:
    """Return a figure of each code in each epoch."""
    table = pq.read_table(f"{run}/code_metrics.parquet")
    return table[column].to_numpy().reshape(-1, len(table) // table["epoch"].to_numpy().max())


@pytest.mark.parametrize(
    "mask",
    [MaskConfig(policy="adaptive", sharpness=10), MaskConfig(policy="cv", anneal_epochs=1)],
    ids=["adaptive", "annealed"],
)
def test_a_resumed_run_goes_on_with_the_weights_of_its_epoch(tiny, tmp_path, mask):
    config = replace(
        tiny,
        mask=mask,
        optim=replace(tiny.optim, schedule="constant", warmup_steps=0),
        train=replace(tiny.train, epochs=2),
    )
    whole = pretrain(replace(config, output_dir=str(tmp_path / "whole")))
    run = pretrain(replace(config, train=replace(config.train, epochs=1)))
    pretrain(replace(config, resume=run))
    for column in ("mask_rate", "train_mse", "tuning_mse"):
        np.testing.assert_array_equal(by_epoch(run, column), by_epoch(whole, column))
    first, second = by_epoch(run, "mask_rate")
    # As random at first: a share of some hundred values is within 0.1 of the ratio.
    np.testing.assert_allclose(first, 0.25, atol=0.1)
    assert np.abs(second - 0.25).max() > 0.12
