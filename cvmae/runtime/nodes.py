"""Nodes of a cluster: which have the labels asked for, and how many workers they have room for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cvmae.runtime.tables import counted
from cvmae.settings import ScalingConfig

__all__ = [
    "OF_ONE_NODE",
    "Node",
    "check_labels",
    "check_room",
    "selector",
    "with_labels",
    "workers_beside_data",
    "workers_taken",
    "workers_that_fit",
]

OF_ONE_NODE = "ray.io/node-id"  # a label that Ray gives each, of no use to choose by
SHOWN_NODES = 8


@dataclass(frozen=True)
class Node:
    """What a node of a cluster that is alive has."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def cpus(self) -> float:
        """Return its logical CPUs."""
        return self.resources.get("CPU", 0.0)


def selector(labels: Sequence[str]) -> dict[str, str]:
    """Return labels that are given as KEY=VALUE as Ray takes them.

    Example:
        >>> selector(["pool=cpu", "ray.io/market-type=spot"])
        {'pool': 'cpu', 'ray.io/market-type': 'spot'}
    """
    return dict(label.split("=", 1) for label in labels)


def with_labels(nodes: Iterable[Node], labels: Sequence[str]) -> list[Node]:
    """Return the nodes that have all of the labels."""
    wanted = selector(labels).items()
    return [node for node in nodes if wanted <= node.labels.items()]


def workers_that_fit(nodes: Iterable[Node], scaling: ScalingConfig) -> int:
    """Return how many workers the nodes could hold if nothing else ran there.

    Args:
        nodes: Those that are alive.
        scaling: What a worker reserves, which cannot be divided between nodes, and what labels
            its node has.

    Example:
        >>> nodes = [Node({"CPU": 3.0}), Node({"CPU": 5.0})]
        >>> workers_that_fit(nodes, ScalingConfig(cpus_per_worker=2))
        3
    """
    wanted = {"CPU": scaling.cpus_per_worker} | ({"GPU": 1.0} if scaling.use_gpu else {})
    return sum(
        min(int(node.resources.get(name, 0.0) / share + 1e-9) for name, share in wanted.items())
        for node in with_labels(nodes, scaling.worker_labels)
    )


def workers_beside_data(nodes: Sequence[Node], scaling: ScalingConfig) -> int:
    """Return how many workers fit if one node keeps a whole CPU for Ray Data."""
    rooms = [0]
    for place, node in enumerate(nodes):
        if node.cpus >= 1 and with_labels([node], scaling.data_labels):
            rest = Node({**node.resources, "CPU": node.cpus - 1}, node.labels)
            rooms.append(workers_that_fit([*nodes[:place], rest, *nodes[place + 1 :]], scaling))
    return max(rooms)


def workers_taken(nodes: Iterable[Node], scaling: ScalingConfig) -> int:
    """Return how many workers a run would take: an elastic one as many as there is room for."""
    least = scaling.min_workers or scaling.num_workers
    return max(least, min(scaling.num_workers, workers_that_fit(nodes, scaling)))


def check_labels(scaling: ScalingConfig, nodes: Sequence[Node]) -> None:
    """Refuse work for nodes that are not there, which Ray would wait for without a word.

    Raises:
        ValueError: No node has the labels; the message names the setting and the labels that there
            are.
    """
    for name in ("worker_labels", "data_labels"):
        labels = getattr(scaling, name)
        if not with_labels(nodes, labels):
            raise ValueError(
                f"scaling.{name}={' '.join(labels)}: no node of the cluster has "
                f"{'these labels' if len(labels) > 1 else 'this label'} ({_told_labels(nodes)}): "
                f"start one with `ray start --labels {','.join(labels)}`, or change the setting"
            )


def check_room(scaling: ScalingConfig, nodes: Sequence[Node]) -> None:
    """Refuse workers beside which no node keeps a whole CPU for Ray Data, which would wait for it.

    CPUs that are free on several nodes are of no use to a task that takes a whole one.

    Raises:
        ValueError: There is no room; the message shows the arithmetic.
    """
    wanted, room = workers_taken(nodes, scaling), workers_beside_data(nodes, scaling)
    if room >= wanted:
        return
    each = (
        f"(scaling.cpus_per_worker={scaling.cpus_per_worker:g}, scaling.use_gpu={scaling.use_gpu})"
    )
    if scaling.worker_labels or scaling.data_labels:
        raise ValueError(
            f"scaling.worker_labels={_told(scaling.worker_labels)} and scaling.data_labels="
            f"{_told(scaling.data_labels)}: beside 1 whole CPU for Ray Data on a node with the "
            f"latter, nodes with the former have room for {counted(room, 'worker')} of {wanted} "
            f"{each}: give more nodes these labels, or lower scaling.num_workers"
        )
    most = max((node.cpus for node in nodes), default=0.0)
    raise ValueError(
        f"scaling.num_workers={scaling.num_workers}: beside 1 whole CPU for Ray Data on one node, "
        f"the nodes ({len(nodes)}, of {most:g} CPUs at most) have room for "
        f"{counted(room, 'worker')} of {wanted} {each}: lower scaling.num_workers or "
        "scaling.cpus_per_worker, or add a node with CPUs"
    )


def _told(labels: Sequence[str]) -> str:
    return " ".join(labels) or "(any node)"


def _told_labels(nodes: Sequence[Node]) -> str:
    """Say which labels nodes have, each set of them once."""
    sets = sorted(
        {
            ",".join(f"{k}={v}" for k, v in sorted(node.labels.items()) if k != OF_ONE_NODE)
            for node in nodes
        }
    )
    shown = "; ".join(labels or "none" for labels in sets[:SHOWN_NODES])
    return f"labels there: {shown}" + ("; ..." if len(sets) > SHOWN_NODES else "")
