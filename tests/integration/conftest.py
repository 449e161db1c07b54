"""A data set large enough for Ray to keep its bricks apart, and a record of what is read of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cvmae.config import Config
from cvmae.train.pretrain import pretrain
from tests.batches.numbered_rows import Case, Written, write_many
from tests.small_model import loaded, model_of

__all__ = ["loaded", "model_of"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """24 bricks of 200 kB: Ray keeps them in the object store of the node that has read them."""
    case = Case(
        num_rows=1_000_000,
        row_group_size=5000,
        unit_rows=5000,
        lanes=4,
        batch_sequences=64,
        sequence_length=256,
    )
    return write_many(case, tmp_path_factory.mktemp("many"))[0]


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("ray")
    from tests.integration.ray_cluster import Watch

    return Watch(tmp_path / "reads", monkeypatch, pause_s=0.2)


@pytest.fixture
def by_two(tiny: Config) -> Config:
    """Settings of a run of two workers."""
    return replace(
        tiny,
        train=replace(tiny.train, epochs=3, batch_sequences=8),
        scaling=replace(tiny.scaling, num_workers=2),
    )


@pytest.fixture(scope="session")
def by_two_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("by_two") / "run"


@pytest.fixture
def by_two_done(by_two: Config, by_two_folder: Path) -> str:
    """That run: once for all tests that compare with it."""
    if not by_two_folder.exists():
        pretrain(replace(by_two, output_dir=str(by_two_folder)))
    return str(by_two_folder)
