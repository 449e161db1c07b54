"""An exported folder -> an MLflow model: signature, made-up example, and what loads it.

The package is in no registry of packages, where another might take its name: a copy of its code
lies in the model, and what is to be installed beside it are the packages that it imports.
"""

from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

import cvmae
from cvmae.checkpoint import Loaded
from cvmae.infer.pooling import default_pooling
from cvmae.infer.pyfunc import POOLING
from cvmae.meds.rows import CODE, SUBJECT, TIME, VALUE

__all__ = ["example", "pack"]

FIRST_DAY = np.datetime64("2000-01-01", "ns")
HOURS = (0, 6, 12, 24)
MODULE = "cvmae.infer.pyfunc"
# What a process imports that loads the model and scores; other verbs need more.
NEEDED = (
    "meds",
    "mlflow",
    "numba",
    "numpy",
    "pandas",
    "pyarrow",
    "PyYAML",
    "safetensors",
    "torch",
    "tqdm",
    "tyro",
)


def pack(folder: Path, loaded: Loaded, target: Path) -> None:
    """Write an MLflow model that holds a copy of an exported folder; no path of it is told.

    Args:
        folder: As `cvmae export` wrote it.
        loaded: The model that is in it.
        target: New folder.
    """
    with TemporaryDirectory(prefix="cvmae_") as scratch:
        named = Path(scratch) / "model"  # MLflow keeps the name of what it copies
        named.symlink_to(folder.resolve(), target_is_directory=True)
        mlflow.pyfunc.save_model(
            str(target),
            loader_module=MODULE,
            data_path=str(named),
            signature=_signature(default_pooling(loaded)),
            input_example=example(loaded),
            code_paths=[str(Path(cvmae.__file__).parent)],
            pip_requirements=[f"{name}=={_published(version(name))}" for name in NEEDED],
        )


def _published(version: str) -> str:
    """Return a version as the package index has it: 2.13.0+cpu is a build of 2.13.0."""
    return version.partition("+")[0]


def example(loaded: Loaded) -> pd.DataFrame:
    """Return rows of two subjects that nobody is: values are means of train, times are round."""
    statistics = loaded.fitted.statistics
    rows: list[tuple[Any, ...]] = []
    for subject in (1, 2):
        for place, hour in enumerate(HOURS):
            code = (place + subject) % statistics.num_codes
            time, value = FIRST_DAY + np.timedelta64(hour, "h"), f"{statistics.mean[code]:.3g}"
            rows.append((subject, time, statistics.codes[code], float(value)))
    return pd.DataFrame(rows, columns=[SUBJECT, TIME, CODE, VALUE])


def _signature(pooling: str) -> ModelSignature:
    # As long and double: MLflow takes narrower numbers for them, and never wider ones.
    inputs: list[Any] = [
        ColSpec(DataType.long, SUBJECT),
        ColSpec(DataType.datetime, TIME),
        ColSpec(DataType.string, CODE),
        ColSpec(DataType.double, VALUE),
    ]
    outputs: list[Any] = [
        ColSpec(DataType.long, SUBJECT),
        ColSpec(DataType.datetime, "prediction_time"),
        ColSpec(DataType.boolean, "has_rows"),
        ColSpec(Array(DataType.float), "embedding"),
    ]
    params = [ParamSpec(POOLING, DataType.string, pooling)]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema(params))
