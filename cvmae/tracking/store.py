"""Which store a run's metrics go to: named once, on the driver, and opened under that name.

Every run writes a journal into its own folder. Runs in the calling process
(``scaling.num_workers=0``) need nothing but pyarrow and leave it at that; for runs on Ray, MLflow
is a mirror of the journal. Object storage holds no SQLite, so that runs whose folder is there have
no mirror, unless a store is given.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cvmae.config import Config, flatten, override, resolved_path, without_password
from cvmae.runtime.submitted import runs_in_a_copy
from cvmae.storage.folders import is_file, join
from cvmae.storage.places import is_remote
from cvmae.tracking.journal import ABOUT, RUNNING, About, Journal
from cvmae.tracking.origin import WORKER_HOST, begun_or_resumed, host, origin_tags
from cvmae.tracking.sqlite import sqlite_path, sqlite_uri
from cvmae.tracking.tracker import Mirror, Status, Tracker

__all__ = [
    "DATABASE",
    "before_mlflow",
    "close_run",
    "experiment_page",
    "join_tracker",
    "moved",
    "name_store",
    "named_store",
    "open_tracker",
    "prepare_store",
    "require_database_folder",
    "store_uri",
]

logger = logging.getLogger("cvmae")

DATABASE = "mlflow.db"
DESCRIPTION = "mlflow.note.content"

# Before MLflow is imported: it reports its use over the network unless told not to, and it
# waits minutes for a server that is down, during which every other rank would wait too.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def name_store(config: Config) -> Config:
    """Return settings of a run that begins or goes on, as `named_store` does.

    Raises:
        ValueError: Likewise, or a database that is given would lie in a folder that is not there:
            it would be made with it, where nobody looks for it.
    """
    named = named_store(config)
    if store_uri(named):
        require_database_folder(config, named.tracking.uri)
    return named


def require_database_folder(config: Config, uri: str) -> None:
    """Refuse a database in a folder that is not there.

    Args:
        config: As it was given, with or without `tracking.uri`.
        uri: Of the store, as `named_store` names it.

    Raises:
        ValueError: See `name_store`.
    """
    folder = Path(sqlite_path(uri) or "/").parent
    if folder.is_dir() or folder.is_relative_to(resolved_path(config.output_dir)):
        return
    shown = f"{'tracking.uri' if config.tracking.uri else 'MLFLOW_TRACKING_URI'}={uri!r}"
    if config.resume:
        raise ValueError(
            f"{shown}: the folder {folder} of that database is gone, and a new one would lack what "
            "the run has written; say where it lies now with --tracking.uri sqlite:///FILE"
        )
    raise ValueError(
        f"{shown}: there is no folder {folder}, where MLflow's database would be: create it, or "
        "mend the address"
    )


def named_store(config: Config) -> Config:
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
    elif own != without_password(own):
        logger.warning(
            "tracking.uri holds a password or a query, which other users see in the machine's list "
            "of processes and the cluster's list of jobs: set MLFLOW_TRACKING_URI, or "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, in the environment instead"
        )
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
    """Return the MLflow tracking URI of a run after `name_store`; '' where MLflow is not used."""
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
        before_mlflow()
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
    config: Config, *, run_name: str, parent_run_id: str = "", description: str = ""
) -> Tracker:
    """Open the run of ``config.output_dir``, creating it where there is none.

    Args:
        config: After `name_store`; decides whether MLflow shows the run, too.
        run_name: What a person sees in a list of runs.
        parent_run_id: `Tracker.run_id` of the sweep to which this one belongs.
        description: What a person reads first on the run's page, in Markdown.

    Raises:
        OSError: The folder cannot be written to.
    """
    journal = Journal(resolved_path(config.output_dir))
    about = journal.about
    tags = begun_or_resumed(origin_tags(), about.tags)
    texts = {about.run_name: run_name}
    if description:
        tags[DESCRIPTION] = description
        texts[about.tags.get(DESCRIPTION, "")] = description
    replaced = {old for old, new in texts.items() if old and old != new}
    journal.change(
        run_name=run_name,
        parent_run_id=parent_run_id or about.parent_run_id,
        former=sorted({*about.former} | replaced),
        tags=tags,
        status=RUNNING,
        ended_ms=0,
    )
    journal.forget_pending()
    mirror = _mirror(config)
    if mirror:
        mirror.update(journal)
    return Tracker(journal, mirror)


def join_tracker(config: Config, *, run_name: str, key: str, parent_run_id: str) -> Tracker:
    """Open a run that the driver has begun, in the worker that logs for all; its node is watched.

    Of the journal it writes the metrics only. Call `Tracker.leave` in the end.

    Args:
        config: As the driver has it.
        run_name: As it was opened.
        key: `Tracker.key` of the driver's, since a shared folder may show its journal late.
        parent_run_id: As it was opened.
    """
    about = About(key=key, run_name=run_name, parent_run_id=parent_run_id)
    journal = Journal(resolved_path(config.output_dir), about)
    mirror, watch = _mirror(config, {WORKER_HOST: host()}), None
    if mirror:
        from cvmae.tracking.node_watch import PREFIX, NodeWatch

        steps = journal.last_steps().items()
        watch = NodeWatch(1 + max((s for name, s in steps if name.startswith(PREFIX)), default=-1))
    return Tracker(journal, mirror, watch)


def close_run(config: Config, status: Status) -> bool:
    """Close the run of a folder whose process is gone, and let MLflow have what it lacks of it.

    A run that has ended stays as it ended; where the folder holds none, nothing is done. A store
    that has just failed is not asked, and one of a killed run only once: a person waits.

    Returns:
        Whether MLflow has all of it, or need not have any.
    """
    folder = resolved_path(config.output_dir)
    if not is_file(join(folder, ABOUT)):
        return True
    journal, mirror = Journal(folder), _mirror(config)
    is_asked = mirror is None or not mirror.has_just_failed
    tracker, is_patient = Tracker(journal, mirror if is_asked else None), status != "KILLED"
    if journal.about.status == RUNNING:
        return tracker.close(status, patient=is_patient) and is_asked
    return tracker.settle(patient=is_patient) and is_asked


def experiment_page(config: Config) -> str:
    """Return where a browser shows the experiment, which is created where it is missing."""
    before_mlflow()
    from cvmae.tracking import mlflow_page, mlflow_store

    uri = config.tracking.uri
    experiment_id = mlflow_store.find_or_create_experiment(uri, config.tracking.experiment)
    return mlflow_page.experiment_page(uri, experiment_id)


def _mirror(config: Config, tags: Mapping[str, str] | None = None) -> Mirror | None:
    if not store_uri(config):
        return None
    before_mlflow()
    from cvmae.tracking.mlflow_mirror import MlflowMirror

    return MlflowMirror(config, tags or {})


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


def before_mlflow() -> None:
    """Set what MLflow reads of the environment when it is imported."""
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
