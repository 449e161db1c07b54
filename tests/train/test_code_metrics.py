"""What a run says of each code at the end of an epoch, interrupted or not."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from cvmae.checkpoint import read_progress
from cvmae.train import loop
from cvmae.train.pretrain import pretrain
from tests.prepared import training_data


def test_errors_of_codes_stand_beside_the_run_and_agree_with_the_pooled_ones(tiny):
    run = pretrain(tiny)
    table = pq.read_table(f"{run}/code_metrics.parquet").to_pandas()
    history = read_progress(run).history
    assert sorted(table["epoch"].unique()) == [1, 2]
    for entry in history:
        rows = table[table["epoch"] == entry["epoch"]]
        pooled = (rows["tuning_mse"] * rows["tuning_count"]).sum() / rows["tuning_count"].sum()
        assert pooled == pytest.approx(entry["tuning_mse"], rel=1e-12)
        # Errors are counted as whole numbers, and weighed here by how often codes were hidden.
        weight = rows["mask_rate"] * training_data(tiny).fitted.statistics.num_values
        train = (rows["train_mse"] * weight).sum() / weight.sum()
        assert train == pytest.approx(entry["train_loss"], rel=0.02)


def test_a_run_interrupted_inside_an_epoch_tells_the_same_of_each_code(tiny, tmp_path, monkeypatch):
    config = replace(tiny, checkpoint=replace(tiny.checkpoint, every_steps=1))
    whole = pretrain(replace(config, output_dir=str(tmp_path / "whole")))
    save, saved = loop.save_checkpoint, []

    def save_and_stop(*args, **rest):
        saved.append(save(*args, **rest))
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config)
    assert read_progress(config.output_dir).step == 2  # inside the first epoch
    pretrain(replace(config, resume=config.output_dir))
    ours, theirs = (
        pq.read_table(f"{run}/code_metrics.parquet").to_pydict()
        for run in (config.output_dir, whole)
    )
    np.testing.assert_equal(ours, theirs)
    np.testing.assert_equal(
        read_progress(config.output_dir).last_codes, read_progress(whole).last_codes
    )
