"""What workers on Ray are given, and what Ray may show of it."""

from dataclasses import replace

import numpy as np
import pytest

from cvmae.meds.dataset import Source, open_dataset
from tests.prepared import training_data

pytestmark = pytest.mark.ray


class _BuiltError(Exception):
    """The trainer has been given all that it needs."""


def test_what_ray_shows_of_a_run_names_no_subject_and_no_password(tiny, monkeypatch):
    workers = pytest.importorskip("cvmae.train.workers")
    schema = pytest.importorskip("ray.train.v2._internal.state.schema")
    uri = "https://me:hunter2@mlflow.example.org"
    config = replace(tiny, tracking=replace(tiny.tracking, uri=uri))
    source = Source(root=config.data.root, members={"train": np.array([7_700_001])})
    data = replace(training_data(config), source=source)

    def build(work, *, train_loop_config, **options):
        raise _BuiltError(train_loop_config)

    monkeypatch.setattr(workers, "brick_dataset", lambda reader, order, units: None)
    monkeypatch.setattr(workers, "InterruptibleTrainer", build)
    with pytest.raises(_BuiltError) as built:
        workers.train_on_ray(config, data, run_name="cv", key="", parent_run_id="")
    (loop_config,) = built.value.args
    shown = str(schema._to_json_serializable_value(loop_config)) + str(loop_config)
    assert "7700001" not in shown
    assert "hunter2" not in shown


def test_placement_and_labels_reach_ray_train_and_its_readers(tiny, monkeypatch):
    workers = pytest.importorskip("cvmae.train.workers")
    mixed = replace(
        tiny.scaling,
        num_workers=2,
        placement="spread",
        worker_labels=("pool=gpu", "zone=a"),
        data_labels=("pool=cpu",),
    )

    def build(work, **options):
        raise _BuiltError(options)

    monkeypatch.setattr(workers, "brick_dataset", lambda reader, order, units: None)
    monkeypatch.setattr(workers, "InterruptibleTrainer", build)
    with pytest.raises(_BuiltError) as built:
        workers.train_on_ray(
            replace(tiny, scaling=mixed), training_data(tiny), run_name="cv", key=""
        )
    (options,) = built.value.args
    scaling = options["scaling_config"]
    assert scaling.placement_strategy == "SPREAD"
    assert scaling.label_selector == {"pool": "gpu", "zone": "a"}
    read = options["dataset_config"]._resolve_execution_options("train")
    assert read.label_selector == {"pool": "cpu"}


def test_a_rank_tells_the_gauges_of_its_run(tiny, monkeypatch):
    workers = pytest.importorskip("cvmae.train.workers")
    given = {}
    job = workers._Job(
        config=tiny,
        data=training_data(tiny),
        run_name="cv",
        key="",
        parent_run_id="",
        attempt="",
        is_trial=False,
        labelled=None,
    )
    monkeypatch.setattr(workers, "_lessons", lambda job: None)
    monkeypatch.setattr(workers, "join_tracker", lambda config, **run: None)
    monkeypatch.setattr(workers, "train", lambda lessons, **kwargs: given.update(kwargs))
    workers._work({"job": job})
    assert isinstance(given["tell"], workers.RunGauges)
    assert given["tell"]._tags == {"run": "cv"}


def test_settings_and_data_sets_print_no_subject_and_no_password(tiny):
    uri = "https://me:hunter2@mlflow.example.org"
    assert "hunter2" not in repr(replace(tiny, tracking=replace(tiny.tracking, uri=uri)))
    dataset = open_dataset(tiny.data.root)
    shown = repr((dataset, training_data(tiny).fitted.unit_index.units))
    assert "members" not in shown
    assert "subject" not in shown
