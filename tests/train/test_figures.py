"""What is kept of a finished run for whoever looks at it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cvmae.train.pretrain import pretrain


def test_the_last_epoch_of_each_code_is_kept_as_a_table(tiny, drawn):
    run = pretrain(tiny)
    told = json.loads((Path(run) / "tables/code_metrics.json").read_text())
    whole = pq.read_table(f"{run}/code_metrics.parquet").to_pylist()
    last = [row for row in whole if row["epoch"] == tiny.train.epochs]
    assert told["columns"] == [name for name in last[0] if name != "epoch"]
    assert [row[0] for row in told["data"]] == [row["code"] for row in last]
    rates = [row["mask_rate"] for row in last]
    assert [row[1] for row in told["data"]] == pytest.approx(rates, rel=1e-3)  # four digits
    journal = json.loads((Path(run) / "tracking.json").read_text())
    assert set(journal["artifacts"]) == {
        "config.yaml",
        "code_metrics.parquet",
        "figures/learning_curves.png",
        "figures/share_hidden.png",
        "mask_table.parquet",
        "tables/code_metrics.json",
    }
