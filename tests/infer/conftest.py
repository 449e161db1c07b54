"""A model of a small hospital, as it is loaded, and two that were trained."""

from pathlib import Path

import pytest

from cvmae.config import PRESETS, Config, override
from cvmae.synthetic.hospital import SyntheticConfig, write_hospital
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


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Settings of a model of a hospital with subjects enough on tuning and held_out."""
    folder = tmp_path_factory.mktemp("many")
    hospital = SyntheticConfig(
        root=str(folder / "meds"),
        num_subjects=180,
        num_codes=3,
        median_measurements=60,
        spread=0.5,
        missing_rate=0.05,
        split_shares=(0.2, 0.4, 0.4),
        num_shards=2,
    )
    changes = {
        "data.root": write_hospital(hospital),
        "data.min_count": 2,
        "data.unit_rows": 4000,
        "data.sequence_length": 32,
        "scaling.num_workers": 0,
        "train.epochs": 1,
        "output_dir": folder / "run",
    }
    config = override(PRESETS["tiny"], changes)
    pretrain(config)
    return config
