"""Stores of tests: creating a database takes MLflow seconds of migrations."""

import shutil
import socket

import pytest

from cvmae.config import PRESETS, override
from cvmae.tracking import store as tracking


@pytest.fixture(autouse=True)
def _no_ambient_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """A database without runs, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    config = override(PRESETS["tiny"], {"tracking.uri": f"sqlite:///{path}"})
    config = tracking.name_store(override(config, {"output_dir": str(path.parent)}))
    tracking.prepare_store(override(config, {"tracking.experiment": "another"}))
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory, migrated):
    """One SQLite store for all tests of a module."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(migrated, folder / "mlflow.db")
    config = override(PRESETS["tiny"], {"tracking.uri": f"sqlite:///{folder}/mlflow.db"})
    config = tracking.name_store(override(config, {"output_dir": str(folder)}))
    tracking.prepare_store(config)
    return config.tracking.uri


@pytest.fixture
def in_process(tmp_path):
    return override(
        PRESETS["tiny"], {"scaling.num_workers": 0, "output_dir": str(tmp_path / "run")}
    )


@pytest.fixture
def on_mlflow(tmp_path, store):
    return override(PRESETS["tiny"], {"output_dir": str(tmp_path / "run"), "tracking.uri": store})


@pytest.fixture
def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def dead_server(free_port):
    """Address of a loopback port that refuses connections."""
    return f"http://127.0.0.1:{free_port}"
