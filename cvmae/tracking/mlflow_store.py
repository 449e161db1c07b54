"""The MLflow store itself: its database, its experiment, and where its artifacts lie."""

import contextlib
import logging
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from cvmae.config import Config, without_password
from cvmae.tracking.mlflow_page import VIEW_TAG, view
from cvmae.tracking.origin import first_line
from cvmae.tracking.sqlite import sqlite_path

__all__ = [
    "KEY_TAG",
    "PARENT_TAG",
    "find_or_create_experiment",
    "find_run",
    "prepare_mlflow_store",
    "warn_down",
]

logger = logging.getLogger("cvmae")

ARTIFACTS = "mlartifacts"  # beside a SQLite database
KEY_TAG, PARENT_TAG = "cvmae.run_key", "mlflow.parentRunId"
EXPERIMENT_TAGS = {
    "mlflow.note.content": "Pretraining by cvmae: a run for each model, above them their sweep.",
}

for _noisy in ("mlflow", "alembic"):  # a screen of migrations for every new database
    logging.getLogger(_noisy).setLevel(logging.WARNING)
# Its lines on repeated requests say in other words what `warn_down` does.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


class _DeletedExperimentError(ValueError):
    """The experiment is one that takes no runs any more."""


def prepare_mlflow_store(config: Config) -> None:
    """Create database and experiment where missing; let a database that was moved know its place.

    A server that does not answer is only warned of: it may be back before the run ends.

    Raises:
        ValueError: `tracking.uri` names no store that MLflow can open, or the experiment was
            deleted.
    """
    uri = config.tracking.uri
    database = sqlite_path(uri)
    try:
        experiment_id = find_or_create_experiment(uri, config.tracking.experiment)
        if database:
            _follow(Path(database), experiment_id)
    except _DeletedExperimentError:
        raise
    except Exception as error:
        if not uri.startswith(("http://", "https://")):
            raise ValueError(
                f"tracking.uri={without_password(uri)!r} (or MLFLOW_TRACKING_URI) cannot be opened "
                f"by MLflow: {first_line(error)}; give sqlite:///FILE, the address of a server, "
                "or leave it empty for a database in the output folder"
            ) from error
        warn_down(uri, error)


def find_or_create_experiment(uri: str, name: str) -> str:
    """Return the id of an experiment.

    Raises:
        ValueError: It was deleted.
    """
    location = None
    if database := sqlite_path(uri):
        # MLflow's default would be ./mlruns of whichever process creates the experiment.
        folder = Path(database).parent
        folder.mkdir(parents=True, exist_ok=True)
        location = (folder / ARTIFACTS).as_uri()
    client = MlflowClient(tracking_uri=uri)
    if (experiment := client.get_experiment_by_name(name)) is None:
        if database:
            (folder / ARTIFACTS).mkdir(exist_ok=True)  # `_follow` tells by it where runs write
        try:
            tags = EXPERIMENT_TAGS | {VIEW_TAG: view()}
            return str(client.create_experiment(name, location, tags=tags))
        except MlflowException:
            # Another driver of the same server may have been first.
            if (experiment := client.get_experiment_by_name(name)) is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise _DeletedExperimentError(
            f"tracking.experiment={name!r} was deleted from {without_password(uri)}, and takes no "
            f"runs: bring it back with MLFLOW_TRACKING_URI={without_password(uri)} mlflow "
            f"experiments restore -x {experiment.experiment_id}, or give another "
            "--tracking.experiment"
        )
    if experiment.tags.get(VIEW_TAG) != view():  # of another program, or an earlier version
        with contextlib.suppress(MlflowException):
            client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, view())
    return str(experiment.experiment_id)


def _follow(database: Path, experiment_id: str) -> None:
    """Let our experiment name its artifacts' present place if its database was moved with them.

    MLflow notes absolute places of artifacts and has no call that changes them, so that a moved
    run would write to where its folder was, and show none of what it had kept. Places of other
    experiments, of other stores, and those that are still there are left alone.
    """
    here = database.parent / ARTIFACTS
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        (old,) = connection.execute(
            "SELECT artifact_location FROM experiments WHERE experiment_id = ?", (experiment_id,)
        ).fetchone()
        is_ours = str(old).startswith("file:///") and str(old).endswith(f"/{ARTIFACTS}")
        if not is_ours or Path(unquote(urlsplit(old).path)).exists() or not here.is_dir():
            return
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE experiment_id = ? AND substr({column} || '/', 1, ?) = ?",
                (here.as_uri(), len(old) + 1, experiment_id, len(old) + 1, f"{old}/"),
            )


def find_run(client: MlflowClient, experiment_id: str, key: str) -> Run | None:
    """Return the run of a journal's key, None where there is none."""
    wanted = f"tags.`{KEY_TAG}` = '{key}'"
    found = client.search_runs([experiment_id], filter_string=wanted, max_results=1)
    return found[0] if found else None


def warn_down(uri: str, error: Exception) -> None:
    """Warn that a store does not take what is logged."""
    logger.warning(
        "MLflow at %s does not answer (%s); training goes on, and what is logged is kept in the "
        "run's folder and sent when MLflow is back",
        without_password(uri),
        first_line(error),
    )
