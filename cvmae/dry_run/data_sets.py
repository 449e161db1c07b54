"""Dry runs of the verbs about data sets, of the plan and of the demo."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from meds import schema as meds

from cvmae.config import Config
from cvmae.convert.convert import splits_of
from cvmae.convert.physionet2012 import find_records
from cvmae.convert.settings import ConvertConfig
from cvmae.demo import DemoConfig, demo_hospital, demo_sweep, require_no_demo
from cvmae.dry_run.sections import (
    cluster_section,
    data_section,
    output_section,
    passes_line,
)
from cvmae.meds.dataset import open_dataset
from cvmae.meds.splits import SPLITS
from cvmae.plan.inputs import read_measured, resolve_inputs
from cvmae.plan.lines import Line, Section
from cvmae.plan.plan import planned_size
from cvmae.plan.settings import PlanConfig
from cvmae.runtime.tables import counted
from cvmae.statistics.fitted import require_unfitted
from cvmae.statistics.vocabulary import open_candidates
from cvmae.storage.output import output_folder
from cvmae.sweep.trials import plan_trials
from cvmae.synthetic.hospital import SyntheticConfig, num_shards_of, require_no_data

__all__ = [
    "convert_asked",
    "demo_asked",
    "fit_statistics_asked",
    "plan_asked",
    "synthesize_asked",
    "validate_asked",
]

ONE_MACHINE = "give a folder of this machine, and copy it there"


def fit_statistics_asked(config: Config) -> Iterator[Section]:
    """Yield what fitting would take; see `fit_statistics` for what is refused."""
    with output_folder(
        config.output_dir,
        "fit_statistics",
        data_root=config.data.root,
        check=require_unfitted,
        look=True,
    ) as folder:
        dataset = open_dataset(config.data.root, SPLITS[:1])
        candidates = open_candidates(config.data)
        section, _ = data_section(dataset, config.data.unit_rows)
        yield section
        yield cluster_section(config.scaling)
        fixed = len(candidates.entries)
        how = f"data.codes_file={config.data.codes_file}" if fixed else config.data.code_pattern
        codes = Line(name="codes", value=fixed or config.data.num_codes, why=f"at most; {how}")
        yield Section(title="the fit", lines=[passes_line(dataset, config), codes])
        files = [
            ("code_statistics.parquet", "a row for each code"),
            ("unit_index.parquet", "a row for each unit"),
            ("data.json", "what they were fitted to"),
        ]
        yield output_section(replace(config, output_dir=folder), files)


def validate_asked(config: Config) -> Iterator[Section]:
    """Yield what a check would take; what is wrong with the footers is said as by any job."""
    dataset = open_dataset(config.data.root)
    yield data_section(dataset, config.data.unit_rows)[0]
    yield cluster_section(config.scaling)
    yield Section(title="the check", lines=[passes_line(dataset, config, checks=True)])
    if not config.output_dir:
        return
    root = config.data.root
    with output_folder(config.output_dir, "validate", data_root=root, look=True) as folder:
        files = [("validation.json", "the findings")]
        yield output_section(replace(config, output_dir=folder), files)


def convert_asked(config: ConvertConfig) -> Iterator[Section]:
    """Yield what would be converted; see `convert` for what is refused."""
    files, _ = find_records(config.input)
    split_S = splits_of(config, np.array(list(files), np.int64))
    with output_folder(
        config.output, "convert", setting="output", only_local=ONE_MACHINE, look=True
    ) as folder:
        lines = [Line(name="records", value=len(files), why=f"input={config.input}")]
        for split in SPLITS:
            number = int((split_S == split).sum())
            shards = math.ceil(number / config.shard_subjects)
            how = f"{counted(shards, 'shard')} of shard_subjects={config.shard_subjects} at most"
            lines.append(Line(name=f"subjects of {split}", value=number, why=how))
        yield Section(title="the source", lines=lines)
        yield _new_data_set(folder, "output")


def synthesize_asked(config: SyntheticConfig) -> Iterator[Section]:
    """Yield what would be made up; see `write_hospital` for what is refused."""
    with output_folder(
        config.root,
        "synthesize",
        setting="root",
        check=require_no_data,
        only_local=ONE_MACHINE,
        look=True,
    ) as folder:
        yield Section(title="the hospital", lines=list(_hospital_lines(config)))
        yield _new_data_set(folder, "root")


def _hospital_lines(config: SyntheticConfig) -> Iterator[Line]:
    shards = sum(num_shards_of(config, split) for split in range(len(SPLITS)))
    yield Line(name="subjects", value=config.num_subjects, why="num_subjects")
    mean = config.median_measurements * math.exp(config.spread**2 / 2)
    rows = config.num_subjects * min(mean, config.max_measurements) / (1 - config.other_row_share)
    yield Line(
        name="rows",
        value=rows,
        why="about; subjects x median_measurements x exp(spread^2 / 2) / (1 - other_row_share)",
    )
    yield Line(name="shards", value=shards, why=f"num_shards={config.num_shards} of train")
    yield Line(name="processes", value=min(config.num_processes, shards), why="num_processes")


def _new_data_set(folder: str, setting: str) -> Section:
    files = (
        (f"{meds.data_subdirectory}/", "shards"),
        ("metadata/", "splits and codes"),
        ("labels/", "label sets"),
    )
    lines = [Line(name="folder", value=folder, why=f"{setting}, new")]
    return Section(
        title="output", lines=[*lines, *(Line(name="", value=n, why=w) for n, w in files)]
    )


def plan_asked(config: PlanConfig) -> Iterator[Section]:
    """Yield what is planned for; a plan reads footers and writes nothing."""
    measured = read_measured(config.measured) if config.measured else {}
    values, _ = resolve_inputs(measured, config.measured)
    size = planned_size(config, values["rows_a_measurement"])
    lines = [
        Line(name="measurements of train", value=size.num_measurements, why=size.measurements_why),
        Line(name="rows", value=size.rows, why=size.rows_why),
        Line(name="GPUs", value=config.num_gpus, why="num_gpus"),
        Line(name="rates", value=len(measured), why="of measured; others are defaults"),
    ]
    yield Section(title="what is planned for", lines=lines)


def demo_asked(config: DemoConfig) -> Iterator[Section]:
    """Yield what the demo would do; see `demo` for what is refused."""
    with output_folder(
        config.output_dir,
        "demo",
        check=require_no_demo,
        only_local="the demo needs a folder of this machine",
        look=True,
    ) as folder:
        config = replace(config, output_dir=folder)
        hospital = demo_hospital(config)
        own = demo_sweep(config, hospital.root)
        yield Section(title="the hospital", lines=list(_hospital_lines(hospital)))
        yield cluster_section(own.scaling, trains=True)
        trials = plan_trials(own)
        how = f"{', '.join(own.sweep.policies)}, one seed, {counted(config.epochs, 'epoch')} each"
        yield Section(title="the sweep", lines=[Line(name="trials", value=len(trials), why=how)])
        files = [
            ("hospital/", "the data set"),
            ("sweep/", "the trials"),
            ("evaluation/", "report.html"),
        ]
        yield output_section(replace(own, output_dir=folder), files)
