"""The verb `embed`: a whole data set through a frozen model, unit by unit, to files."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from cvmae.checkpoint import Loaded
from cvmae.config import Config
from cvmae.infer.embed import ASKED, embed_moments, ready, refuse_not_finite
from cvmae.infer.histories import Moments, last_moments
from cvmae.infer.matching import Matching, matching_lines
from cvmae.infer.notice import NOTE
from cvmae.infer.pooling import Pooling, refuse_pooling, width_of
from cvmae.infer.unit_files import (
    CodeSums,
    embedding_table,
    read_unit_files,
    unit_file,
    units_there,
    write_unit_file,
)
from cvmae.infer.unit_job import (
    Numbered,
    UnitJob,
    begin,
    held_folder,
    load_unchanged,
    open_data,
    require_use,
    subjects_asked,
    units_asked,
    write_absent,
)
from cvmae.meds.dataset import Dataset, Source
from cvmae.meds.labels import read_tasks
from cvmae.meds.reading import read_unit_and_subjects
from cvmae.meds.row_order import run_starts
from cvmae.meds.splits import is_among
from cvmae.meds.units import plan_units
from cvmae.runtime.map_units import map_with
from cvmae.runtime.start_ray import start_ray
from cvmae.runtime.tables import counted
from cvmae.storage.folders import join, written

__all__ = ["JOB", "asked_moments", "embed", "facts_of"]

logger = logging.getLogger("cvmae")

FOLDER, REPORT = "embeddings", "report.json"
JOB = UnitJob(verb="embed", folder=FOLDER, made="embeddings", asks="labels", unknown="zeros")


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is embedded, and where to."""

    folder: str
    checkpoint: str
    model: Loaded
    pooling: Pooling
    source: Source
    units: Sequence[Numbered]
    moments: Moments | None  # None: each subject at its last measurement


def embed(config: Config) -> str:
    """Write an embedding for each subject and prediction time, or each subject's last measurement.

    Returns:
        What was written, and how the data set and the model's vocabulary agree.

    Raises:
        ValueError: A setting is missing, the folder is not new or holds the embeddings of other
            settings or data, the model knows no code of the data set, or makes embeddings that are
            not finite.
        FileNotFoundError: The model, the labels or the data set are not there.
        ChildProcessError: A unit took the process that worked on it down, again and again.
    """
    with held_folder(JOB, config) as config:
        return _embed(config)


def _embed(config: Config) -> str:
    model, stamp, device = load_unchanged(config)
    refuse_pooling(model, [config.infer.pooling])
    dataset = open_data(config, model)
    moments = asked_moments(config.infer.labels)
    job = _plan(config, model, dataset, moments)
    there = units_there(join(job.folder, FOLDER), [number for number, _ in job.units])
    waiting = [item for item in job.units if item[0] not in there]
    if waiting and config.scaling.num_workers:
        start_ray(config.scaling)
    if waiting or not job.units:
        require_use(JOB, config, model, dataset, moments)
    begin(JOB, config, facts_of(config, stamp, dataset, moments) | {"device": device})
    logger.info("%s to embed, %d there", counted(len(waiting), "unit"), len(there))
    setup = partial(_UnitWriter, job=replace(job, units=()), device=device)
    for _ in map_with(setup, waiting, config.scaling, "embed"):
        pass
    return _finish(job)


def asked_moments(labels: str) -> Moments | None:
    """Return every subject and time that some label set has, once and in order."""
    if not labels:
        return None
    tasks = read_tasks(labels)
    subject_L = np.concatenate([task.subject_id_L for task in tasks])
    time_L = np.concatenate([task.time_us_L for task in tasks])
    order_L = np.lexsort((time_L, subject_L))
    moments = Moments(subject_id_L=subject_L, time_us_L=time_L).take(order_L)
    return moments.take(run_starts(moments.subject_id_L, moments.time_us_L))


def _plan(config: Config, model: Loaded, dataset: Dataset, moments: Moments | None) -> _Job:
    subject_S = subjects_asked(dataset, moments)
    return _Job(
        folder=config.output_dir,
        checkpoint=config.infer.checkpoint,
        model=model,
        pooling=config.infer.pooling,
        source=Source(root=dataset.root, members={ASKED: subject_S}),
        units=units_asked(plan_units(dataset, config.data.unit_rows), subject_S),
        moments=moments,
    )


def facts_of(
    config: Config, stamp: str, dataset: Dataset, moments: Moments | None
) -> dict[str, Any]:
    """Return what files of one job must share."""
    asked = b"" if moments is None else moments.subject_id_L.tobytes() + moments.time_us_L.tobytes()
    return {
        "infer.checkpoint": stamp,
        "infer.labels": hashlib.sha256(asked).hexdigest(),
        "infer.pooling": config.infer.pooling,
        "data.root": dataset.fingerprint,
        "data.unit_rows": config.data.unit_rows,
    }


class _UnitWriter:
    """Embeds units and writes their files, with a model that is prepared once a process."""

    def __init__(self, *, job: _Job, device: str) -> None:
        self._job, self._model = job, ready(job.model, device)

    def __call__(self, item: Numbered) -> None:
        number, unit = item
        job, statistics = self._job, self._model.fitted.statistics
        measurements, _, subject_S = read_unit_and_subjects(
            job.source, unit, statistics.lookup, ASKED
        )
        if job.moments is None:
            own = last_moments(measurements)
        else:
            own = job.moments.take(is_among(np.sort(subject_S), job.moments.subject_id_L))
        embeddings = embed_moments(self._model, measurements, own, [job.pooling])
        refuse_not_finite(
            embeddings, self._model, f"infer.checkpoint={job.checkpoint}, unit {number}"
        )
        table = embedding_table(own, embeddings.embedding_LD[job.pooling], embeddings.has_rows_L)
        write_unit_file(
            join(job.folder, FOLDER, unit_file(number)),
            table,
            CodeSums.of(measurements, statistics),
        )


def _finish(job: _Job) -> str:
    """Look at what all units have written, and write what follows from it."""
    folder = join(job.folder, FOLDER)
    numbers = [number for number, _ in job.units]
    files = read_unit_files(folder, numbers, job.source.members[ASKED])
    found_S, num_rows = files.found_S, files.num_rows
    absent_S = job.source.members[ASKED][~found_S]
    num_absent = write_absent(folder, job.moments, absent_S, partial(_nothing, job))
    matching = Matching.of(files.sums, job.model.fitted.statistics)
    report = {
        "embeddings": num_rows + num_absent,
        "width": width_of(job.model, job.pooling),
        "subjects_without_measurement": int(np.count_nonzero(~found_S)),
        "codes": matching.as_rows(),
    }
    with written(join(job.folder, REPORT)) as aside:
        aside.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return "\n".join(
        [
            *matching_lines(matching),
            f"{counted(num_rows + num_absent, 'embedding')} of {report['width']} numbers: {folder}",
            _absent_line(job, int(np.count_nonzero(~found_S)), num_absent),
            f"They are patient data: see {join(job.folder, NOTE)}",
        ]
    )


def _absent_line(job: _Job, num_subjects: int, num_embeddings: int) -> str:
    if job.moments is None:
        return f"{counted(num_subjects, 'subject')} of the splits without measurement or embedding"
    return (
        f"{num_embeddings:,} of them zeros, of {counted(num_subjects, 'subject')} whom the data "
        "set "
        "does not have"
    )


def _nothing(job: _Job, own: Moments) -> pa.Table:
    """Return zeros for moments of which nothing was known."""
    nothing_LD = np.zeros((own.num_moments, width_of(job.model, job.pooling)), np.float32)
    return embedding_table(own, nothing_LD, np.zeros(own.num_moments, np.bool_))
