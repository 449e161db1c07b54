"""What an evaluation has shown, given to the runs in MLflow whose checkpoints it has read.

An evaluation writes all of it to its own folder, and nothing to those of the runs, which may be
another person's, or still be trained.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cvmae.config import Config, read_config, resolved_path
from cvmae.storage.folders import is_file, join, local_copy
from cvmae.tracking.journal import ABOUT, Journal
from cvmae.tracking.origin import first_line
from cvmae.tracking.store import before_mlflow, moved, named_store, store_uri

__all__ = ["PRIVATE", "RunResult", "give_to_runs", "run_folder_of", "run_settings"]

logger = logging.getLogger("cvmae")

PRIVATE = "predictions"  # a folder of an evaluation that names subjects, and stays where it is


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What one model has shown."""

    path: str  # of a run, or of a checkpoint in it
    metrics: Mapping[str, float]
    epoch: int  # after which its weights were saved


def give_to_runs(results: Sequence[RunResult], folder: str) -> None:
    """Add metrics to each run, and an evaluation's files to the run above it, or to itself.

    The files compare models, so they belong to the sweep where there is one. What cannot be given
    costs a warning.

    Args:
        results: Of every model; those of runs without MLflow are passed over.
        folder: That of the evaluation.
    """
    has_files: set[str] = set()
    for result in results:
        try:
            _give(result, folder, has_files)
        except Exception as error:
            logger.warning(
                "MLflow is not told what the evaluation shows of %s (%s: %s); all of it is in %s",
                result.path,
                type(error).__name__,
                first_line(error),
                folder,
            )
            if not isinstance(error, LookupError):
                return  # a store that is down would be waited for again and again


def _give(result: RunResult, folder: str, has_files: set[str]) -> None:
    run_dir = run_folder_of(resolved_path(result.path))
    config = run_settings(run_dir) if run_dir else None
    if config is None or not store_uri(config):
        return
    before_mlflow()
    from cvmae.tracking.mlflow_results import send_files, send_metrics

    target = send_metrics(config, Journal(run_dir).about.key, result.metrics, result.epoch)
    if target not in has_files:
        send_files(config, target, folder, leave_out=PRIVATE)
        has_files.add(target)


def run_folder_of(path: str) -> str:
    """Return the folder of the run to which a path belongs, '' where none has a journal."""
    above = path.rstrip("/").rpartition("/checkpoints/")[0]
    return next((p for p in (path, above) if p and is_file(join(p, ABOUT))), "")


def run_settings(run_dir: str) -> Config | None:
    """Return the settings of a run where its folder lies now, None where there are none."""
    place = join(run_dir, "config.yaml")
    if not is_file(place):
        return None
    with local_copy(place) as path:
        return named_store(moved(read_config(path), run_dir))
