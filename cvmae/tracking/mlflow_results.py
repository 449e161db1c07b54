"""Results of an evaluation on their way to MLflow."""

from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric

from cvmae.config import Config
from cvmae.storage.folders import local_copy
from cvmae.tracking.journal import now_ms
from cvmae.tracking.mlflow_store import PARENT_TAG, find_run
from cvmae.tracking.sqlite import sqlite_path

__all__ = ["send_files", "send_metrics"]


def send_metrics(config: Config, key: str, metrics: Mapping[str, float], epoch: int) -> str:
    """Add metrics to a run; return the run above it, or itself where there is none.

    A later evaluation adds a later value, which MLflow shows.

    Args:
        config: Of the run.
        key: Of the run's journal.
        metrics: By name.
        epoch: Which becomes the step.

    Raises:
        LookupError: MLflow has no such run, or its database is gone.
    """
    if (database := sqlite_path(config.tracking.uri)) and not Path(database).is_file():
        raise LookupError(f"there is no {database} (any more); --resume of the run writes it")
    client = MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    run = find_run(client, experiment.experiment_id, key) if experiment else None
    if run is None:
        raise LookupError("it has no such run; --resume of the run sends it")
    time_ms, run_id = now_ms(), str(run.info.run_id)
    points = [Metric(name, value, time_ms, epoch) for name, value in metrics.items()]
    client.log_batch(run_id, metrics=points)
    return str(run.data.tags.get(PARENT_TAG, run_id))


def send_files(config: Config, run_id: str, folder: str, *, leave_out: str) -> None:
    """Add the files of an evaluation to a run's artifacts, in a folder of the same name.

    Args:
        config: Of the run.
        run_id: Of the run.
        folder: That of the evaluation.
        leave_out: Name of what in it is not added.
    """
    client = MlflowClient(tracking_uri=config.tracking.uri)
    with local_copy(folder) as path:
        for entry in sorted(Path(path).iterdir()):
            if entry.name != leave_out:
                client.log_artifact(run_id, str(entry), f"evaluations/{Path(folder).name}")
