"""Embedding by a pool of actors against the loop in one process, over the same units."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.clock import median_ratio, progress
from benchmarks.epochs import TRAIN, Prepared, prepare
from benchmarks.processes import in_fresh_process
from benchmarks.rows import Row
from cvmae.checkpoint import Loaded, Progress
from cvmae.config import PRESETS
from cvmae.infer.embed import embed_labels
from cvmae.meds.labels import Labels
from cvmae.model.vomae import build_model
from cvmae.runtime.logs import setup_logging
from cvmae.runtime.start_ray import start_ray
from cvmae.settings import ScalingConfig

__all__ = ["embedding_rows"]

MOST_MEASUREMENTS = 600_000  # about: 10 s of a process, beside which a pool's start is small
LATE_US = 2**62  # after every row
HERE, POOL = ScalingConfig(num_workers=0), ScalingConfig(num_workers=2)
SMALL = PRESETS["small"].model


@dataclass(frozen=True, kw_only=True)
class EmbeddingCosts:
    """Wall seconds of each round, and what was different between both ways."""

    here: list[float]
    pool: list[float]
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
        config=prepared.config,
        fitted=prepared.fitted,
        progress=Progress(),
    )
    labels = _labels(prepared)
    seconds: dict[str, list[float]] = {"here": [], "pool": []}
    found = {}
    for number in range(rounds + 1):  # the first compiles and fills caches
        for name, scaling in (("here", HERE), ("pool", POOL)):
            begin = time.perf_counter()
            embeddings = embed_labels(
                model,
                prepared.dataset,
                labels,
                poolings=["mean"],
                scaling=scaling,
                unit_rows=prepared.config.data.unit_rows,
            )
            found[name] = embeddings.embedding_LD["mean"]
            if number:
                seconds[name].append(time.perf_counter() - begin)
    num_changed = int(np.count_nonzero(found["here"] != found["pool"]))
    return EmbeddingCosts(here=seconds["here"], pool=seconds["pool"], num_changed=num_changed)


def _labels(prepared: Prepared) -> Labels:
    """Ask for the first subjects of train at the end of their rows."""
    subject_S = prepared.dataset.members[TRAIN]
    share = min(1.0, MOST_MEASUREMENTS / prepared.num_measurements)
    subject_L = subject_S[: max(1, round(share * len(subject_S)))]
    return Labels(
        name="last",
        kind="boolean",
        subject_id_L=subject_L,
        time_us_L=np.full(len(subject_L), LATE_US),
        value_L=np.zeros(len(subject_L)),
    )
