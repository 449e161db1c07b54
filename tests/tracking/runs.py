"""What tests of tracking log and read."""

import multiprocessing
from collections.abc import Callable

import matplotlib.figure

from cvmae.config import Config, override
from cvmae.tracking import store as tracking

WRITERS, STEPS = 3, 20


def read_points(store, run_id, name="loss"):
    from mlflow import MlflowClient

    return [(m.step, m.value) for m in MlflowClient(store).get_metric_history(run_id, name)]


def read_run(store, run_id):
    from mlflow import MlflowClient

    return MlflowClient(store).get_run(run_id)


def read_files(store, run_id, folder):
    from mlflow import MlflowClient

    return [item.path for item in MlflowClient(store).list_artifacts(run_id, folder)]


def draw_line(end=1):
    figure = matplotlib.figure.Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, end])
    return figure


def write_a_trial(config: Config, number: int, parent: str) -> None:
    """Log a whole run, as fast as it goes."""
    config = override(config, {"output_dir": f"{config.output_dir}/{number}"})
    tracker = tracking.open_tracker(config, run_name=f"trial {number}", parent_run_id=parent)
    tracker.log_params({"number": number})
    tracker.log_dataset({"name": "d", "digest": "1", "source_type": "local", "source": "{}"})
    for step in range(STEPS):
        tracker.log_metrics({"loss": number + step, "other": 1.0}, step=step)
    tracker.log_table({"code": ["a"], "r2": [float(number)]}, "codes")
    tracker.close("FINISHED")


def write_trials_at_once(
    config: Config, parent: str, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Log several runs from as many processes; meanwhile, call a function."""
    spawn = multiprocessing.get_context("spawn")
    writers = [
        spawn.Process(target=write_a_trial, args=(config, number, parent))
        for number in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    meanwhile()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS


def assert_all_is_there(config: Config, parent: str) -> None:
    """Each run is there once, closed, with all that was logged, below its parent."""
    from mlflow import MlflowClient

    store = config.tracking.uri
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(config.tracking.experiment).experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert sorted(run.info.run_name for run in found) == [f"trial {n}" for n in range(WRITERS)]
    for run in found:
        number = int(run.data.params["number"])
        points = read_points(store, run.info.run_id)
        assert points == [(step, number + step) for step in range(STEPS)]
        assert len(read_points(store, run.info.run_id, "other")) == STEPS
        assert run.info.status == "FINISHED"
        assert [entry.dataset.digest for entry in run.inputs.dataset_inputs] == ["1"]
        assert read_files(store, run.info.run_id, "tables") == ["tables/codes.json"]
