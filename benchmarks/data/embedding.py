"""Embedding by a pool of actors against the loop in one process, over the same units."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.clock import median_ratio, progress
from benchmarks.epochs import TRAIN, Prepared, prepare
from benchmarks.processes import in_fresh_process
from benchmarks.rows import Row
from cvmae.arrays import Float32s
from cvmae.checkpoint import Loaded, Progress
from cvmae.config import PRESETS
from cvmae.infer.embed import embed_labels
from cvmae.meds.labels import Labels
from cvmae.model.vomae import build_model
from cvmae.runtime.logs import setup_logging
from cvmae.runtime.start_ray import start_ray
from cvmae.settings import ScalingConfig

__all__ = ["embedding_rows"]

MOST_MEASUREMENTS = 1_500_000  # about: half a minute of a process
LATE_US = 2**62  # after every row
HERE, POOL = ScalingConfig(num_workers=0), ScalingConfig(num_workers=2)
SMALL = PRESETS["small"].model


@dataclass(frozen=True, kw_only=True)
class EmbeddingCosts:
    """Wall seconds of each round, and what was different between both ways."""

    here: list[float]
    pool: list[float]
    start: float  # of a pool, with one unit's work
    num_changed: int  # numbers


def embedding_rows(folder: Path, hospital: str, num_rows: int, rounds: int) -> Iterator[Row]:
    """Measure a frozen model of preset small, by two actors and in process."""
    progress("embed: measuring in a process of its own, which starts Ray")
    costs = in_fresh_process(measure_embedding, hospital, min(rounds, 3))
    yield Row(
        suite="data",
        name="embed: speed of a pool of two actors, its start included, over one process, wall",
        value=median_ratio(costs.here, costs.pool),
        unit="x",
        goal=0.7,
        sense=">=",
        note=f"the process took {np.median(costs.here):.1f} s, two cores are needed",
    )
    yield Row(suite="data", name="embed: start of the pool, wall", value=costs.start, unit="s")
    yield Row(
        suite="data",
        name="embed: numbers that the pool changes",
        value=costs.num_changed,
        unit="numbers",
        goal=0,
    )


def measure_embedding(hospital: str, rounds: int) -> EmbeddingCosts:
    """Start Ray and measure; to be run in a fresh process."""
    setup_logging()
    os.environ.pop("RAY_ADDRESS", None)  # a cluster's processes are not ours to measure
    start_ray(POOL)
    prepared = prepare(hospital)
    network = build_model(SMALL, prepared.fitted.statistics.num_codes, seed=0)
    model = Loaded(
        model=network.eval(),
        config=replace(prepared.config, model=SMALL),
        fitted=prepared.fitted,
        progress=Progress(),
    )
    num_subjects = len(prepared.dataset.members[TRAIN])
    share = min(1.0, MOST_MEASUREMENTS / prepared.num_measurements)
    labels = _labels(prepared, max(1, round(share * num_subjects)))
    # One subject first: what is compiled and cached is so for both.
    timed(model, prepared, _labels(prepared, 1), HERE)
    start, _ = timed(model, prepared, _labels(prepared, 1), POOL)
    here, pool = [], []
    for _ in range(rounds):  # in turns, so that a busy machine is busy for both
        here.append(timed(model, prepared, labels, HERE))
        pool.append(timed(model, prepared, labels, POOL))
    return EmbeddingCosts(
        here=[taken for taken, _ in here],
        pool=[taken for taken, _ in pool],
        start=start,
        num_changed=int(np.count_nonzero(here[0][1] != pool[0][1])),
    )


def timed(
    model: Loaded, prepared: Prepared, labels: Labels, scaling: ScalingConfig
) -> tuple[float, Float32s]:
    """Return the wall seconds of a job, and what it has found."""
    begin = time.perf_counter()
    embeddings = embed_labels(
        model,
        prepared.dataset,
        labels,
        poolings=["mean"],
        scaling=scaling,
        unit_rows=prepared.config.data.unit_rows,
    )
    return time.perf_counter() - begin, embeddings.embedding_LD["mean"]


def _labels(prepared: Prepared, num_subjects: int) -> Labels:
    """Ask for the first subjects of train at the end of their rows."""
    subject_L = prepared.dataset.members[TRAIN][:num_subjects]
    return Labels(
        name="last",
        kind="boolean",
        subject_id_L=subject_L,
        time_us_L=np.full(len(subject_L), LATE_US),
        value_L=np.zeros(len(subject_L)),
    )
