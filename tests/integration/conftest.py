"""A data set large enough for Ray to keep its bricks apart, and a record of what is read of it."""

from pathlib import Path
from typing import Any

import pytest

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
