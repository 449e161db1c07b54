"""The verb `validate`: everything that pretraining would refuse in a data set, or pass over.

What refuses is decided by the functions that every job reads with, called file by file, so that
one defect does not hide the next. Where none refuses, the statistics are fitted as pretraining
would, which settles what only the whole data set can tell.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from meds.schema import code_metadata_filepath, subject_splits_filepath

from cvmae.arrays import Ints
from cvmae.config import Config, resolved_path, write_config
from cvmae.meds.code_names import code_names, read_code_names
from cvmae.meds.dataset import Dataset, Source, open_dataset
from cvmae.meds.files import open_shard
from cvmae.meds.listing import Listing
from cvmae.meds.reading import read_splits
from cvmae.meds.rows import VALUE, find_shared
from cvmae.meds.splits import SPLITS, is_among, other_splits
from cvmae.meds.subjects import scan_subjects
from cvmae.meds.units import Piece, Unit, plan_units
from cvmae.runtime.map_units import map_units
from cvmae.settings import DataConfig
from cvmae.statistics.fit import fit, load_or_fit, require_sequences
from cvmae.statistics.passes import count_duplicates
from cvmae.statistics.vocabulary import CandidateLookup, Candidates, open_candidates
from cvmae.storage.folders import join, written
from cvmae.storage.output import output_folder
from cvmae.storage.places import map_reads
from cvmae.validate.findings import Finding, Level, Validation, as_finding, merge_findings
from cvmae.validate.row_tally import COUNTED, DISORDER, NO_VALUES, RowTally, tally_rows

__all__ = ["check", "validate"]


REPORT = "validation.json"
TRAIN, TUNING, HELD_OUT = SPLITS
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
    findings: list[Finding] = []
    dataset = open_dataset(
        root, (TRAIN, TUNING), lambda error, file: findings.append(as_finding(error, file))
    )
    findings += _left_out(root, dataset.listing)
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
        findings += [
            *_split_findings(dataset, files),
            *_fit_findings(config, dataset, num_subjects),
        ]
    return Validation(
        findings=merge_findings(findings), counts=dict(counts), num_subjects=num_subjects
    )


def _left_out(root: str, listing: Listing) -> Iterator[Finding]:
    """Yield the files that are passed over, and a table of codes that cannot be read."""
    for paths, what in (
        (listing.others, "is not read, since only files that end in .parquet are"),
        (listing.hidden, "is passed over, since it or a folder of it begins with . or _"),
    ):
        for path in paths:
            yield Finding(level="counted", file=path, what=what, remedy="nothing, if it is no data")
    try:
        read_code_names(root)
    except (ValueError, OSError) as error:
        found = as_finding(error, code_metadata_filepath)
        yield replace(found, level="counted", what=f"{found.what}: codes are shown without names")


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
            rows = tally.rows[kind]
            if kind == "null_value" and not tally.has_values:
                (what, remedy), rows = NO_VALUES, ()
            yield Finding(
                level=level,
                file=path,
                what=what,
                remedy=remedy,
                rows=rows,
                count=number,
            )


def _shared_subjects(files: Sequence[_Checked]) -> Iterator[Finding]:
    """Yield each two files that hold rows of the same subject."""
    shared = find_shared([file.subject_S for file in files])
    for (one, other), number in Counter((one, other) for _, one, other in shared).items():
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
    known_S = np.sort(np.concatenate([*dataset.members.values()]))
    found_S = np.sort(np.concatenate([file.subject_S for file in files]))
    counted = partial(Finding, level="counted")
    for shard in dataset.shards:
        if not shard.num_rows:
            yield counted(file=shard.path, what="has no rows", remedy="nothing, or remove it")
    for file in files:
        if number := int(np.count_nonzero(~is_among(known_S, file.subject_S))):
            yield counted(
                file=file.path,
                what=f"has subjects in {NO_SPLIT} ({', '.join(SPLITS)})",
                remedy=f"not used: enter them in {subject_splits_filepath}",
                count=number,
            )
    if others := other_splits(dataset.root):
        yield counted(
            file=subject_splits_filepath,
            what=f"has splits that MEDS does not know: {', '.join(map(repr, others))}",
            remedy=f"not used: rename them {', '.join(SPLITS)}",
            count=sum(others.values()),
        )
    for split, listed_S in dataset.members.items():
        absent = int(np.count_nonzero(~is_among(found_S, listed_S)))
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


def _fit_findings(
    config: Config, dataset: Dataset, num_subjects: Mapping[str, int]
) -> Iterator[Finding]:
    """Fit as pretraining would, and yield what it refuses or leaves out, or evaluation lacks."""
    try:
        fitted = (load_or_fit if config.data.statistics else fit)(config, dataset)
        require_sequences(fitted)
    except (ValueError, FileNotFoundError) as error:
        yield as_finding(error)
        return
    if num_subjects[HELD_OUT] and not fitted.unit_index.num_sequences[HELD_OUT].sum():
        yield Finding(
            level="counted",
            what=f"no subject of {HELD_OUT} has two measurements of the vocabulary",
            remedy="evaluation has nothing to score: check data.code_pattern, the splits and that "
            f"its rows have a {VALUE}",
        )
    flagged = fitted.report["flagged_codes"]
    names_of = code_names(config.data.root, [*fitted.report["dropped_codes"], *flagged])
    reasons: dict[str, list[str]] = {}
    for code, reason in fitted.report["dropped_codes"].items():
        # "3 values on train (data.min_count=25)": the number is the code's own.
        reasons.setdefault(re.sub(r"^[\d,]+ values?", "too few values", reason), []).append(code)
    for reason, codes in reasons.items():
        yield _of_codes(
            "matching codes left out", reason, codes, names_of, "nothing, or change the setting"
        )
    if flagged:
        yield _of_codes(
            "codes without a natural zero",
            "mean at or near zero, or values on both sides of it",
            flagged,
            names_of,
            "kept: with the median mask weight of the others",
        )


def _of_codes(
    what: str, reason: str, codes: Sequence[str], names_of: Mapping[str, str], remedy: str
) -> Finding:
    shown = (f"{c!r} ({names_of[c]})" if c in names_of else repr(c) for c in codes[:SHOWN_CODES])
    some = ", ".join(shown) + (", ..." if codes[SHOWN_CODES:] else "")
    return Finding(
        level="counted", what=f"{what} ({reason}): {some}", remedy=remedy, count=len(codes)
    )
