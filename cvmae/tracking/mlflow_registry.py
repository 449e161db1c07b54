"""MLflow's registry: a new version of a model, and a model on its way back."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from cvmae.config import without_password
from cvmae.storage.safe_names import safe_name
from cvmae.tracking.mlflow_store import find_or_create_experiment, find_run
from cvmae.tracking.origin import first_line, origin_tags

__all__ = ["CHALLENGER", "CHAMPION", "add_version", "downloaded"]

CHAMPION, CHALLENGER = "champion", "challenger"
LONGEST = 5000  # characters of a description that MLflow's database holds
FOLDER = "registered"  # among the artifacts of a run


def add_version(
    uri: str,
    experiment: str,
    name: str,
    packed: Path,
    *,
    run: tuple[str, str],
    description: str,
    tags: Mapping[str, str],
) -> tuple[str, str]:
    """Register an MLflow model under a name; return its version and alias.

    The first of a name is its champion. Later ones are its challenger: which of them others use is
    for a person to say.

    Args:
        uri: Of the store.
        experiment: In it, which is created where it is missing.
        name: Of the registered model.
        packed: Folder of the MLflow model.
        run: Experiment and key of the journal of the run that trained it; where the store has none
            such, a run is made for it.
        description: In Markdown.
        tags: Of the version.

    Raises:
        Exception: Whatever MLflow raises where it cannot.
    """
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment_id = find_or_create_experiment(uri, experiment)
    if trained := _find(client, *run):
        return _add_version(client, trained, name, packed, description, tags)
    own = client.create_run(experiment_id, run_name=name, tags=origin_tags())
    try:
        added = _add_version(client, own, name, packed, description, tags)
    except BaseException:
        client.set_terminated(own.info.run_id, "FAILED")
        raise
    client.set_terminated(own.info.run_id)
    return added


def _find(client: MlflowClient, experiment: str, key: str) -> Run | None:
    found = client.get_experiment_by_name(experiment) if key else None
    return find_run(client, found.experiment_id, key) if found else None


def _add_version(
    client: MlflowClient,
    run: Run,
    name: str,
    packed: Path,
    description: str,
    tags: Mapping[str, str],
) -> tuple[str, str]:
    # A place of its own: an earlier version of the same run stays as it is.
    place = f"{FOLDER}/{safe_name(name, plus=False)}_{uuid.uuid4().hex[:8]}"
    client.log_artifacts(run.info.run_id, str(packed), place)
    try:
        registered = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        registered = client.create_registered_model(name)
    version = client.create_model_version(
        name,
        f"{run.info.artifact_uri.rstrip('/')}/{place}",
        run_id=run.info.run_id,
        tags=dict(tags),
        description=description[:LONGEST],
    ).version
    alias = CHALLENGER if CHAMPION in registered.aliases else CHAMPION
    client.set_registered_model_alias(name, alias, version)
    return str(version), alias


@contextmanager
def downloaded(address: str) -> Iterator[Path]:
    """Yield a folder of this machine with what MLflow has under an address, while the block lasts.

    Args:
        address: ``models:/...`` or ``runs:/...``, in the store that this process has named to
            MLflow.

    Raises:
        ValueError: No store was named, or it has no such thing.
    """
    if not mlflow.is_tracking_uri_set():  # type: ignore[no-untyped-call]
        raise ValueError(
            f"{address}: which MLflow has it is not said: set MLFLOW_TRACKING_URI to "
            "sqlite:///FILE or the address of a server"
        )
    with TemporaryDirectory(prefix="cvmae_") as scratch:
        try:
            found = mlflow.artifacts.download_artifacts(address, dst_path=scratch)
        except (MlflowException, OSError) as error:
            raise ValueError(
                f"{address} cannot be had from MLflow at "
                f"{without_password(mlflow.get_tracking_uri())} ({first_line(error)}): give a "
                "version or an alias that is there, such as models:/NAME@champion"
            ) from None
        yield Path(found)
