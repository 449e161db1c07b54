"""The verb `fit_statistics`: two passes over a data set -> what every later step relies on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from cvmae.config import Config, resolved_path, write_config
from cvmae.meds.code_names import code_names
from cvmae.meds.dataset import fingerprint, open_dataset, require_split
from cvmae.meds.reading import read_splits, read_unit_and_subjects, refuse_shared_subjects
from cvmae.meds.splits import SPLITS, load_splits
from cvmae.meds.unit_index import UnitIndex
from cvmae.meds.units import Dataset, Unit, plan_units
from cvmae.runtime.map_units import map_units
from cvmae.settings import DataConfig
from cvmae.statistics.code_statistics import CodeStatistics, MemberLookup, flagged_codes
from cvmae.statistics.fitted import FittedData, fit_settings, plain
from cvmae.statistics.histogram import median_deviation, quantile_bounds, quantile_value
from cvmae.statistics.passes import (
    FirstPass,
    SecondPass,
    SplitCounts,
    first_pass,
    second_pass,
    split_counts,
)
from cvmae.statistics.table import format_statistics
from cvmae.statistics.vocabulary import CandidateLookup, Candidates, choose_codes, open_candidates
from cvmae.storage.folders import is_file, join, names, written

__all__ = [
    "FittedData",
    "fit",
    "fit_statistics",
    "load_or_fit",
    "open_trainable",
    "require_sequences",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TRAIN, TUNING = SPLITS[:2]
# Shape letters: C codes of the vocabulary, K candidate codes, U units.


def fit_statistics(config: Config) -> str:
    """Fit the statistics of `data.root`, write them to `output_dir`, and return a table.

    Raises:
        ValueError: `output_dir` is not new, or the data cannot be used (see `fit`).
        FileNotFoundError: The data set is not there.
    """
    if not config.output_dir:
        raise ValueError("output_dir is empty: say --output_dir FOLDER")
    folder = resolved_path(config.output_dir)
    if is_file(folder) or names(folder):
        raise ValueError(f"output_dir={folder} is not empty: choose a new folder")
    dataset = _open(config, TRAIN)  # what footers and splits tell needs no Ray
    if config.scaling.num_workers > 0:
        from cvmae.runtime.start_ray import start_ray  # Ray only where it is asked for

        start_ray(config.scaling)
    fitted = _fit(config, dataset)
    fitted.write(folder)
    with written(join(folder, "config.yaml")) as path:
        write_config(config, path)
    names_of = code_names(dataset.root, fitted.statistics.codes)
    table = format_statistics(fitted.statistics, fitted.report, names_of)
    return f"{table}\nwritten to {folder}"


def load_or_fit(config: Config) -> FittedData:
    """Return the statistics in `data.statistics`, or in `output_dir`, or fit them there.

    Raises:
        ValueError: Those that are there belong to other data or settings, or see `fit`.
        FileNotFoundError: `data.statistics` is no folder of statistics.
    """
    own = join(config.output_dir, "statistics")
    given = config.data.statistics or (own if is_file(join(own, "data.json")) else "")
    if not given:
        fitted = fit(config)
        fitted.write(own)
        return fitted
    fitted = FittedData.read(given)
    found = fitted.settings | fitted.fingerprint
    wanted = fit_settings(config) | plain(fingerprint(open_dataset(_root(config))))
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


def open_trainable(config: Config) -> Dataset:
    """Look at footers and splits before anything is started or written.

    Raises:
        ValueError: See `open_dataset`, or train or tuning has no subject.
        FileNotFoundError: The data set is not there.
    """
    return _open(config, TRAIN, TUNING)


def require_sequences(fitted: FittedData) -> None:
    """Refuse data in which train or tuning has nothing that can be hidden and restored.

    Raises:
        ValueError: No subject of the split has two measurements.
    """
    for split in (TRAIN, TUNING):
        if not fitted.unit_index.num_sequences[split].sum():
            raise ValueError(
                f"no subject of {split} has two measurements of the vocabulary: check "
                "data.code_pattern and the splits"
            )


def fit(config: Config) -> FittedData:
    """Take statistics from train, and count the sequences of every split, in two passes.

    Raises:
        ValueError: No code can be used, train is empty, a subject is in two files, or a file
            is not in MEDS order.
        FileNotFoundError: The data set or `data.codes_file` is not there.
    """
    return _fit(config, _open(config, TRAIN))


def _open(config: Config, *splits: str) -> Dataset:
    dataset = open_dataset(_root(config))
    for split in splits:
        require_split(dataset, split)
    return dataset


def _fit(config: Config, dataset: Dataset) -> FittedData:
    root = dataset.root
    # Tasks on Ray run in another folder: nothing relative may reach them.
    paths = replace(config.data, root=root, codes_file=resolved_path(config.data.codes_file))
    config = replace(config, data=paths)
    candidates = open_candidates(config.data)
    units = plan_units(dataset, config.data.unit_rows)

    first, subjects = _run_first_pass(config, candidates, units)
    refuse_shared_subjects(root, units, subjects)
    low_K, high_K = _clip_bounds(first, config.data.clip_quantiles)
    constant_K = np.maximum(first.minimum, low_K) >= np.minimum(first.maximum, high_K)
    chosen_C, dropped = choose_codes(
        config.data, candidates, first.names, first.moments.num_values, constant_K
    )
    if not chosen_C:
        raise _no_codes(config.data, root, first, dropped)
    entries = {codes[0]: codes for codes in candidates.entries}
    members = tuple(entries.get(name, (name,)) for name in (first.names[k] for k in chosen_C))

    splits_U = [_splits_of(root, subject_S) for subject_S in subjects]
    second, counts_U = _run_second_pass(
        config, list(zip(units, splits_U, strict=True)), members, low_K[chosen_C], high_K[chosen_C]
    )
    statistics = _assemble(members, first, chosen_C, low_K, high_K, second)
    unsplit = [np.setdiff1d(subject_S, load_splits(root)[0]) for subject_S in subjects]
    report = {
        "splits": _split_report(counts_U, dataset.num_subjects),
        "num_subjects_without_split": sum(map(len, unsplit)),
        "candidate_rows": asdict(first.rows),
        "num_duplicates": second.num_duplicates,
        "dropped_codes": dropped,
        "flagged_codes": list(compress(statistics.codes, flagged_codes(statistics))),
    }
    return FittedData(
        statistics=statistics,
        unit_index=_unit_index(units, counts_U),
        fingerprint=plain(fingerprint(dataset)),
        settings=fit_settings(config),
        report=plain(report),
    )


def _run_first_pass(
    config: Config, candidates: Candidates, units: Sequence[Unit]
) -> tuple[FirstPass, list[Ints]]:
    total: FirstPass | None = None
    subjects: list[Ints] = []
    task = partial(_first_pass_task, _root(config), candidates)
    for part, subject_S in map_units(task, units, config.scaling, "code statistics, pass 1"):
        total = part if total is None else total.merge(part)
        subjects.append(subject_S)
    assert total is not None, "open_dataset refuses a data set without rows"
    return total, subjects


def _first_pass_task(root: str, candidates: Candidates, unit: Unit) -> tuple[FirstPass, Ints]:
    lookup = CandidateLookup(candidates)
    measurements, rows, subject_S = read_unit_and_subjects(root, unit, lookup, TRAIN)
    return first_pass(measurements, rows, lookup.names, lookup.examples()), subject_S


SplitItem = tuple[Unit, tuple[str, ...]]


def _run_second_pass(
    config: Config,
    items: Sequence[SplitItem],
    members: Sequence[tuple[str, ...]],
    low_C: Floats,
    high_C: Floats,
) -> tuple[SecondPass, list[dict[str, SplitCounts]]]:
    total: SecondPass | None = None
    counts_U: list[dict[str, SplitCounts]] = []
    task = partial(_second_pass_task, config, MemberLookup(members), low_C, high_C)
    for part, counts in map_units(task, items, config.scaling, "code statistics, pass 2"):
        if part is not None:
            total = part if total is None else total.merge(part)
        counts_U.append(counts)
    assert total is not None, "codes are chosen only where train has values"
    return total, counts_U


def _second_pass_task(
    config: Config, lookup: MemberLookup, low_C: Floats, high_C: Floats, item: SplitItem
) -> tuple[SecondPass | None, dict[str, SplitCounts]]:
    unit, splits = item
    part: SecondPass | None = None
    counts: dict[str, SplitCounts] = {}
    for split, (measurements, rows) in read_splits(_root(config), unit, lookup, splits).items():
        counts[split] = split_counts(
            measurements,
            rows,
            config.data.sequence_length,
            crop=config.data.crop and split == TRAIN,
        )
        if split == TRAIN:
            part = second_pass(measurements, low_C, high_C)
    return part, counts


def _splits_of(root: str, subject_S: Ints) -> tuple[str, ...]:
    """Return the splits that have subjects among these, so that pass 2 reads no other."""
    known_S, split_index_S = load_splits(root)
    present = np.unique(split_index_S[np.isin(known_S, subject_S, assume_unique=True)])
    return tuple(SPLITS[number] for number in present)


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
    members: Sequence[tuple[str, ...]],
    first: FirstPass,
    chosen_C: Sequence[int],
    low_K: Floats,
    high_K: Floats,
    second: SecondPass,
) -> CodeStatistics:
    places = np.array(chosen_C)
    quantiles = np.empty((4, len(places)))
    for code, place in enumerate(places):
        bin_B, count_B = first.histogram.of_code(place)
        q25, median, q75 = (quantile_value(bin_B, count_B, q) for q in (0.25, 0.5, 0.75))
        quantiles[:, code] = q25, median, q75, median_deviation(bin_B, count_B, median)
    minimum, maximum = first.minimum[places], first.maximum[places]
    return CodeStatistics(
        codes=tuple(codes[0] for codes in members),
        members=tuple(members),
        num_values=second.moments.num_values,
        num_subjects=second.moments.num_subjects,
        minimum=minimum,
        maximum=maximum,
        raw_mean=first.moments.mean[places].astype(np.float64),
        raw_std=first.moments.std[places],
        clip_low=low_K[places],
        clip_high=high_K[places],
        mean=second.moments.mean.astype(np.float64),
        std=second.moments.std,
        q25=np.clip(quantiles[0], minimum, maximum),
        median=np.clip(quantiles[1], minimum, maximum),
        q75=np.clip(quantiles[2], minimum, maximum),
        mad=quantiles[3],
        within_subject_std=second.moments.within_subject_std,
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


def _no_codes(
    config: DataConfig, root: str, first: FirstPass, dropped: Mapping[str, str]
) -> ValueError:
    setting = (
        f"data.codes_file={config.codes_file}"
        if config.codes_file
        else f"data.code_pattern={config.code_pattern!r}"
    )
    if first.names:
        reasons = "; ".join(f"{code!r}: {reason}" for code, reason in list(dropped.items())[:3])
        return ValueError(
            f"{setting} matches {len(first.names)} codes of {root}, but none can be used "
            f"({reasons}); lower data.min_count or choose other codes"
        )
    known = ", ".join(map(repr, first.examples)) or "none on train"
    return ValueError(
        f"{setting} matches no code of {root}; codes there are for example {known}: change the "
        "setting to match the codes whose values the model shall learn"
    )


def _root(config: Config) -> str:
    if not config.data.root:
        raise ValueError("data.root is empty: say --data.root FOLDER of a MEDS data set")
    return resolved_path(config.data.root)
