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


@pytest.mark.ray
def test_missing_nodes_are_told_once_and_so_is_their_return(tiny, monkeypatch, caplog):
    workers = pytest.importorskip("cvmae.train.workers")
    config = replace(tiny, scaling=ScalingConfig(num_workers=2, cpus_per_worker=2.0))
    alive, dead = ({"Alive": is_alive, "Resources": {"CPU": 3.0}} for is_alive in (True, False))
    looks = [[alive, alive], [alive, dead], [alive, dead], [dead, dead], [alive, alive]]
    ended = threading.Event()

    def nodes():
        if len(looks) == 1:
            ended.set()
        return looks.pop(0)

    monkeypatch.setattr(workers.ray, "nodes", nodes)
    monkeypatch.setattr(workers, "COUNT_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO, "cvmae"):
        workers._count_nodes(config, "cv", ended)
    missing, back = caplog.messages
    assert "cv waits for nodes" in missing
    assert "scaling.num_workers=2 it needs 2 workers" in missing
    assert "room for 1 (scaling.cpus_per_worker=2, scaling.use_gpu=False): add nodes" in missing
    assert f"--resume {config.output_dir} --scaling.num_workers 1" in missing
    assert back == "cv: there is room for its workers again"
