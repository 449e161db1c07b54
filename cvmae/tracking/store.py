"""Which store a run's metrics go to: named once, on the driver, and opened under that name.

Runs in the calling process (``scaling.num_workers=0``) need nothing but pyarrow and write
``metrics.parquet``; runs on Ray write to MLflow. Object storage holds no SQLite, so that runs
whose folder is there write parquet, too, unless a store is given. Both kinds of tracker take the
same calls and keep the first value of a (metric, step): a resumed run leaves no point twice.
"""

import logging
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cvmae.config import Config, flatten, override, resolved_path, without_password
from cvmae.runtime.submitted import runs_in_a_copy
from cvmae.storage.places import is_remote
from cvmae.tracking.parquet_tracker import ParquetTracker
from cvmae.tracking.sqlite import sqlite_path, sqlite_uri
from cvmae.tracking.tracker import Tracker

__all__ = ["DATABASE", "moved", "name_store", "open_tracker", "prepare_store", "store_uri"]

logger = logging.getLogger("cvmae")

DATABASE = "mlflow.db"

# Before MLflow is imported: it reports its use over the network unless told not to, and it
# waits minutes for a server that is down, during which every other rank would wait too.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


def name_store(config: Config) -> Config:
    """Return settings in which `tracking.uri` names the store wherever it is read.

    That is `tracking.uri`, else ``MLFLOW_TRACKING_URI``, else SQLite in the output folder, each
    with an absolute path: workers, trials and a resumed run have other working folders and
    environments than this process. Where parquet is written, '' stays ''.

    Raises:
        ValueError: What is given cannot name one store for all processes.
    """
    own, ambient = config.tracking.uri, os.environ.get("MLFLOW_TRACKING_URI", "")
    if own and own == without_password(ambient):
        own = ambient  # a config.yaml keeps no password
    uri = _absolute("tracking.uri", own)
    if not uri and config.scaling.num_workers > 0:
        uri = _absolute("MLFLOW_TRACKING_URI", ambient) or _in_folder(config.output_dir)
    return replace(config, tracking=replace(config.tracking, uri=uri))


def moved(config: Config, folder: str) -> Config:
    """Return settings of a run whose folder lies elsewhere now; what lay in it lies in it still.

    Example:
        >>> there = override(Config(output_dir="/old"), {"tracking.uri": "sqlite:////old/m.db"})
        >>> moved(there, "/new").tracking.uri
        'sqlite:////new/m.db'
    """
    changes = {"output_dir": folder}
    old, new = f"{config.output_dir.rstrip('/')}/", f"{folder.rstrip('/')}/"
    for name, value in flatten(config).items():
        if not config.output_dir or not isinstance(value, str):
            continue
        if value.startswith(old):
            changes[name] = new + value.removeprefix(old)
        elif (path := sqlite_path(value)).startswith(old):
            changes[name] = sqlite_uri(new + path.removeprefix(old), like=value)
    return override(config, changes)


def store_uri(config: Config) -> str:
    """Return the MLflow tracking URI of a run after `name_store`; '' where parquet is written."""
    return config.tracking.uri if config.scaling.num_workers > 0 else ""


def prepare_store(config: Config) -> None:
    """Create the MLflow database and experiment, or say that a store that is given is not used.

    Call it on the driver, after `name_store` and before any worker starts: a new database breaks
    when several processes connect first at once.

    Raises:
        ValueError: `tracking.uri` names no store that MLflow can open, or the experiment there
            was deleted.
    """
    if store_uri(config):
        _before_mlflow()
        from cvmae.tracking.mlflow_store import prepare_mlflow_store

        prepare_mlflow_store(config)
    elif given := config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", ""):
        logger.warning(
            "%s=%s is not used: with scaling.num_workers=0 metrics go to metrics.parquet in the "
            "run's folder; MLflow has them where scaling.num_workers is at least 1",
            "tracking.uri" if config.tracking.uri else "MLFLOW_TRACKING_URI",
            without_password(given),
        )


def open_tracker(
    config: Config, *, run_name: str, run_id: str = "", parent_run_id: str = ""
) -> Tracker:
    """Open the run of ``config.output_dir``, creating it where there is none.

    Args:
        config: After `name_store`; decides between MLflow and parquet.
        run_name: What a person sees in a list of runs.
        run_id: Run to continue, as another process created it; empty: the folder's own.
        parent_run_id: Run of the sweep to which this one belongs.

    Returns:
        A tracker that survives a server which is down: it warns, keeps and replays.
    """
    if not store_uri(config):
        return ParquetTracker(
            config.output_dir, run_name=run_name, run_id=run_id, parent_run_id=parent_run_id
        )
    _before_mlflow()
    from cvmae.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(config, run_name=run_name, run_id=run_id, parent_run_id=parent_run_id)


def _absolute(setting: str, uri: str) -> str:
    """Return a URI that means the same store in every process."""
    if not uri.startswith("sqlite"):
        # MLflow has given up folders, to which a name without a scheme is short.
        if uri.startswith("file:") or (uri and ":" not in uri and uri != "databricks"):
            parts = urlsplit(without_password(uri)) if uri.startswith("file:") else None
            path = resolved_path(unquote(parts.path or parts.netloc) if parts else uri)
            file = sqlite_uri(path if Path(path).suffix else f"{path}/{DATABASE}")
            raise ValueError(
                f"{setting}={without_password(uri)!r} is a path, and MLflow keeps runs in "
                f"databases: give {file}, or the address of a server"
            )
        return uri
    if not (path := sqlite_path(uri)):
        raise ValueError(
            f"{setting}={without_password(uri)!r} names no file that all processes of a run could "
            "open: give sqlite:///FILE, with a fourth slash where FILE is an absolute path"
        )
    if runs_in_a_copy() and not Path(path).expanduser().is_absolute():
        raise ValueError(
            f"{setting}={uri!r} is relative, and this job runs in Ray's copy of the folder that it "
            "was submitted from, which Ray removes: give a fourth slash and an absolute path"
        )
    return sqlite_uri(resolved_path(path), like=uri)


def _in_folder(output_dir: str) -> str:
    return "" if is_remote(output_dir) else sqlite_uri(f"{resolved_path(output_dir)}/{DATABASE}")


def _before_mlflow() -> None:
    """Set what MLflow reads of the environment when it is imported."""
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
