"""Sections that the dry runs of several verbs share: the cluster, the data set, the output."""

import math
import os
from collections.abc import Iterator, Sequence

import torch

from cvmae.config import Config
from cvmae.meds.dataset import Dataset
from cvmae.meds.units import Unit, plan_units
from cvmae.plan.inputs import INPUTS
from cvmae.plan.lines import Line, Section
from cvmae.runtime.nodes import OF_ONE_NODE, Node, workers_beside_data
from cvmae.runtime.start_ray import check_nodes, nodes_without_start
from cvmae.runtime.tables import counted
from cvmae.settings import ScalingConfig
from cvmae.storage.folders import names

__all__ = [
    "cluster_section",
    "cores_here",
    "data_section",
    "nodes_of",
    "output_section",
    "passes_line",
]

SHOWN_NODES = 8


def cluster_section(
    scaling: ScalingConfig, *, trains: bool = False, num_at_once: int = 1
) -> Section:
    """Return what is asked of the cluster, and what nodes there are.

    Args:
        scaling: What is asked for.
        trains: Whether workers are ranks of Ray Train; else they are processes of Ray Data.
        num_at_once: Trials that run side by side.

    Raises:
        ValueError: It does not fit, as a real run would say.
    """
    if scaling.num_workers == 0:
        return Section(title="asked of this machine", lines=list(_lines_here(scaling)))
    nodes, is_there = nodes_without_start()
    check_nodes(scaling, nodes)
    lines = [*_worker_lines(scaling, num_at_once, trains=trains), *_data_lines(scaling)]
    here = f"which the run starts; it counts 8 CPUs at least, this machine has {os.cpu_count()}"
    where = "the running Ray" if is_there else f"a local Ray, {here}"
    lines.append(Line(name="nodes there are", value=len(nodes), why=where))
    lines += [_node_line(number, node) for number, node in enumerate(nodes[:SHOWN_NODES], start=1)]
    room = workers_beside_data(nodes, scaling)
    lines.append(
        Line(name="room for workers", value=room, why="if nothing else ran, beside 1 CPU for data")
    )
    return Section(title="asked of the cluster", lines=lines)


def nodes_of(scaling: ScalingConfig) -> list[Node]:
    """Return the nodes that work would find; none where all is in the calling process."""
    return nodes_without_start()[0] if scaling.num_workers else []


def cores_here(scaling: ScalingConfig) -> float:
    """Return the cores that work shares; infinite on a cluster, which is sized for it."""
    is_there = bool(scaling.num_workers) and nodes_without_start()[1]
    return math.inf if is_there else float(os.cpu_count() or 1)


def _lines_here(scaling: ScalingConfig) -> Iterator[Line]:
    yield Line(name="processes", value=1, why="this one, without Ray (scaling.num_workers=0)")
    found = torch.cuda.is_available()
    how = "one is used where there is one"
    if scaling.use_gpu and not found:
        how = "none is here: work is done on the CPU in spite of scaling.use_gpu=True"
    yield Line(name="GPUs", value=int(found), why=how)


def _worker_lines(scaling: ScalingConfig, num_at_once: int, *, trains: bool) -> Iterator[Line]:
    workers = scaling.num_workers * num_at_once
    how = f"scaling.num_workers={scaling.num_workers}"
    if num_at_once > 1:
        how += f" x {num_at_once} trials at a time"
    if trains and scaling.min_workers:
        how += f"; goes on with scaling.min_workers={scaling.min_workers} and more"
    yield Line(name="workers", value=workers, why=how)
    yield Line(
        name="CPUs of workers",
        value=workers * scaling.cpus_per_worker,
        why=f"{workers} x scaling.cpus_per_worker={scaling.cpus_per_worker:g}",
    )
    gpus = workers if scaling.use_gpu else 0
    yield Line(name="GPUs of workers", value=gpus, why=f"scaling.use_gpu={scaling.use_gpu}")
    labels = " ".join(scaling.worker_labels) or "any"
    yield Line(
        name="nodes of workers",
        value=labels,
        why=f"scaling.worker_labels; scaling.placement={scaling.placement}",
    )


def _data_lines(scaling: ScalingConfig) -> Iterator[Line]:
    yield Line(name="CPUs for data", value=1, why="a whole one at least; it takes what is free")
    labels = " ".join(scaling.data_labels) or "any"
    yield Line(name="nodes for data", value=labels, why="scaling.data_labels")


def _node_line(number: int, node: Node) -> Line:
    labels = [f"{k}={v}" for k, v in sorted(node.labels.items()) if k != OF_ONE_NODE]
    gpus = node.resources.get("GPU", 0.0)
    return Line(
        name=f"node {number}",
        value=f"{node.cpus:g} CPUs, {gpus:g} GPUs",
        why=f"labels: {' '.join(labels) or 'none'}",
    )


def data_section(dataset: Dataset, unit_rows: int) -> tuple[Section, tuple[Unit, ...]]:
    """Return how large a data set is, and the units that are read."""
    units = plan_units(dataset, unit_rows)
    rows = sum(shard.num_rows for shard in dataset.shards)
    size = sum(shard.size_bytes for shard in dataset.shards)
    subjects = ", ".join(f"{split} {n:,}" for split, n in dataset.num_subjects.items())
    lines = [
        Line(
            name="rows",
            value=rows,
            why=f"{counted(len(dataset.shards), 'shard')}, by their footers",
        ),
        Line(name="storage", value=size / 1e9, unit="GB", why="sizes of the shards"),
        Line(name="subjects", value=sum(dataset.num_subjects.values()), why=subjects),
        Line(name="units", value=len(units), why=f"a task each; data.unit_rows={unit_rows:,}"),
    ]
    return Section(title="the data set", lines=lines), units


def passes_line(dataset: Dataset, config: Config, *, checks: bool = False) -> Line:
    """Return what the two passes of fitting take, and before them the check of every row."""
    rows = sum(shard.num_rows for shard in dataset.shards)
    passes = [INPUTS[name] for name in (*["check"] * checks, "pass_1", "pass_2")]
    ns = " + ".join(f"{one.otherwise * 1e9:.3g}" for one in passes)
    seconds, why = rows * sum(one.otherwise for one in passes), f"rows x ({ns}) ns"
    if config.scaling.num_workers:
        tasks = len(passes) * len(plan_units(dataset, config.data.unit_rows))
        task = INPUTS["unit_cpu"].otherwise
        seconds, why = seconds + tasks * task, f"{why} + {tasks:,} tasks x {task * 1e3:.3g} ms"
    return Line(
        name="three passes over all rows" if checks else "two passes over all rows",
        value=seconds / 3600,
        unit="core hours",
        why=f"{why}, {passes[-1].source}",
    )


def output_section(config: Config, files: Sequence[tuple[str, str]]) -> Section:
    """Return where is written, and what.

    Args:
        config: With `output_dir` as an absolute path.
        files: Name and what is in it.
    """
    there = len(names(config.output_dir)) if config.output_dir else 0
    state = f"holds {counted(there, 'file or folder', 'files and folders')}" if there else "new"
    how = "continued by --resume" if config.resume else state
    return Section(
        title="output",
        lines=[
            Line(name="folder", value=config.output_dir or "none", why=how),
            *(Line(name="", value=name, why=what) for name, what in files),
        ],
    )
