"""The verb `fit_statistics`: two passes over a data set -> what every later step relies on."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import compress
from typing import Any

import numpy as np

from cvmae.arrays import Floats, Ints
from cvmae.config import Config, resolved_path, write_config
from cvmae.meds.code_names import code_names
from cvmae.meds.dataset import Dataset, open_dataset
from cvmae.meds.rows import VALUE
from cvmae.meds.splits import SPLITS, is_among
from cvmae.meds.subjects import refuse_shared_subjects
from cvmae.meds.unit_index import UnitIndex
from cvmae.meds.units import Unit, plan_units
from cvmae.runtime.tables import counted
from cvmae.settings import MOST_CODES, DataConfig
from cvmae.statistics.all_units import Vocabulary, run_first_pass, run_second_pass
from cvmae.statistics.code_statistics import CodeStatistics, flagged_codes
from cvmae.statistics.entropy import entropy_bits
from cvmae.statistics.fitted import FittedData, as_json, fit_settings, require_unfitted
from cvmae.statistics.histogram import median_deviation, quantile_bounds, quantile_value
from cvmae.statistics.passes import FirstPass, SecondPass
from cvmae.statistics.sequence_counts import SplitCounts
from cvmae.statistics.table import count_lines, format_statistics
from cvmae.statistics.vocabulary import choose_codes, open_candidates
from cvmae.storage.folders import is_file, join, written
from cvmae.storage.output import output_folder

__all__ = ["fit", "fit_statistics", "fitted_before", "load_or_fit", "require_sequences"]

logger = logging.getLogger("cvmae")

TRAIN, TUNING = SPLITS[:2]
OWN = "statistics"  # the folder of a run in which its own are
# Shape letters beside those of `cvmae.arrays`: K candidate codes.


def fit_statistics(config: Config) -> str:
    """Fit the statistics of `data.root`, write them to `output_dir`, and return a table.

    Raises:
        ValueError: `output_dir` is not new, or the data cannot be used (see `fit`).
        FileNotFoundError: The data set is not there.
    """
    with output_folder(
        config.output_dir, "fit_statistics", data_root=config.data.root, check=require_unfitted
    ) as folder:
        dataset = open_dataset(config.data.root, [TRAIN])  # footers and splits need no Ray
        if config.scaling.num_workers > 0:
            from cvmae.runtime.start_ray import start_ray  # Ray only where it is asked for

            start_ray(config.scaling)
        fitted = fit(config, dataset)
        fitted.write(folder)
        with written(join(folder, "config.yaml")) as path:
            write_config(config, path)
        codes = [*fitted.statistics.codes, *fitted.report["dropped_codes"]]
        names_of = code_names(dataset.root, codes)
        table = format_statistics(fitted.statistics, fitted.report, names_of)
        return f"{table}\nwritten to {folder}"


def load_or_fit(config: Config, dataset: Dataset) -> FittedData:
    """Return the statistics in `data.statistics`, or in `output_dir`, or fit them there.

    Raises:
        ValueError: Those that are there belong to other data or settings, or see `fit`.
        FileNotFoundError: `data.statistics` is no folder of statistics.
    """
    own = join(config.output_dir, OWN)
    given = fitted_before(config)
    if not given:
        fitted = fit(config, dataset)
        fitted.write(own)
        names_of = code_names(dataset.root, fitted.report["dropped_codes"])
        # Once: who reads them later has seen them.
        for line in count_lines(fitted.report, names_of):
            logger.info("%s", line)
        return fitted
    fitted = FittedData.read(given)
    found = fitted.settings | fitted.fingerprint
    wanted = fit_settings(config) | as_json(dataset.fingerprint)
    differences = [
        f"{name} is {found.get(name)!r} there and {value!r} now"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    if differences:
        otherwise = (
            "fit statistics to these and say --data.statistics FOLDER --resume_allow data "
            "statistics, with the names of changed settings, if the change is meant"
            if config.resume
            else "leave data.statistics empty and take a new output_dir to fit them anew"
        )
        raise ValueError(
            f"the statistics in {given} were fitted to other data or settings: "
            f"{'; '.join(differences)}. Give the same ones, or {otherwise}"
        )
    return fitted


def fitted_before(config: Config) -> str:
    """Return the folder of statistics that a run would take, '' where it would fit its own."""
    own = join(config.output_dir, OWN)
    return config.data.statistics or (own if is_file(join(own, "data.json")) else "")


def require_sequences(fitted: FittedData) -> None:
    """Refuse data in which train or tuning has nothing that can be hidden and restored.

    Raises:
        ValueError: No subject of the split has two measurements.
    """
    for split in (TRAIN, TUNING):
        if not fitted.unit_index.num_sequences[split].sum():
            raise ValueError(
                f"no subject of {split} has two measurements of the vocabulary: check "
                f"data.code_pattern, the splits and that its rows have a {VALUE}"
            )


def fit(config: Config, dataset: Dataset) -> FittedData:
    """Take statistics from train, and count the sequences of every split, in two passes.

    Raises:
        ValueError: No code can be used, a subject is in two files, or a file is not in MEDS
            order.
        FileNotFoundError: `data.codes_file` is not there.
    """
    # Tasks on Ray run in another folder: nothing relative may reach them.
    data = replace(config.data, codes_file=resolved_path(config.data.codes_file))
    candidates = open_candidates(data)
    units = plan_units(dataset, data.unit_rows)

    first, subjects = run_first_pass(dataset.source, units, candidates, config.scaling)
    refuse_shared_subjects(dataset.root, units, subjects)
    low_K, high_K = _clip_bounds(first, data.clip_quantiles)
    constant_K = np.maximum(first.minimum, low_K) >= np.minimum(first.maximum, high_K)
    chosen_C, dropped = choose_codes(
        data, candidates, first.names, first.moments.num_values, constant_K
    )
    if not chosen_C:
        raise _no_codes(data, dataset.root, first, dropped)
    if len(chosen_C) > MOST_CODES:  # data.num_codes holds for a pattern only
        raise ValueError(
            f"data.codes_file={data.codes_file} has {counted(len(chosen_C), 'entry', 'entries')} "
            "with values, at most "
            f"{MOST_CODES} can be told apart: leave out the rarest"
        )
    entries = {codes[0]: codes for codes in candidates.entries}
    vocabulary = Vocabulary(
        members=tuple(entries.get(name, (name,)) for name in (first.names[k] for k in chosen_C)),
        low_C=np.maximum(first.minimum, low_K)[chosen_C],
        high_C=np.minimum(first.maximum, high_K)[chosen_C],
    )
    second, counts_U = run_second_pass(
        dataset.source, units, subjects, vocabulary, data, config.scaling
    )
    statistics = _assemble(vocabulary, first, chosen_C, second, (low_K, high_K))
    report = {
        "splits": _split_report(counts_U, dataset.num_subjects),
        "num_subjects_without_split": _num_without_split(dataset, subjects),
        "candidate_rows": asdict(first.rows),
        "num_duplicates": second.num_duplicates,
        "dropped_codes": dropped,
        "flagged_codes": list(compress(statistics.codes, flagged_codes(statistics))),
    }
    return FittedData(
        statistics=statistics,
        unit_index=_unit_index(units, counts_U),
        fingerprint=as_json(dataset.fingerprint),
        settings=fit_settings(config),
        report=as_json(report),
    )


def _clip_bounds(first: FirstPass, quantiles: tuple[float, float] | None) -> tuple[Floats, Floats]:
    """Return the edges of the bins that hold the clip quantiles, outwards."""
    low_K = np.full(len(first.names), -np.inf)
    high_K = np.full(len(first.names), np.inf)
    for code in range(len(first.names) if quantiles is not None else 0):
        bin_B, count_B = first.histogram.of_code(code)
        if quantiles is not None and len(bin_B):
            low_K[code] = quantile_bounds(bin_B, count_B, quantiles[0])[0]
            high_K[code] = quantile_bounds(bin_B, count_B, quantiles[1])[1]
    return low_K, high_K


def _assemble(
    vocabulary: Vocabulary,
    first: FirstPass,
    chosen_C: Sequence[int],
    second: SecondPass,
    clip: tuple[Floats, Floats],
) -> CodeStatistics:
    places = np.array(chosen_C)
    quantiles = np.empty((4, len(places)))
    for code, place in enumerate(places):
        bin_B, count_B = first.histogram.of_code(place)
        q25, median, q75 = (quantile_value(bin_B, count_B, q) for q in (0.25, 0.5, 0.75))
        quantiles[:, code] = q25, median, q75, median_deviation(bin_B, count_B, median)
    minimum, maximum = first.minimum[places], first.maximum[places]
    mean, std = second.moments.mean.astype(np.float64), second.moments.std
    return CodeStatistics(
        codes=tuple(codes[0] for codes in vocabulary.members),
        members=vocabulary.members,
        num_values=second.moments.num_values,
        num_subjects=second.moments.num_subjects,
        minimum=minimum,
        maximum=maximum,
        raw_mean=first.moments.mean[places].astype(np.float64),
        raw_std=first.moments.std[places],
        clip_low=clip[0][places],
        clip_high=clip[1][places],
        mean=mean,
        std=std,
        q25=np.clip(quantiles[0], minimum, maximum),
        median=np.clip(quantiles[1], minimum, maximum),
        q75=np.clip(quantiles[2], minimum, maximum),
        mad=quantiles[3],
        within_subject_std=second.moments.within_subject_std,
        entropy=entropy_bits(second.cells, vocabulary.low_C, vocabulary.high_C, mean, std),
    )


def _unit_index(units: Sequence[Unit], counts_U: Sequence[dict[str, SplitCounts]]) -> UnitIndex:
    def column(split: str, name: str) -> Ints:
        return np.array(
            [getattr(counts[split], name) if split in counts else 0 for counts in counts_U],
            np.int64,
        )

    return UnitIndex(
        units=tuple(units),
        num_sequences={split: column(split, "num_sequences") for split in SPLITS},
        num_measurements={split: column(split, "num_measurements") for split in SPLITS},
    )


def _split_report(
    counts_U: Sequence[dict[str, SplitCounts]], num_subjects: Mapping[str, int]
) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for split in SPLITS:
        parts = [counts[split] for counts in counts_U if split in counts]
        if not parts:
            continue
        total = parts[0]
        for part in parts[1:]:
            total = total.merge(part)
        report[split] = {"num_listed": int(num_subjects[split])} | asdict(total)
    return report


def _num_without_split(dataset: Dataset, subjects: Sequence[Ints]) -> int:
    num_found = sum(map(len, subjects))
    return num_found - sum(
        int(is_among(member_S, subject_S).sum())
        for member_S in dataset.members.values()
        for subject_S in subjects
    )


def _no_codes(
    config: DataConfig, root: str, first: FirstPass, dropped: Mapping[str, str]
) -> ValueError:
    setting = (
        f"data.codes_file={config.codes_file}"
        if config.codes_file
        else f"data.code_pattern={config.code_pattern!r}"
    )
    rows = first.rows
    if first.names and rows.num_matching == rows.num_null_value + rows.num_non_finite:
        return ValueError(
            f"{setting} matches {counted(len(first.names), 'code')} of {root}, and none of their "
            f"{counted(rows.num_matching, 'row')} on train has a value: write what was measured "
            f"into the column {VALUE}, as float32"
        )
    if first.names:
        reasons = "; ".join(f"{code!r}: {reason}" for code, reason in list(dropped.items())[:3])
        return ValueError(
            f"{setting} matches {counted(len(first.names), 'code')} of {root}, but none can be "
            "used "
            f"({reasons}); lower data.min_count or choose other codes"
        )
    known = ", ".join(map(repr, first.examples)) or "none on train"
    return ValueError(
        f"{setting} matches no code of {root}; codes there are for example {known}: change the "
        "setting to match the codes whose values the model shall learn"
    )
