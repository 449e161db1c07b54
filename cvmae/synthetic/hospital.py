"""Write a synthetic hospital as a MEDS data set, any size, the same for any number of shards.

The law of the values, and what is known of them in closed form, is in `synthetic_process`; a
subject's random numbers become arrays in `synthetic_subjects` and MEDS rows in
`synthetic_rows`.
"""

import json
import multiprocessing
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from meds import schema as meds
from tqdm import tqdm

from cvmae.arrays import Ints
from cvmae.storage.output import output_folder
from cvmae.synthetic.process import SyntheticConfig, code_laws, code_truth, mix, uniforms
from cvmae.synthetic.rows import ROW_SCHEMA, assemble_labels, assemble_rows, describe_codes
from cvmae.synthetic.subjects import num_draws, sample_subjects, subject_keys

__all__ = [
    "SyntheticConfig",
    "code_truth",
    "generate",
    "num_shards_of",
    "read_synthetic_config",
    "require_no_data",
    "write_hospital",
]

SPLITS = (meds.train_split, meds.tuning_split, meds.held_out_split)
TASK = "in_hospital_mortality"
CHUNK_ROWS = 250_000


def write_hospital(config: SyntheticConfig) -> str:
    """Write a data set of MEDS 0.4 with labels and the truth behind it; return its folder.

    Beside the files that MEDS asks for: ``metadata/truth.parquet`` (`code_truth`),
    ``metadata/synthetic.json`` (the settings) and ``labels/in_hospital_mortality`` (known 24 h
    after the last admission, driven by the severity).

    Raises:
        ValueError: The folder holds a data set already.
    """
    with output_folder(
        config.root,
        "synthesize",
        setting="root",
        check=require_no_data,
        only_local="give a folder of this machine, and copy it there",
    ) as folder:
        return _write_hospital(replace(config, root=folder))


def require_no_data(folder: str) -> None:
    """Refuse a folder that holds a data set."""
    if Path(folder, meds.data_subdirectory).exists():
        raise ValueError(f"root={folder} is not a new folder: give one that has no data yet")


def _write_hospital(config: SyntheticConfig) -> str:
    root = Path(config.root)
    (root / "metadata").mkdir(parents=True, exist_ok=True)
    split_S = _splits(config)
    shards = []
    for number, split in enumerate(SPLITS):
        folder = root / meds.data_subdirectory / split
        folder.mkdir(parents=True)
        parts = np.array_split(np.flatnonzero(split_S == number), num_shards_of(config, number))
        shards += [(split, str(folder / f"{k}.parquet"), part) for k, part in enumerate(parts)]
    write = partial(_write_shard, config)
    labels: dict[str, list[pa.Table]] = {split: [] for split in SPLITS}
    with _executor(min(config.num_processes, len(shards))) as pool:
        paths, subjects = [path for _, path, _ in shards], [part for _, _, part in shards]
        tables = pool.map(write, paths, subjects) if pool else map(write, paths, subjects)
        bar = tqdm(tables, total=len(shards), desc="synthetic shards", disable=None)
        for (split, _, _), table in zip(shards, bar, strict=True):
            labels[split].append(table)
    for split in SPLITS:
        folder = root / "labels" / TASK / split
        folder.mkdir(parents=True)
        pq.write_table(pa.concat_tables(labels[split]), folder / "0.parquet", compression="zstd")
    _write_metadata(config, root, split_S)
    return config.root


def num_shards_of(config: SyntheticConfig, split: int) -> int:
    """Return the shards of a split, by its number."""
    share = config.split_shares[split] / config.split_shares[0]
    return max(1, round(config.num_shards * share))


def generate(config: SyntheticConfig, subject_S: Ints) -> pa.Table:
    """Return the MEDS rows of some subjects, numbered from 0 to ``num_subjects`` - 1.

    Rows are sorted by subject and time, null times first. Scale tests need no file with this.
    """
    subject_S = np.asarray(subject_S, dtype=np.int64)
    return assemble_rows(config, _subject_ids(subject_S), sample_subjects(config, subject_S))


def read_synthetic_config(root: str) -> SyntheticConfig:
    """Read the settings that `write_hospital` left beside the data.

    Raises:
        FileNotFoundError: The data set is not a synthetic hospital.
    """
    path = Path(root) / "metadata" / "synthetic.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: only data that jobs/synthesize.py wrote has a known truth"
        )
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["split_shares"] = tuple(settings["split_shares"])
    return SyntheticConfig(root=root, **settings)


def _executor(num_processes: int) -> "Executor | nullcontext[None]":
    if num_processes == 1:
        return nullcontext()
    # Not by fork: the parent may run threads (pyarrow, Ray), whose locks a fork would copy.
    return ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"))


def _splits(config: SyntheticConfig) -> Ints:
    """Return the split's number of each subject; shares are met within a subject or two."""
    # Multiples of the golden ratio fill [0, 1) evenly at any count, unlike independent draws.
    place_S = np.arange(config.num_subjects) * 0.6180339887498949 % 1.0
    shift = float(uniforms(np.uint64(config.seed), 40, np.zeros(1, np.int64))[0])
    return np.searchsorted(np.cumsum(config.split_shares)[:2], (place_S + shift) % 1.0, "right")


def _subject_ids(subject_S: Ints) -> Ints:
    """Return ids that grow with the subject's number and leave gaps, as real ones do."""
    gap_S = mix(subject_S.astype(np.uint64)) % np.uint64(7)
    return 10_000_000 + 7 * subject_S + gap_S.astype(np.int64)


def _write_shard(config: SyntheticConfig, path: str, subject_S: Ints) -> pa.Table:
    """Write one shard chunk by chunk; return the labels of its subjects."""
    # A chunk holds about CHUNK_ROWS rows, whatever the subjects' lengths.
    rows_S = num_draws(config, subject_keys(config, subject_S)) * code_laws(config).rows_per_draw
    rows_S = rows_S / (1 - config.other_row_share)
    chunk_S = (np.cumsum(rows_S) // CHUNK_ROWS).astype(np.int64)
    labels = []
    with pq.ParquetWriter(path, ROW_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        for chunk in np.split(subject_S, np.flatnonzero(np.diff(chunk_S)) + 1):
            subjects = sample_subjects(config, chunk)
            ids_S = _subject_ids(chunk)
            writer.write_table(
                assemble_rows(config, ids_S, subjects), row_group_size=config.row_group_rows
            )
            labels.append(assemble_labels(ids_S, subjects))
    return pa.concat_tables(labels)


def _write_metadata(config: SyntheticConfig, root: Path, split_S: Ints) -> None:
    ids_S = _subject_ids(np.arange(config.num_subjects))
    split = pa.DictionaryArray.from_arrays(split_S.astype(np.int32), pa.array(SPLITS))
    splits = pa.table({"subject_id": ids_S, "split": split.cast(pa.string())})
    pq.write_table(splits, root / meds.subject_splits_filepath)
    pq.write_table(describe_codes(config), root / meds.code_metadata_filepath)
    pq.write_table(code_truth(config), root / "metadata" / "truth.parquet")
    settings = {name: value for name, value in asdict(config).items() if name != "root"}
    (root / "metadata" / "synthetic.json").write_text(json.dumps(settings), encoding="utf-8")
    about = {
        "dataset_name": "synthetic hospital (made-up data, of no patient)",
        "dataset_version": f"seed {config.seed}",
        "etl_name": "cvmae.synthetic.hospital",
        "meds_version": "0.4",
    }
    (root / meds.dataset_metadata_filepath).write_text(json.dumps(about), encoding="utf-8")
