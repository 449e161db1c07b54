"""A job that works a data set off by a model, unit by unit, to a folder of files.

What such jobs share: the folder is held while they run, says what its files were made with, and is
gone on with by what is there only if that is still the same.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from cvmae.arrays import Ints
from cvmae.checkpoint import Loaded, checkpoint_stamp, load_model
from cvmae.config import Config, resolved_path, write_config
from cvmae.infer.asked import Asked
from cvmae.infer.embed import ASKED, may_hold
from cvmae.infer.histories import Moments
from cvmae.infer.matching import require_common_code
from cvmae.infer.notice import NOTE, write_notice
from cvmae.infer.unit_files import write_unit_file
from cvmae.meds.dataset import Dataset, Source, open_dataset
from cvmae.meds.splits import is_among
from cvmae.meds.units import Unit, plan_units
from cvmae.runtime.start_ray import trains_on_gpu
from cvmae.runtime.tables import counted
from cvmae.settings import ScalingConfig
from cvmae.storage.folders import is_file, join, local_copy, remove_aside, written
from cvmae.storage.output import absolute_output, output_folder, refuse_in_data_set, require_new

__all__ = [
    "Numbered",
    "UnitJob",
    "begin",
    "device_of",
    "held_folder",
    "load_unchanged",
    "open_data",
    "require_same",
    "require_use",
    "subjects_asked",
    "units_asked",
    "write_absent",
]

Rows = TypeVar("Rows", Asked, Moments)

WITHOUT_ROWS = "without_rows.parquet"  # of subjects that the data set does not have

Numbered = tuple[int, Unit]  # a unit, and its place among those of the data set


@dataclass(frozen=True, kw_only=True)
class UnitJob:
    """A kind of job."""

    verb: str
    folder: str  # of the units' files, in the job's own
    made: str  # what messages call them
    asks: str  # the setting under `infer.` that says for whom and when
    unknown: str  # what those get whom the data set does not have

    @property
    def facts(self) -> str:
        """Return the name of the file that says what all was made with."""
        return f"{self.verb}.json"


@contextmanager
def held_folder(job: UnitJob, config: Config, *, look: bool = False) -> Iterator[Config]:
    """Hold the output folder; yield settings of absolute paths.

    Args:
        job: Of which kind.
        config: Settings of the verb.
        look: Say whether it could be held, and leave all as it is.

    Raises:
        ValueError: No model is given, or the folder is not new.
        FileNotFoundError: There is nothing to go on with.
    """
    if not config.infer.checkpoint:
        raise ValueError("infer.checkpoint is empty: say --infer.checkpoint RUN_DIR of a model")
    folder = absolute_output(config.output_dir)
    if config.resume and absolute_output(config.resume, "resume") != folder:
        raise ValueError(
            f"--resume {config.resume} continues in its own folder: leave out --output_dir"
        )
    root = resolved_path(config.data.root)
    with output_folder(
        folder,
        job.verb,
        data_root=root,
        check=lambda folder: (_require_begun if config.resume else _require_new)(job, folder),
        look=look,
    ):
        if not look:
            remove_aside(join(folder, job.folder))
        infer = replace(
            config.infer,
            checkpoint=resolved_path(config.infer.checkpoint),
            labels=resolved_path(config.infer.labels),
            rows=resolved_path(config.infer.rows),
        )
        data = replace(config.data, root=root)
        yield replace(config, output_dir=folder, data=data, infer=infer)


def _require_new(job: UnitJob, folder: str) -> None:
    require_new(
        folder,
        unfinished=lambda name: name in (job.facts, NOTE),
        advice=lambda found: (
            f": choose a new folder, or go on with what is there by --resume {folder}"
            if job.facts in found
            else ": choose a new folder"
        ),
    )


def _require_begun(job: UnitJob, folder: str) -> None:
    if not is_file(join(folder, job.facts)):
        raise FileNotFoundError(f"--resume {folder}: no {job.facts} there, so no {job.made}")


def load_unchanged(config: Config) -> tuple[Loaded, str, str]:
    """Load the model of a job; return what tells it from another, and the device that works.

    Raises:
        ValueError: Another checkpoint was written meanwhile.
    """
    path, device = config.infer.checkpoint, device_of(config.scaling)
    stamp = checkpoint_stamp(path, given=f"infer.checkpoint={path}")
    model = load_model(path, "cpu" if config.scaling.num_workers else device)
    if checkpoint_stamp(path) != stamp:
        raise ValueError(
            f"infer.checkpoint={path}: another checkpoint was written there meanwhile; wait for "
            "the run to end, or give one checkpoint of it (checkpoints/step_*)"
        )
    return model, stamp, device


def device_of(scaling: ScalingConfig) -> str:
    """Return where a model works: in this process on a GPU if there is one, on Ray if asked to."""
    return "cuda" if trains_on_gpu(scaling) else "cpu"


def require_same(job: UnitJob, config: Config, facts: Mapping[str, Any]) -> None:
    """Refuse to go on with what was made with something else.

    Raises:
        ValueError: It was; the message says with what.
    """
    if not config.resume:
        return
    with local_copy(join(config.output_dir, job.facts)) as copy:
        before: dict[str, Any] = json.loads(copy.read_text("utf-8"))
    now = json.loads(json.dumps(facts))
    if differing := [name for name in now if before.get(name) != now[name]]:
        raise ValueError(
            f"--resume {config.output_dir}: what is there was made with another "
            f"{' and '.join(differing)}: give the same (of a run that trains on, the "
            "checkpoint that was used: checkpoints/step_*), or choose a new folder"
        )


def open_data(config: Config, model: Loaded) -> Dataset:
    """Open the data set of a job, the model's own where none is named.

    Raises:
        ValueError: It cannot be read, or the job would write into it.
        FileNotFoundError: It is not there.
    """
    dataset = open_dataset(config.data.root or model.config.data.root)
    refuse_in_data_set(config.output_dir, dataset.root)
    return dataset


def subjects_asked(dataset: Dataset, asked: Asked | Moments | None) -> Ints:
    """Return who is asked for, ascending; None: everybody of a split."""
    if asked is None:
        return np.sort(np.concatenate(list(dataset.members.values())))
    return np.unique(asked.subject_id_L)


def units_asked(units: Sequence[Unit], subject_S: Ints) -> list[Numbered]:
    """Return the units that may hold rows of subjects, who ascend."""
    return [(number, unit) for number, unit in enumerate(units) if may_hold(unit, subject_S)]


def require_use(
    job: UnitJob, config: Config, model: Loaded, dataset: Dataset, asked: Asked | Moments | None
) -> None:
    """Refuse a job of which nothing would come, before its folder is begun.

    Raises:
        ValueError: None of the subjects that are asked for has a row, or none a value of a code of
            the model; see `require_common_code`.
    """
    subject_S = subjects_asked(dataset, asked)
    units = units_asked(plan_units(dataset, config.data.unit_rows), subject_S)
    there = counted(sum(dataset.num_subjects.values()), "subject")
    if asked is None:
        nobody = (
            f"data.root={dataset.root} has no row of the {there} of its splits: the shards are of "
            "others, or empty; jobs/validate.py counts them"
        )
    else:
        num_rows = asked.num_moments if isinstance(asked, Moments) else asked.num_rows
        nobody = (
            f"infer.{job.asks}={getattr(config.infer, job.asks)} asks for "
            f"{counted(num_rows, 'row')} of {counted(len(subject_S), 'subject')}, and "
            f"data.root={dataset.root}, whose splits have {there}, has no row of any of them: each "
            f"would be {job.unknown} in {job.folder}/{WITHOUT_ROWS}, and nothing else; give "
            "subjects by their subject_id there"
        )
    require_common_code(
        Source(root=dataset.root, members={ASKED: subject_S}),
        [unit for _, unit in units],
        model.fitted.statistics,
        ASKED,
        config.scaling,
        nobody=nobody,
    )


def begin(job: UnitJob, config: Config, facts: Mapping[str, Any]) -> None:
    """Write what the folder holds; where that is written already, see that it is the same.

    Raises:
        ValueError: See `require_same`.
    """
    require_same(job, config, facts)
    if config.resume:
        return
    write_notice(config.output_dir, f"The files below {job.folder}/")
    with written(join(config.output_dir, job.facts)) as aside:
        aside.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    with written(join(config.output_dir, "config.yaml")) as aside:  # last: --resume asks for it
        write_config(config, aside)


def write_absent(
    folder: str, asked: Rows | None, absent_S: Ints, table_of: Callable[[Rows], pa.Table]
) -> int:
    """Write what is asked for of subjects whom the data set does not have.

    Args:
        folder: Of the units' files.
        asked: All that is asked for; None: nobody by name.
        absent_S: Subjects that no unit's file has, who ascend.
        table_of: Gives the rows of a file, with nothing in them.

    Returns:
        How many rows there are; without any there is no file.
    """
    if asked is None:
        return 0
    own = asked.take(is_among(absent_S, asked.subject_id_L))
    if len(own.subject_id_L):
        write_unit_file(join(folder, WITHOUT_ROWS), table_of(own), None)
    return len(own.subject_id_L)
