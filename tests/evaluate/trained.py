"""Models of one vocabulary that were trained for a moment, to be compared."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cvmae.checkpoint import FORMAT, find_checkpoint
from cvmae.config import PRESETS, Config, override, read_config, write_config
from cvmae.statistics.fit import fit_statistics
from cvmae.storage.manifest import write_manifest
from cvmae.train.pretrain import pretrain


def train_models(
    root: str | Path, folder: Path, models: Mapping[str, Mapping[str, Any]], **changes: Any
) -> Config:
    """Fit a hospital, train each model into the folder of its name; return what they share.

    Args:
        root: Of the hospital.
        folder: Where statistics and runs go.
        models: Name -> settings that are its own.
        **changes: Settings of all.
    """
    given = {"data.root": root, "data.min_count": 2, "scaling.num_workers": 0, "train.epochs": 1}
    shared = override(PRESETS["tiny"], given | changes)
    fit_statistics(replace(shared, output_dir=str(folder / "statistics")))
    shared = override(shared, {"data.statistics": folder / "statistics"})
    for name, own in models.items():
        pretrain(override(shared, {**own, "output_dir": folder / name}))
    return shared


def changed_run(folder: Path, target: Path, changes: Mapping[str, Any]) -> Path:
    """Return a copy of a model that says that it was trained with other settings."""
    copy = shutil.copytree(find_checkpoint(folder), target)
    write_config(override(read_config(copy / "config.yaml"), changes), copy / "config.yaml")
    write_manifest(copy, FORMAT)
    return copy
