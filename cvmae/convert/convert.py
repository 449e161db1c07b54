"""The verb `convert`: a public source -> a MEDS data set with splits, codes and labels."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from meds import schema as meds
from tqdm import tqdm

from cvmae.batches.keys import stream_keys, uniform
from cvmae.convert.physionet2012 import Outcome, Record, find_records, read_record
from cvmae.convert.physionet2012_codes import VARIABLES, describe_codes
from cvmae.convert.settings import ConvertConfig
from cvmae.runtime.tables import text_table
from cvmae.storage.folders import written
from cvmae.storage.output import output_folder

__all__ = ["convert", "splits_of"]

SPLITS = (meds.train_split, meds.tuning_split, meds.held_out_split)
SHARES = (0.8, 0.1, 0.1)
LABEL_HOURS = (24, 48)  # after admission to the ICU, within the record's 48 hours
ADMISSION = np.datetime64("2000-01-01T00:00", "m")  # everyone's: the source has no dates
# Ends of stays are known by the day; none may lie within what a label's time allows to be read.
FIRST_END = 48 * 60 + 1
DAY = 24 * 60
ROW_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("time", pa.timestamp("us")),
        pa.field("code", pa.string(), nullable=False),
        pa.field("numeric_value", pa.float32()),
    ]
)
LABEL_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        pa.field("boolean_value", pa.bool_(), nullable=False),
    ]
)
NOTICE = """# Source, licence, attribution

Contains information from "Predicting Mortality of ICU Patients: The PhysioNet/Computing in
Cardiology Challenge 2012" v1.0.0 (PhysioNet), which is made available under the Open Data Commons
Attribution License (ODC-By) v1.0: https://opendatacommons.org/licenses/by/1-0/. Adapted: converted
to MEDS.

Silva I, Moody G, Scott DJ, Celi LA, Mark RG. Predicting In-Hospital Mortality of ICU Patients: The
PhysioNet/Computing in Cardiology Challenge 2012. Comput Cardiol 2012;39:245-248. PMID 24678516.
Source: https://physionet.org/content/challenge-2012/1.0.0/
"""


@dataclass(frozen=True, kw_only=True)
class _Row:
    minute: int | None  # since admission; None: of no time
    code: str
    value: float | None = None


def convert(config: ConvertConfig) -> str:
    """Write the source as a MEDS data set; return a table of what became of it.

    Raises:
        FileNotFoundError: Files of the source are not there.
        ValueError: A line of them is malformed, the output is not new, or the splits given leave
            a record out.
    """
    files, outcomes = find_records(config.input)
    subject_S = np.array(list(files), np.int64)
    split_S = splits_of(config, subject_S)
    counts: Counter[str] = Counter()
    with (
        output_folder(
            config.output,
            "convert",
            setting="output",
            only_local="give a folder of this machine, and copy it there",
        ) as folder,
        written(folder) as root,  # whole or not at all: a line may be malformed
    ):
        bar = tqdm(total=len(files), desc="records", disable=None)
        for split in SPLITS:
            own_S = subject_S[split_S == split]
            (root / meds.data_subdirectory / split).mkdir(parents=True)
            for number, first in enumerate(range(0, len(own_S), config.shard_subjects)):
                shard_S = own_S[first : first + config.shard_subjects]
                table = _shard(shard_S, files, outcomes, counts)
                path = root / meds.data_subdirectory / split / f"{number}.parquet"
                pq.write_table(table, path, compression="zstd", write_page_checksum=True)
                counts[f"rows of {split}"] += len(table)
                bar.update(len(shard_S))
            _write_labels(root, split, own_S, outcomes)
            counts[f"subjects of {split}"] = len(own_S)
        bar.close()
        _write_metadata(root, subject_S, split_S)
    rows = [(name, f"{count:,}") for name, count in counts.items()]
    return text_table(("what", "number"), rows) + f"\n\nData set: {folder}"


def splits_of(config: ConvertConfig, subject_S: npt.NDArray[np.int64]) -> npt.NDArray[np.str_]:
    """Return each subject's split: from the table given, or by a hash of seed and subject."""
    if not config.splits:
        keys_S = stream_keys(config.seed, 0, subject_S, stream="split")
        place_S = np.searchsorted(np.cumsum(SHARES)[:2], uniform(keys_S), side="right")
        return np.array(SPLITS)[place_S]
    try:
        table = pq.read_table(config.splits, columns=["subject_id", "split"])
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"splits={config.splits} cannot be read as a table of subject_id and split ({error})"
        ) from None
    pairs = zip(table["subject_id"].to_pylist(), table["split"].to_pylist(), strict=True)
    known = dict(pairs)
    missing = [subject for subject in subject_S.tolist() if known.get(subject) not in SPLITS]
    if missing:
        raise ValueError(
            f"splits={config.splits} has no split of {', '.join(SPLITS)} for {len(missing)} of "
            f"{len(subject_S)} records; give one that has all of them, or none"
        )
    return np.array([known[subject] for subject in subject_S.tolist()])


def _shard(
    subject_S: npt.NDArray[np.int64],
    files: dict[int, Path],
    outcomes: dict[int, Outcome],
    counts: Counter[str],
) -> pa.Table:
    """Return the rows of some subjects; add to the counts what was passed over."""
    subjects: list[int] = []
    rows: list[_Row] = []
    for subject in subject_S.tolist():
        record = read_record(files[subject])
        counts.update({f"lines {why}": n for why, n in record.passed_over.items()})
        own = _rows(record, outcomes[subject])
        rows += own
        subjects += [subject] * len(own)
    timed_N = np.array([row.minute is not None for row in rows])
    minute_N = np.array([row.minute or 0 for row in rows], dtype="timedelta64[m]")
    time_N = (ADMISSION + minute_N).astype("datetime64[us]")
    return pa.Table.from_arrays(
        [
            pa.array(subjects, pa.int64()),
            pa.array(time_N, pa.timestamp("us"), mask=~timed_N),
            pa.array([row.code for row in rows], pa.string()),
            pa.array([row.value for row in rows], pa.float32()),
        ],
        schema=ROW_SCHEMA,
    )


def _rows(record: Record, outcome: Outcome) -> list[_Row]:
    """Return a stay's rows in MEDS order: without time first, then by time."""
    rows = [] if record.gender is None else [_Row(minute=None, code=f"GENDER//{record.gender}")]
    if record.age is not None:
        year = ADMISSION.astype("datetime64[Y]") - np.timedelta64(record.age, "Y")
        born = (year.astype("datetime64[m]") - ADMISSION).astype(int)
        rows.append(_Row(minute=int(born), code="MEDS_BIRTH"))
    rows.append(_Row(minute=0, code=f"ICU_ADMISSION//{record.unit_type}"))
    rows += [
        _Row(minute=minute, code=VARIABLES[name].code(name), value=value)
        for minute, name, value in zip(record.minutes, record.variables, record.values, strict=True)
    ]
    return rows + sorted(_ends(outcome), key=lambda row: row.minute or 0)


def _ends(outcome: Outcome) -> list[_Row]:
    """Return discharge and death; who dies in hospital dies as the stay ends."""
    stay, death = outcome.length_of_stay, outcome.survival
    if outcome.died_in_hospital:
        stay = death = stay if stay is not None else death
    how = "DIED" if outcome.died_in_hospital else "ALIVE"
    days = ((f"HOSPITAL_DISCHARGE//{how}", stay), ("MEDS_DEATH", death))
    return [
        _Row(minute=max(day * DAY, FIRST_END), code=code) for code, day in days if day is not None
    ]


def _write_labels(
    root: Path, split: str, subject_S: Sequence[int], outcomes: dict[int, Outcome]
) -> None:
    died = [outcomes[int(subject)].died_in_hospital for subject in subject_S]
    for hours in LABEL_HOURS:
        folder = root / "labels" / f"in_hospital_mortality_{hours}h" / split
        folder.mkdir(parents=True)
        when = (ADMISSION + np.timedelta64(hours, "h")).astype("datetime64[us]").item()
        columns = [subject_S, [when] * len(died), died]
        table = pa.Table.from_arrays(
            [pa.array(c, f.type) for c, f in zip(columns, LABEL_SCHEMA, strict=True)],
            schema=LABEL_SCHEMA,
        )
        pq.write_table(table, folder / "0.parquet", compression="zstd")


def _write_metadata(
    root: Path, subject_S: npt.NDArray[np.int64], split_S: npt.NDArray[np.str_]
) -> None:
    (root / "metadata").mkdir()
    splits = pa.table({"subject_id": subject_S, "split": pa.array(split_S.tolist(), pa.string())})
    pq.write_table(splits, root / meds.subject_splits_filepath)
    pq.write_table(describe_codes(), root / meds.code_metadata_filepath)
    about = {
        "dataset_name": "physionet2012",
        "dataset_version": "1.0.0",
        "etl_name": "cvmae.convert",
        "etl_version": "1",
        "meds_version": "0.4",
        "license": "ODC-By-1.0",
        "location_uri": "https://physionet.org/content/challenge-2012/1.0.0/",
    }
    (root / meds.dataset_metadata_filepath).write_text(json.dumps(about), encoding="utf-8")
    (root / "NOTICE.md").write_text(NOTICE, encoding="utf-8")
