"""A small model, shared by the tests of dry runs."""

import pytest

from cvmae.config import PRESETS, override
from cvmae.train.pretrain import pretrain


@pytest.fixture(scope="session")
def run(hospital, tmp_path_factory):
    """Settings of a model that was trained for two epochs."""
    folder = tmp_path_factory.mktemp("dry") / "run"
    changes = {
        "output_dir": folder,
        "data.root": hospital,
        "data.min_count": 2,
        "data.unit_rows": 500,
        "data.lanes": 4,
        "data.sequence_length": 32,
        "train.epochs": 2,
        "train.batch_sequences": 16,
        "scaling.num_workers": 0,
    }
    config = override(PRESETS["tiny"], changes)
    pretrain(config)
    return config
