"""Work goes to nodes with the labels asked for: readers to some, ranks and models to others."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cvmae.runtime.map_units import map_units, map_with
from cvmae.runtime.start_ray import start_ray
from cvmae.settings import ScalingConfig
from cvmae.train import workers
from cvmae.train.pretrain import pretrain

ray = pytest.importorskip("ray")
from ray import cloudpickle  # noqa: E402

from tests.integration.ray_cluster import cluster_of  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.survival]

# Workers run what is defined here; their processes need not find this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

MIXED = ScalingConfig(num_workers=2, worker_labels=("pool=gpu",), data_labels=("pool=cpu",))


@pytest.fixture(scope="module")
def pool_of():
    """A node of each pool; the pool of a node by its id."""
    labels = [{"pool": "cpu"}, {"pool": "gpu"}]
    with cluster_of(2, labels=labels):
        yield {node["NodeID"]: node["Labels"].get("pool", "") for node in ray.nodes()}


def node_of(_: int = 0) -> str:
    return str(ray.get_runtime_context().get_node_id())


def node_for_all() -> Callable[[int], str]:
    return node_of


def noted(folder: Path, work: Any, loop_config: Any) -> Any:
    (folder / node_of()).touch()
    return work(loop_config)


def test_tasks_run_on_data_nodes_and_models_on_worker_nodes(pool_of):
    tasks = map_units(node_of, range(6), MIXED, "tasks")
    assert {pool_of[node] for node in tasks} == {"cpu"}
    actors = map_with(node_for_all, range(6), MIXED, "models")
    assert {pool_of[node] for node in actors} == {"gpu"}


def test_labels_that_no_node_has_are_refused_before_anything_waits_for_them(pool_of):
    start_ray(MIXED)
    with pytest.raises(
        ValueError, match=r"data_labels=pool=data: no node .*none; pool=cpu; pool=gpu\)"
    ):
        start_ray(replace(MIXED, data_labels=("pool=data",)))


def test_ranks_train_on_worker_nodes_what_data_nodes_have_read(
    pool_of, tiny, watch, tmp_path, monkeypatch
):
    ranks = tmp_path / "ranks"
    ranks.mkdir()
    monkeypatch.setattr(workers, "_work", partial(noted, ranks, workers._work))
    run = pretrain(
        replace(tiny, train=replace(tiny.train, epochs=1), scaling=replace(MIXED, max_failures=0))
    )
    assert Path(run, "checkpoints").is_dir()
    assert {pool_of[path.name] for path in ranks.iterdir()} == {"gpu"}
    assert {pool_of[read.node_id] for read in watch.reads()} == {"cpu"}
