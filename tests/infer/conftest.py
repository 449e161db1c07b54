"""A model of a small hospital, as it is loaded, and one that was trained."""

from pathlib import Path

import pytest

from cvmae.config import PRESETS, Config, override
from cvmae.train.pretrain import pretrain
from tests.small_model import loaded, model_of

__all__ = ["loaded", "model_of"]


@pytest.fixture(scope="module")
def run(hospital: str, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Settings of a model trained for an epoch, which is in their output_dir."""
    folder: Path = tmp_path_factory.mktemp("private-runs") / "cv"
    config = override(
        PRESETS["tiny"],
        {
            "data.root": hospital,
            "data.min_count": 2,
            "data.unit_rows": 500,
            "data.sequence_length": 32,
            "scaling.num_workers": 0,
            "train.epochs": 1,
            "output_dir": folder,
        },
    )
    pretrain(config)
    return config
