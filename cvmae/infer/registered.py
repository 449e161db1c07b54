"""A model on its way into MLflow's registry, and back."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cvmae
from cvmae.checkpoint import MODEL, Loaded
from cvmae.config import Config, without_password
from cvmae.storage.folders import local_copy
from cvmae.storage.manifest import MANIFEST
from cvmae.tracking.journal import Journal
from cvmae.tracking.origin import first_line
from cvmae.tracking.results import run_folder_of, run_settings
from cvmae.tracking.sqlite import sqlite_path
from cvmae.tracking.store import before_mlflow, named_store, require_database_folder

__all__ = ["Registry", "find_registry", "is_in_mlflow", "model_in_mlflow", "register"]

SCHEMES = ("models:/", "runs:/")


@dataclass(frozen=True, kw_only=True)
class Registry:
    """Where a model is to be registered, under which name, and which run has trained it."""

    name: str
    uri: str = field(repr=False)  # it may hold a password
    experiment: str
    run_key: str = ""  # of the run; '' where its folder does not say
    run_experiment: str = ""  # in which it is, if the store has it


def find_registry(config: Config, path: str) -> Registry:
    """Say where `infer.register` leads; nothing is asked of MLflow yet.

    The store is `tracking.uri`, else ``MLFLOW_TRACKING_URI``, else that of the run.

    Args:
        config: Of the export.
        path: Of the run.

    Raises:
        ValueError: The name is none that MLflow takes, or no store is named.
    """
    name = config.infer.register
    if not name.strip() or set(name) & set("/:"):
        raise ValueError(f"infer.register={name!r} is no name of a model: leave out / and :")
    folder = run_folder_of(path)
    run = run_settings(folder) if folder else None
    uri = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri and run and _is_there(run.tracking.uri):
        uri = run.tracking.uri
    if not uri:
        raise ValueError(
            f"infer.register={name}: no MLflow is named, and the run has none: give --tracking.uri "
            "sqlite:///FILE or the address of a server"
        )
    # A user's own is taken with its password; whatever it is, it is named for all processes alike.
    tracking = replace(config.tracking, uri=uri)
    named = named_store(replace(config, tracking=tracking))
    require_database_folder(replace(config, tracking=tracking), named.tracking.uri)
    return Registry(
        name=name,
        uri=named.tracking.uri,
        experiment=config.tracking.experiment,
        run_key=Journal(folder).about.key if run else "",
        run_experiment=run.tracking.experiment if run else "",
    )


def _is_there(uri: str) -> bool:
    """Tell whether a store may be there: a database that is gone would be made anew, and empty."""
    return not (database := sqlite_path(uri)) or Path(database).is_file()


def register(folder: str, loaded: Loaded, card: str, registry: Registry) -> str:
    """Register an exported folder in MLflow; return how it is loaded.

    Args:
        folder: As `cvmae export` wrote it.
        loaded: The model that is in it.
        card: Its description.
        registry: Where.

    Raises:
        ValueError: MLflow does not take it; the folder is whole nevertheless.
    """
    before_mlflow()
    try:
        from cvmae.infer.mlflow_model import pack
        from cvmae.tracking.mlflow_registry import add_version

        with TemporaryDirectory(prefix="cvmae_") as scratch, local_copy(folder) as copy:
            packed = Path(scratch) / "packed"
            pack(copy, loaded, packed)
            version, alias = add_version(
                registry.uri,
                registry.experiment,
                registry.name,
                packed,
                run=(registry.run_experiment, registry.run_key),
                description=card,
                tags=_tags(loaded),
            )
    except Exception as error:
        raise ValueError(
            f"infer.register={registry.name}: MLflow at {without_password(registry.uri)} has not "
            f"taken it ({type(error).__name__}: {first_line(error)}); {folder} is whole: once "
            f"MLflow answers, give it as --infer.checkpoint, with a new --output_dir"
        ) from None  # who shows it with its cause would show a password
    name = registry.name
    return (
        f"registered: version {version} of {name} in {without_password(registry.uri)}, as its "
        f"{alias}: cvmae.load('models:/{name}@{alias}') or mlflow.pyfunc.load_model of the same"
    )


def _tags(loaded: Loaded) -> dict[str, str]:
    config = loaded.config
    tags = {
        "cvmae.version": cvmae.__version__,
        "mask.policy": config.mask.policy,
        "seed": str(config.seed),
        "epochs": str(loaded.progress.epoch),
        "finetune.labels": config.finetune.labels,
    }
    return {name: value for name, value in tags.items() if value}


def is_in_mlflow(path: str) -> bool:
    """Tell whether a path is the address of something in MLflow."""
    return path.startswith(SCHEMES)


@contextmanager
def model_in_mlflow(address: str) -> Iterator[str]:
    """Yield the exported folder within a model of MLflow, which is not loaded by MLflow itself.

    Raises:
        ImportError: MLflow is not installed.
        ValueError: It has no such model, or one that is none of ours.
    """
    before_mlflow()
    try:
        from cvmae.tracking.mlflow_registry import downloaded
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mlflow":
            raise
        raise ImportError(
            f"{address} is in MLflow, and mlflow is not installed here: pip install mlflow, or "
            "give a folder that `cvmae export` wrote"
        ) from None
    with downloaded(address) as folder:
        for place in (folder, *sorted(folder.glob("data/*"))):
            if (place / MODEL).is_file() and (place / MANIFEST).is_file():
                yield str(place)
                return
        raise ValueError(
            f"{address} is no model of cvmae: expected what `cvmae export --infer.register NAME` "
            "has registered, or a folder that it wrote"
        )
