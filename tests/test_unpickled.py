"""A pickle in a model's folder is never run: planted beside, instead of and in files."""

import contextlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import cvmae
from cvmae.checkpoint import FORMAT, find_checkpoint, load_model, load_state
from cvmae.config import Config, override
from cvmae.infer.export import export
from cvmae.statistics.fitted import FittedData
from cvmae.storage.manifest import write_manifest
from cvmae.train.pretrain import pretrain


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, fuse: Path) -> None:
        self.fuse = fuse

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.fuse,)


@pytest.fixture(scope="module")
def folders(hospital, tmp_path_factory):
    """A checkpoint with its optimiser, and what is exported of it."""
    folder = tmp_path_factory.mktemp("models")
    settings = {
        "data.root": hospital,
        "data.min_count": 2,
        "scaling.num_workers": 0,
        "train.epochs": 1,
        "model.width": 16,
        "model.num_layers": 1,
    }
    config = override(Config(), settings | {"output_dir": folder / "run"})
    pretrain(config)
    export(
        override(config, {"output_dir": folder / "exported", "infer.checkpoint": folder / "run"})
    )
    return {"checkpoint": find_checkpoint(folder / "run"), "export": folder / "exported"}


@pytest.fixture
def fuse(tmp_path):
    """The file that a bomb makes; that it does is seen first."""
    fuse = tmp_path / "exploded"
    pickle.loads(pickle.dumps(Bomb(fuse)))
    assert fuse.exists()
    fuse.unlink()
    return fuse


def beside(folder: Path, bomb: Bomb) -> None:
    """Plant files that other programs load of their own accord."""
    for name in ("pytorch_model.bin", "optimizer.pt", "python_model.pkl", "model.safetensors.pkl"):
        (folder / name).write_bytes(pickle.dumps(bomb))


def as_weights(folder: Path, bomb: Bomb) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(bomb))


def as_weights_of_torch(folder: Path, bomb: Bomb) -> None:
    for path in folder.glob("*.safetensors"):
        torch.save(bomb, path)


def as_json(folder: Path, bomb: Bomb) -> None:
    for path in folder.rglob("*.json"):
        path.write_bytes(pickle.dumps(bomb))


def as_settings(folder: Path, bomb: Bomb) -> None:
    """Plant what YAML runs where it is read without care."""
    call = f"!!python/object/apply:builtins.open ['{bomb.fuse}', w]"
    (folder / "config.yaml").write_text(f"mask.policy: cv\nseed: {call}\n")


def in_parquet(folder: Path, bomb: Bomb) -> None:
    """Plant the type that pyarrow once unpickled where it was read."""
    kind = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(bomb),
    }
    for path in folder.rglob("*.parquet"):
        table = pq.read_table(path)
        fields = [field.with_metadata(kind) for field in table.schema]
        metadata = {**(table.schema.metadata or {}), b"pickle": pickle.dumps(bomb)}
        pq.write_table(table.cast(pa.schema(fields, metadata)), path)


READERS = {
    "load": cvmae.load,
    "load_model": load_model,
    "load_state": load_state,
    "statistics": lambda folder: FittedData.read(str(folder / "statistics")),
}


@pytest.mark.parametrize(
    "plant", [beside, as_weights, as_weights_of_torch, as_json, as_settings, in_parquet]
)
@pytest.mark.parametrize("kind", ["checkpoint", "export"])
def test_what_is_planted_is_refused_or_passed_over_and_never_run(
    kind, plant, folders, fuse, tmp_path
):
    folder = shutil.copytree(folders[kind], tmp_path / "planted")
    manifest = (folder / "manifest.json").read_bytes()
    plant(folder, Bomb(fuse))
    if (folder / "manifest.json").read_bytes() == manifest:
        write_manifest(folder, FORMAT)  # who plants it can do that, too
    for read in READERS.values():
        with contextlib.suppress(ValueError, OSError):  # in one line; others would be tracebacks
            read(folder)
    assert not fuse.exists()
