"""How many workers a run may have, and what is said when there are too few nodes for them."""

import logging
import threading
from dataclasses import replace

import pytest

from cvmae.settings import ScalingConfig
from cvmae.train.pretrain import pretrain


def test_more_workers_than_lanes_are_refused_before_anything_is_started(tiny):
    scaling = replace(tiny.scaling, num_workers=5)
    with pytest.raises(ValueError, match=r"scaling\.num_workers=5 is more than data\.lanes=4"):
        pretrain(replace(tiny, scaling=scaling))


def watch(workers, config, looks, monkeypatch, caplog):
    """Let the driver look at nodes, once at each of several states of the cluster."""
    ended, looks = threading.Event(), list(looks)

    def nodes():
        if len(looks) == 1:
            ended.set()
        return looks.pop(0)

    monkeypatch.setattr(workers.ray, "nodes", nodes)
    monkeypatch.setattr(workers, "COUNT_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO, "cvmae"):
        workers._count_nodes(config, "cv", ended)


@pytest.mark.ray
def test_missing_nodes_are_told_once_and_so_is_their_return(tiny, monkeypatch, caplog):
    workers = pytest.importorskip("cvmae.train.workers")
    config = replace(tiny, scaling=ScalingConfig(num_workers=2, cpus_per_worker=2.0))
    alive, dead = ({"Alive": is_alive, "Resources": {"CPU": 3.0}} for is_alive in (True, False))
    looks = [[alive, alive], [alive, dead], [alive, dead], [dead, dead], [alive, alive]]
    watch(workers, config, looks, monkeypatch, caplog)
    missing, back = caplog.messages
    assert "cv waits for nodes" in missing
    assert "scaling.num_workers=2 it needs 2 workers" in missing
    assert "room for 1 (scaling.cpus_per_worker=2, scaling.use_gpu=False): add nodes" in missing
    assert f"--resume {config.output_dir} --scaling.num_workers 1" in missing
    assert back == "cv: there is room for its workers again"


@pytest.mark.ray
def test_nodes_of_other_labels_are_no_room_for_workers_or_readers(tiny, monkeypatch, caplog):
    workers = pytest.importorskip("cvmae.train.workers")
    scaling = ScalingConfig(
        num_workers=2, worker_labels=("pool=gpu",), data_labels=("pool=cpu", "zone=a")
    )
    reader, rank = (
        {"Alive": True, "Resources": {"CPU": 3.0}, "Labels": labels}
        for labels in ({"pool": "cpu", "zone": "a"}, {"pool": "gpu"})
    )
    looks = [[reader, rank], [rank, rank], [reader, rank], [reader, reader]]
    watch(workers, replace(tiny, scaling=scaling), looks, monkeypatch, caplog)
    unread, back, missing = caplog.messages
    assert unread == (
        "cv waits for nodes: none that is left has a whole CPU for Ray Data "
        "(scaling.data_labels=pool=cpu zone=a) beside 2 workers (scaling.cpus_per_worker=0.25): "
        "add one"
    )
    assert back == "cv: there is room for its workers again"
    assert "room for 0 (" in missing
    assert "scaling.worker_labels=pool=gpu): add nodes" in missing


@pytest.mark.ray
def test_parts_of_cpus_on_several_nodes_are_no_room_for_readers(tiny, monkeypatch, caplog):
    workers = pytest.importorskip("cvmae.train.workers")
    head, host = (
        {"Alive": True, "Resources": resources}
        for resources in ({"CPU": 1.0}, {"CPU": 1, "GPU": 1})
    )
    config = replace(tiny, scaling=ScalingConfig(num_workers=4, use_gpu=True))
    watch(workers, config, [[head, *[host] * 4], [host] * 4], monkeypatch, caplog)
    assert caplog.messages == [
        "cv waits for nodes: none that is left has a whole CPU for Ray Data "
        "(scaling.data_labels=any) beside 4 workers (scaling.cpus_per_worker=0.25): add one, or "
        f"end it and go on with --resume {config.output_dir} --scaling.num_workers 3"
    ]


@pytest.mark.ray
def test_an_elastic_run_goes_on_where_some_workers_leave_room(tiny, monkeypatch, caplog):
    workers = pytest.importorskip("cvmae.train.workers")
    scaling = ScalingConfig(num_workers=4, min_workers=2, use_gpu=True)
    head, host = (
        {"Alive": True, "Resources": resources}
        for resources in ({"CPU": 1.0}, {"CPU": 1, "GPU": 1})
    )
    looks = [[head, *[host] * 4], [head, *[host] * 2], [head, host]]
    watch(workers, replace(tiny, scaling=scaling), looks, monkeypatch, caplog)
    (missing,) = caplog.messages
    assert "scaling.min_workers=2 it needs 2 workers" in missing
    assert "room for 1 (" in missing
