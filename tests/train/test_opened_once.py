"""Preparing a run walks straight: what the data set says of itself is asked for once."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from cvmae.meds import dataset as opening
from cvmae.statistics import fit as fitting
from cvmae.sweep.driver import sweep
from cvmae.train.pretrain import pretrain


@pytest.fixture
def asked(monkeypatch) -> Counter:
    """Count what is asked of the data set: its list of files, its splits, each shard's footer."""
    counts: Counter = Counter()

    def counting(module, name, label):
        real = getattr(module, name)

        def counted(*args):
            counts[label(*args)] += 1
            return real(*args)

        monkeypatch.setattr(module, name, counted)

    counting(opening, "list_shards", lambda root: "list")
    counting(opening, "load_splits", lambda root: "splits")
    counting(opening, "read_row_groups", lambda parquet, path: path)
    counting(fitting, "fit", lambda config, dataset: "fit")
    return counts


def once(root: str) -> dict[str, int]:
    shards = [str(path.relative_to(root)) for path in Path(root, "data").rglob("*.parquet")]
    return dict.fromkeys(["list", "splits", *shards], 1)


def test_a_start_lists_once_and_opens_each_footer_once(tiny, asked):
    pretrain(tiny)
    assert asked == {"fit": 1, **once(tiny.data.root)}


def test_a_resume_lists_once_opens_each_footer_once_and_fits_nothing(tiny, asked):
    run = pretrain(replace(tiny, train=replace(tiny.train, epochs=1)))
    asked.clear()
    pretrain(replace(tiny, resume=run, resume_allow=("train.epochs",)))
    assert asked == once(tiny.data.root)


def test_a_sweep_opens_and_fits_once_whatever_its_trials(tiny, asked):
    axes = replace(tiny.sweep, policies=("random", "cv"), epochs=(1,), seeds=(1, 2))
    sweep(replace(tiny, sweep=axes))
    assert asked == {"fit": 1, **once(tiny.data.root)}
