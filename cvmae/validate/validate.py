"""The verb `validate`: everything that pretraining would refuse in a data set, or pass over.

What refuses is decided by the functions that every job reads with, called file by file, so that
one defect does not hide the next. Where none refuses, the statistics are fitted as pretraining
would, which settles what only the whole data set can tell.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
from meds.schema import data_subdirectory, subject_splits_filepath

from cvmae.config import Config, resolved_path, write_config
from cvmae.meds.dataset import Dataset, Shard, Source, open_dataset, require_splits
from cvmae.meds.files import is_shard, open_shard, read_row_groups
from cvmae.meds.reading import read_splits
from cvmae.meds.splits import SPLITS, is_among, load_splits
from cvmae.meds.subjects import scan_subjects
from cvmae.meds.units import Piece, Unit, plan_units
from cvmae.runtime.map_units import map_units
from cvmae.settings import DataConfig
from cvmae.statistics.fit import fit, load_or_fit, require_sequences
from cvmae.statistics.passes import count_duplicates
from cvmae.statistics.vocabulary import CandidateLookup, Candidates, open_candidates
from cvmae.storage.folders import join, written
from cvmae.storage.output import output_folder
from cvmae.storage.places import list_files, map_reads, num_connections
from cvmae.validate.findings import Finding, Level, Validation, as_finding, merge_findings
from cvmae.validate.row_tally import COUNTED, DISORDER, RowTally, tally_rows

__all__ = ["check", "validate"]

# Shape letter: S subjects.
Ints = npt.NDArray[np.int64]

REPORT = "validation.json"
TRAIN, TUNING = SPLITS[:2]
NO_SPLIT = "no split"
SHOWN_CODES = 3


def validate(config: Config) -> str:
    """Check a whole MEDS data set and return a table of findings.

    With `output_dir` the findings are written there, too, as `validation.json`.

    Raises:
        SystemExit: Pretraining would refuse the data set (exit code 1); the table is printed.
        ValueError: `data.root` is empty, or `output_dir` is not new.
    """
    if config.output_dir:
        with output_folder(config.output_dir, "validate", data_root=config.data.root) as folder:
            validation = check(config)
            _write(validation, config, folder)
            text = f"{validation.as_text()}\nwritten to {join(folder, REPORT)}"
    else:
        validation = check(config)
        text = validation.as_text()
    if not validation.accepted:
        print(text)
        raise SystemExit(1)
    return text


def _write(validation: Validation, config: Config, folder: str) -> None:
    with written(join(folder, "config.yaml")) as path:
        write_config(config, path)
    report = json.dumps(validation.as_json(), indent=1, ensure_ascii=False)
    with written(join(folder, REPORT)) as path:
        path.write_text(f"{report}\n", encoding="utf-8")


def check(config: Config) -> Validation:
    """Look at footers, splits and every row; go on behind a defect, to find all of them.

    Raises:
        ValueError: `data.root` is empty.
    """
    if not config.data.root:
        raise ValueError("data.root is empty: say --data.root FOLDER of a MEDS data set")
    root, codes_file = resolved_path(config.data.root), resolved_path(config.data.codes_file)
    config = replace(config, data=replace(config.data, root=root, codes_file=codes_file))
    dataset, findings = _open(root)
    candidates, refused = _candidates(config.data)
    files = _check_files(config, dataset, candidates)
    findings += [*refused, *(found for file in files for found in file.findings)]
    findings += _shared_subjects(files)
    counts = Counter({"shards": len(dataset.shards)})
    for file in files:
        counts.update(file.counts)
    num_subjects: dict[str, int] = {}
    if not any(found.level == "refused" for found in findings):
        num_subjects = _num_subjects(dataset, files)
        findings += [*_split_findings(dataset, files), *_fit_findings(config, dataset)]
    return Validation(
        findings=merge_findings(findings), counts=dict(counts), num_subjects=num_subjects
    )


def _open(root: str) -> tuple[Dataset, list[Finding]]:
    """Return the sound part of a data set, and why the rest is refused."""
    findings: list[Finding] = []
    try:
        dataset = open_dataset(root)
    except (ValueError, FileNotFoundError) as error:
        dataset, findings = _open_what_is_sound(root, error)
    for split in (TRAIN, TUNING) if dataset.members else ():
        try:
            require_splits(dataset, [split])
        except ValueError as error:
            findings.append(replace(as_finding(error), file=subject_splits_filepath))
    return dataset, findings


def _open_what_is_sound(root: str, first: Exception) -> tuple[Dataset, list[Finding]]:
    files = _files(root)
    if not files:
        return Dataset(root=root, members={}, shards=()), [as_finding(first)]
    findings: list[Finding] = []
    members: dict[str, Ints] = {}
    try:
        members = load_splits(root)
    except (ValueError, FileNotFoundError) as error:
        findings.append(as_finding(error, subject_splits_filepath))
    with ThreadPoolExecutor(num_connections(root)) as pool:
        opened = list(pool.map(partial(_open_shard, root), files))
    findings += [found for found in opened if isinstance(found, Finding)]
    shards = tuple(shard for shard in opened if isinstance(shard, Shard))
    if not findings:  # it is of no single file: there are no rows
        findings.append(as_finding(first))
    return Dataset(root=root, members=members, shards=shards), findings


def _files(root: str) -> list[str]:
    """Return the shards; none where there is no folder."""
    try:
        return [path for path, _ in list_files(root, data_subdirectory) if is_shard(path)]
    except (ValueError, FileNotFoundError):
        return []


def _open_shard(root: str, path: str) -> Shard | Finding:
    try:
        with open_shard(root, path) as parquet:
            return Shard(
                path=path,
                num_rows=parquet.metadata.num_rows,
                size_bytes=0,
                row_groups=read_row_groups(parquet, path),
            )
    except ValueError as error:
        return as_finding(error, path)


def _candidates(config: DataConfig) -> tuple[Candidates, list[Finding]]:
    try:
        return open_candidates(config), []
    except (ValueError, FileNotFoundError) as error:
        return Candidates(pattern="", entries=()), [as_finding(error)]


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """A piece of a file, read."""

    path: str
    subject_S: Ints
    findings: tuple[Finding, ...]
    counts: Mapping[str, int]


def _check_files(config: Config, dataset: Dataset, candidates: Candidates) -> list[_Checked]:
    units = plan_units(dataset, config.data.unit_rows)
    if units and config.scaling.num_workers > 0:
        from cvmae.runtime.start_ray import start_ray  # Ray only where it is asked for

        start_ray(config.scaling)
    # Without a table of splits no row can be read for one: order is then the tally's to judge.
    task = partial(_check_unit, dataset.source, candidates)
    parts = map_units(task, units, config.scaling, "validate") if units else ()
    return [file for part in parts for file in part]


def _check_unit(source: Source, candidates: Candidates, unit: Unit) -> list[_Checked]:
    return map_reads(source.root, partial(_check_piece, source, candidates), unit.pieces)


def _check_piece(source: Source, candidates: Candidates, piece: Piece) -> _Checked:
    """Read a piece as pretraining does, then count its rows."""
    root, has_splits = source.root, bool(source.members)
    unit, lookup = Unit(pieces=(piece,), num_rows=0), CandidateLookup(candidates)
    subject_S, num_duplicates = np.empty(0, np.int64), 0
    tally = RowTally(count={}, rows={})
    error: Exception | None = None
    try:
        subject_S = scan_subjects(root, unit)
        read = read_splits(source, unit, lookup, SPLITS) if has_splits else {}
        for measurements, _ in read.values():
            num_duplicates += count_duplicates(measurements, max(len(lookup.names), 1))
    except (ValueError, FileNotFoundError) as caught:
        error = caught
    try:
        with open_shard(root, piece.path) as parquet:
            tally = tally_rows(parquet, piece, lookup)
    except ValueError as caught:
        error = error or caught
    findings = [
        *_disorder(piece.path, tally, error, has_splits),
        *_of_rows(piece.path, tally, COUNTED, "counted"),
    ]
    if num_duplicates:
        findings.append(
            Finding(
                level="counted",
                file=piece.path,
                what="has measurements that repeat a subject, time and code",
                remedy="kept: remove them if they are slips of the export",
                count=num_duplicates,
            )
        )
    return _Checked(
        path=piece.path,
        subject_S=subject_S,
        findings=tuple(findings),
        counts=dict(tally.count) | {"duplicates": num_duplicates},
    )


def _disorder(
    path: str, tally: RowTally, error: Exception | None, has_splits: bool
) -> Iterator[Finding]:
    """Yield what the reader refuses the file for, with all the rows that it is true of."""
    refused = as_finding(error, path) if error else None
    level: Level = "refused" if error or not has_splits else "counted"
    for found in _of_rows(path, tally, DISORDER, level):
        if refused and refused.rows[:1] == found.rows[:1]:
            yield replace(found, what=refused.what, remedy=refused.remedy)
            refused = None
        else:
            yield found
    if refused:
        yield refused


def _of_rows(
    path: str,
    tally: RowTally,
    kinds: Mapping[str, tuple[str, str]],
    level: Level,
) -> Iterator[Finding]:
    for kind, (what, remedy) in kinds.items():
        if number := tally.count.get(kind, 0):
            yield Finding(
                level=level,
                file=path,
                what=what,
                remedy=remedy,
                rows=tally.rows[kind],
                count=number,
            )


def _shared_subjects(files: Sequence[_Checked]) -> Iterator[Finding]:
    """Yield each two files that hold rows of the same subject."""
    subject_S = np.concatenate([np.empty(0, np.int64), *(file.subject_S for file in files)])
    file_S = np.repeat(np.arange(len(files)), [len(file.subject_S) for file in files])
    order_S = np.argsort(subject_S, kind="stable")
    again = np.flatnonzero(np.diff(subject_S[order_S]) == 0)
    pairs = zip(file_S[order_S[again]], file_S[order_S[again + 1]], strict=True)
    for (one, other), number in Counter(pairs).items():
        yield Finding(
            level="refused",
            file=files[one].path,
            what=f"a subject has rows in two files, {files[one].path} and {files[other].path}",
            remedy="MEDS needs all rows of a subject in one file: write the data set again",
            count=number,
        )


def _num_subjects(dataset: Dataset, files: Sequence[_Checked]) -> dict[str, int]:
    found_S = np.concatenate([file.subject_S for file in files])
    counts = {s: int(is_among(own_S, found_S).sum()) for s, own_S in dataset.members.items()}
    return counts | {NO_SPLIT: len(found_S) - sum(counts.values())}


def _split_findings(dataset: Dataset, files: Sequence[_Checked]) -> Iterator[Finding]:
    """Yield what rows and splits do not share, and files without rows."""
    known_S = np.concatenate([*dataset.members.values()])
    found_S = np.concatenate([file.subject_S for file in files])
    counted = partial(Finding, level="counted")
    for shard in dataset.shards:
        if not shard.num_rows:
            yield counted(file=shard.path, what="has no rows", remedy="nothing, or remove it")
    for file in files:
        if number := int(np.count_nonzero(~np.isin(file.subject_S, known_S))):
            yield counted(
                file=file.path,
                what=f"has subjects in {NO_SPLIT} ({', '.join(SPLITS)})",
                remedy=f"not used: enter them in {subject_splits_filepath}",
                count=number,
            )
    for split, listed_S in dataset.members.items():
        absent = int(np.count_nonzero(~np.isin(listed_S, found_S)))
        if absent == len(listed_S):
            what, remedy = f"split {split} has no rows", "check the splits if it should have some"
            yield counted(file=subject_splits_filepath, what=what, remedy=remedy)
        elif absent:
            yield counted(
                file=subject_splits_filepath,
                what=f"lists subjects in {split} that have no rows",
                remedy="nothing, if they have none",
                count=absent,
            )


def _fit_findings(config: Config, dataset: Dataset) -> Iterator[Finding]:
    """Fit as pretraining would, and yield what it refuses, or which codes it leaves out."""
    try:
        fitted = (load_or_fit if config.data.statistics else fit)(config, dataset)
        require_sequences(fitted)
    except (ValueError, FileNotFoundError) as error:
        yield as_finding(error)
        return
    reasons: dict[str, list[str]] = {}
    for code, reason in fitted.report["dropped_codes"].items():
        # "3 values on train (data.min_count=25)": the number is the code's own.
        reasons.setdefault(re.sub(r"^\d+", "too few", reason), []).append(code)
    for reason, codes in reasons.items():
        yield _of_codes("matching codes left out", reason, codes, "nothing, or change the setting")
    if flagged := fitted.report["flagged_codes"]:
        yield _of_codes(
            "codes without a natural zero",
            "mean at or near zero, or values on both sides of it",
            flagged,
            "kept: their mask weight is capped",
        )


def _of_codes(what: str, reason: str, codes: Sequence[str], remedy: str) -> Finding:
    some = ", ".join(map(repr, codes[:SHOWN_CODES])) + (", ..." if codes[SHOWN_CODES:] else "")
    return Finding(
        level="counted", what=f"{what} ({reason}): {some}", remedy=remedy, count=len(codes)
    )
