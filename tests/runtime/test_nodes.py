"""Which nodes have the labels asked for, and whether there is room on them."""

import re

import pytest

from cvmae.config import PRESETS, override
from cvmae.runtime.nodes import Node, workers_beside_data, workers_that_fit
from cvmae.runtime.start_ray import check_nodes
from cvmae.settings import ScalingConfig

OWN_ID = {"ray.io/node-id": "0123abcd"}  # which every node has
CPU_NODE = Node({"CPU": 2.0}, OWN_ID | {"pool": "cpu"})
GPU_NODE = Node({"CPU": 2.0, "GPU": 2.0}, OWN_ID | {"pool": "gpu", "zone": "a"})
MIXED = ScalingConfig(
    num_workers=2, use_gpu=True, worker_labels=("pool=gpu",), data_labels=("pool=cpu",)
)


def mixed(**changes):
    given = vars(MIXED) | changes
    return ScalingConfig(**given)


def test_a_worker_is_not_divided_between_nodes_and_needs_all_that_it_reserves():
    halves = ScalingConfig(cpus_per_worker=0.5, use_gpu=True)
    assert workers_that_fit([Node({"CPU": 8, "GPU": 2}), Node({"CPU": 1, "GPU": 4})], halves) == 4
    assert workers_that_fit([Node({"CPU": 8}), Node({})], halves) == 0
    assert workers_that_fit([Node({"CPU": 3})] * 2, ScalingConfig(cpus_per_worker=2.0)) == 2


def test_only_nodes_with_all_labels_hold_workers_and_readers():
    nodes = [CPU_NODE, GPU_NODE]
    check_nodes(MIXED, nodes)
    anywhere = mixed(use_gpu=False, worker_labels=(), data_labels=())
    assert workers_that_fit(nodes, anywhere) == 16
    assert workers_that_fit(nodes, mixed(use_gpu=False)) == 8
    assert workers_that_fit(nodes, mixed(worker_labels=("pool=gpu", "zone=b"))) == 0
    # What a reader takes is not there for workers, where both run on the same nodes.
    assert workers_beside_data(nodes, mixed(use_gpu=False)) == 8
    assert workers_beside_data(nodes, mixed(use_gpu=False, data_labels=("pool=gpu",))) == 4
    assert workers_beside_data([Node({"CPU": 0.5}, CPU_NODE.labels), GPU_NODE], MIXED) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"data_labels": ("pool=data",)},
            "scaling.data_labels=pool=data: no node of the cluster has this label (labels there: "
            "pool=cpu; pool=gpu,zone=a): start one with `ray start --labels pool=data`",
        ),
        (
            {"worker_labels": ("pool=gpu", "zone=b")},
            "scaling.worker_labels=pool=gpu zone=b: no node of the cluster has these labels",
        ),
        ({"num_workers": 3, "use_gpu": False, "cpus_per_worker": 1.0}, "room for 2 workers of 3"),
        ({"num_workers": 2, "worker_labels": ("pool=cpu",)}, "have room for 0 workers of 2"),
    ],
)
def test_work_for_nodes_that_are_not_there_is_refused_with_what_there_is(changes, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check_nodes(mixed(**changes), [CPU_NODE, GPU_NODE])


# A head without CPUs, and eight hosts with a GPU and a CPU each: quarters that eight workers leave
# free of each are six CPUs in all, and no task of a whole one fits.
HOSTS = [Node({"CPU": 0.0}), *[Node({"CPU": 1.0, "GPU": 1.0})] * 8]


@pytest.mark.parametrize(
    ("nodes", "scaling", "room"),
    [
        (HOSTS, ScalingConfig(num_workers=8, use_gpu=True), 7),
        # An elastic run would take every GPU that it finds.
        (HOSTS, ScalingConfig(num_workers=8, min_workers=2, use_gpu=True), 7),
        ([Node({"CPU": 0.5})] * 4, ScalingConfig(num_workers=2), 0),
        ([Node({"CPU": 2.0})] * 2, ScalingConfig(num_workers=2, cpus_per_worker=1.5), 1),
    ],
)
def test_workers_that_leave_no_node_a_whole_cpu_are_refused(nodes, scaling, room):
    said = (
        rf"scaling\.num_workers={scaling.num_workers}: beside 1 whole CPU .* room for {room} "
        rf"workers? of {scaling.num_workers} \(scaling\.cpus_per_worker={scaling.cpus_per_worker:g}"
    )
    with pytest.raises(ValueError, match=said):
        check_nodes(scaling, nodes)


@pytest.mark.parametrize(
    ("nodes", "scaling"),
    [
        (HOSTS, ScalingConfig(num_workers=7, use_gpu=True)),
        (HOSTS, ScalingConfig(num_workers=7, min_workers=2, use_gpu=True)),
        ([Node({"CPU": 1.0}), *HOSTS], ScalingConfig(num_workers=8, use_gpu=True)),
        # More are wanted than there is room for now: it begins with fewer.
        (
            [*HOSTS[:5], Node({"CPU": 2.0})],
            ScalingConfig(num_workers=8, min_workers=2, use_gpu=True),
        ),
        ([Node({"CPU": 8.0})], ScalingConfig(num_workers=10, cpus_per_worker=0.7)),
    ],
)
def test_workers_that_leave_one_are_taken(nodes, scaling):
    check_nodes(scaling, nodes)


def test_a_node_without_labels_is_told_as_such():
    with pytest.raises(ValueError, match=r"labels there: none\)"):
        check_nodes(MIXED, [Node({"CPU": 8.0, "GPU": 2.0}, OWN_ID)])


@pytest.mark.parametrize(
    "labels", [("pool",), ("=cpu",), ("pool=",), ("pool=!cpu",), ("pool=cpu", "pool=gpu")]
)
@pytest.mark.parametrize("name", ["worker_labels", "data_labels"])
def test_labels_that_are_none_are_refused(name, labels):
    with pytest.raises(ValueError, match=rf"scaling\.{name}='.*' is not allowed: give each KEY="):
        override(PRESETS["tiny"], {f"scaling.{name}": labels})
