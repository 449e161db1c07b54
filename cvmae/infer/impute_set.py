"""The verb `impute`: what a model expects of rows without a value, unit by unit, to MEDS files."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from meds.schema import held_out_split, tuning_split

from cvmae.checkpoint import RESIDUALS, Loaded
from cvmae.config import Config
from cvmae.infer.asked import Asked, KnownCodes
from cvmae.infer.calibration import Calibration
from cvmae.infer.embed import ASKED, ready
from cvmae.infer.frames import read_asked_file
from cvmae.infer.impute_report import COVERAGE, read_coverage, write_coverage, write_report
from cvmae.infer.imputed import imputed_table
from cvmae.infer.placing import is_measured
from cvmae.infer.restoring import refuse_imputing, restore
from cvmae.infer.unit_files import (
    CodeSums,
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
from cvmae.meds.code_names import code_names
from cvmae.meds.dataset import Dataset, Source
from cvmae.meds.reading import read_unit_and_missing
from cvmae.meds.units import plan_units
from cvmae.runtime.map_units import map_with
from cvmae.runtime.start_ray import start_ray
from cvmae.runtime.tables import counted
from cvmae.statistics.residuals import Residuals
from cvmae.storage.folders import is_file, join, local_copy, remove_aside, remove_folder, written

__all__ = ["JOB", "facts_of", "impute", "residuals_of"]

logger = logging.getLogger("cvmae")

FOLDER = "imputed"
CALIBRATION = "calibration"  # in there, while residuals and coverage are measured
OF_MODEL = "the model"  # that residuals come with
JOB = UnitJob(verb="impute", folder=FOLDER, made="imputed values", asks="rows", unknown="null")


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is imputed, and where to."""

    folder: str
    checkpoint: str
    model: Loaded  # with the residuals that intervals are made by
    source: Source
    units: Sequence[Numbered]
    asked: Asked | None  # in order; None: each row of a known code that has a time and no value
    past_only: bool  # nothing later than a row may be seen


def impute(config: Config) -> str:
    """Write the expected value of each row that is asked for, or of each that has no value.

    Returns:
        What was written, how many held-out values intervals hold, and how the data set and the
        model's vocabulary agree.

    Raises:
        ValueError: A setting is missing, the folder is not new or holds what other settings or
            data have given, a code that is asked for is none of the model's, the model cannot be
            asked for values, has no residuals where the data set has no tuning split either, knows
            no code of the data set, or makes values that are not finite.
        FileNotFoundError: The model, the rows or the data set are not there.
        ChildProcessError: A unit took the process that worked on it down, again and again.
    """
    with held_folder(JOB, config) as config:
        return _impute(config)


def _impute(config: Config) -> str:
    model, stamp, device = load_unchanged(config)
    refuse_imputing(model)
    dataset = open_data(config, model)
    known = KnownCodes.of(model.fitted.statistics)
    asked = read_asked_file(config.infer.rows, known) if config.infer.rows else None
    job = _plan(config, model, dataset, asked)
    there = units_there(join(job.folder, FOLDER), [number for number, _ in job.units])
    waiting = [item for item in job.units if item[0] not in there]
    is_tested = bool(config.resume) and is_file(join(job.folder, COVERAGE))
    if config.scaling.num_workers and (waiting or not is_tested):
        start_ray(config.scaling)
    if waiting or not job.units:
        require_use(JOB, config, model, dataset, asked)
    facts = facts_of(config, stamp, dataset, asked) | {"device": device}
    source = residuals_of(config, model, dataset)
    begin(JOB, config, facts)
    if not is_tested:
        _test(config, model, dataset, device, source)
    with local_copy(join(job.folder, RESIDUALS)) as copy:
        job = replace(job, model=replace(model, residuals=Residuals.read(copy)))
    logger.info("%s to impute, %d there", counted(len(waiting), "unit"), len(there))
    setup = partial(_UnitWriter, job=replace(job, units=()), device=device)
    for _ in map_with(setup, waiting, config.scaling, "impute"):
        pass
    return _finish(config, job)


def _plan(config: Config, model: Loaded, dataset: Dataset, asked: Asked | None) -> _Job:
    subject_S = subjects_asked(dataset, asked)
    return _Job(
        folder=config.output_dir,
        checkpoint=config.infer.checkpoint,
        model=model,
        source=Source(root=dataset.root, members={ASKED: subject_S}),
        units=units_asked(plan_units(dataset, config.data.unit_rows), subject_S),
        asked=asked,
        past_only=config.infer.past_only,
    )


def facts_of(config: Config, stamp: str, dataset: Dataset, asked: Asked | None) -> dict[str, Any]:
    """Return what files of one job must share."""
    columns = () if asked is None else (asked.subject_id_L, asked.time_us_L, asked.code_L)
    return {
        "infer.checkpoint": stamp,
        "infer.rows": hashlib.sha256(b"".join(c.tobytes() for c in columns)).hexdigest(),
        "infer.level": config.infer.level,
        "infer.past_only": config.infer.past_only,
        "evaluate.seed": config.evaluate.seed,
        "evaluate.mask_ratio": config.evaluate.mask_ratio,
        "data.root": dataset.fingerprint,
        "data.unit_rows": config.data.unit_rows,
    }


def _own(config: Config, model: Loaded) -> Residuals | None:
    """Return the residuals that a model brings, if they are of what is asked for."""
    residuals = model.residuals
    if residuals is None or np.isnan(residuals.low_C).all():
        return None
    kind = (residuals.level, residuals.past_only)
    return residuals if kind == (config.infer.level, config.infer.past_only) else None


def residuals_of(config: Config, model: Loaded, dataset: Dataset) -> str:
    """Return where the residuals of intervals come from: the model, or a split of the data set.

    Raises:
        ValueError: They are in neither.
    """
    if _own(config, model):
        return OF_MODEL
    if dataset.num_subjects[tuning_split]:
        return str(tuning_split)
    raise ValueError(
        f"infer.checkpoint={config.infer.checkpoint} has no residuals for "
        f"infer.level={config.infer.level:g} and infer.past_only={config.infer.past_only}, of "
        "which intervals are made, and no subject of "
        f"data.root={dataset.root} is in {tuning_split} to take them from: give a model that "
        "was exported with these settings and --data.root of a data set where some are"
    )


def _test(config: Config, model: Loaded, dataset: Dataset, device: str, source: str) -> None:
    """Write the residuals that intervals are made by, and how many held-out values these hold.

    A job that is interrupted goes on with the units that are still to be restored.
    """
    path = join(config.output_dir, RESIDUALS)
    parts = join(config.output_dir, FOLDER, CALIBRATION)
    for split in (tuning_split, held_out_split):
        remove_aside(join(parts, split))
    calibration = Calibration(
        model=model, dataset=dataset, config=config, device=device, folder=parts
    )
    if not is_file(path):
        residuals = _own(config, model) or calibration.residuals()
        with written(path) as aside:
            residuals.write(aside)
    with local_copy(path) as copy:
        residuals = Residuals.read(copy)
    has_test = dataset.num_subjects[held_out_split] > 0
    coverage = calibration.coverage(residuals) if has_test else None
    remove_folder(parts)  # before what says that all of this is done
    write_coverage(config.output_dir, coverage, source)


class _UnitWriter:
    """Imputes rows of units and writes their files, with a model that is prepared once."""

    def __init__(self, *, job: _Job, device: str) -> None:
        self._job, self._model = job, ready(job.model, device)
        self._known = KnownCodes.of(job.model.fitted.statistics)

    def __call__(self, item: Numbered) -> None:
        number, unit = item
        job, statistics = self._job, self._model.fitted.statistics
        read, (missing, rows), subject_S = read_unit_and_missing(
            job.source, unit, self._known.lookup, ASKED
        )
        measurements = self._known.as_entries(read)
        counts = {"rows_without_time": 0, "rows_measured_beside": 0}
        if job.asked is None:
            own = Asked.of(missing).in_order()
            beside_L = is_measured(measurements, own.as_entries(self._known))
            own = own.take(~beside_L)
            counts["rows_without_time"] = rows.num_null_time
            counts["rows_measured_beside"] = int(np.count_nonzero(beside_L))
        else:
            own = job.asked.of_subjects(np.sort(subject_S))
        where = f"infer.checkpoint={job.checkpoint}, unit {number}"
        entries = own.as_entries(self._known)
        z_L = restore(self._model, measurements, entries, where, past_only=job.past_only)
        counts["rows_nothing_known"] = int(np.count_nonzero(np.isnan(z_L)))
        write_unit_file(
            join(job.folder, FOLDER, unit_file(number)),
            imputed_table(own, z_L, statistics, self._model.residuals),
            CodeSums.of(measurements, statistics),
            counts,
        )


def _finish(config: Config, job: _Job) -> str:
    """Look at what all units have written, and write what follows from it."""
    folder, statistics = join(job.folder, FOLDER), job.model.fitted.statistics
    files = read_unit_files(folder, [number for number, _ in job.units], job.source.members[ASKED])
    absent_S = job.source.members[ASKED][~files.found_S]
    num_absent = write_absent(folder, job.asked, absent_S, partial(_nothing, job))
    counts = files.counts
    counts["rows_of_absent_subjects"] = num_absent
    counts["rows"] = files.num_rows + num_absent
    return write_report(
        job.folder,
        FOLDER,
        counts=counts,
        sums=files.sums,
        statistics=statistics,
        residuals=job.model.residuals,
        tested=read_coverage(job.folder),
        masks={"seed": config.evaluate.seed, "mask_ratio": config.evaluate.mask_ratio},
        names=code_names(job.source.root, statistics.codes),
    )


def _nothing(job: _Job, own: Asked) -> pa.Table:
    """Return null for rows of which nothing was known."""
    return imputed_table(own, np.full(own.num_rows, np.nan), job.model.fitted.statistics, None)
