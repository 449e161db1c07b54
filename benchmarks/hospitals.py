"""The synthetic hospital of the benchmark, and the same rows in other files.

Copies keep whole subjects in whole files. Everything is written once per folder: a folder whose
splits table is there is whole, since that is written last.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from meds.schema import data_subdirectory, subject_splits_filepath

from benchmarks.clock import progress
from cvmae.meds.rows import SUBJECT
from cvmae.synthetic.hospital import SyntheticConfig, write_hospital

__all__ = ["labs_only", "multiply", "regroup", "reshard", "synthetic_hospital", "tiny_files"]

ROWS_PER_SUBJECT = 417  # of the generator with its default settings
ROW_GROUP_ROWS = 131_072
LARGE = 1_000_000  # rows from which a second process pays


def synthetic_hospital(folder: Path, num_rows: int, *, row_group_rows: int = ROW_GROUP_ROWS) -> str:
    """Write a hospital of about so many rows, half of them measurements; return its root."""
    root = folder / f"hospital_{num_rows}_{row_group_rows}"

    def write(aside: Path) -> None:
        write_hospital(
            SyntheticConfig(
                root=str(aside),
                num_subjects=max(60, num_rows // ROWS_PER_SUBJECT),
                num_shards=10,
                row_group_rows=row_group_rows,
                num_processes=2 if num_rows >= LARGE else 1,
            )
        )

    return _once(root, write, f"{num_rows:,} rows of a synthetic hospital")


def tiny_files(folder: Path, num_files: int) -> str:
    """Write a hospital of so many files of train with a few rows each; return its root."""
    root = folder / f"tiny_{num_files}"

    def write(aside: Path) -> None:
        write_hospital(
            SyntheticConfig(
                root=str(aside),
                num_subjects=3 * num_files,
                median_measurements=5,
                num_shards=num_files,
            )
        )

    return _once(root, write, f"a hospital of {num_files:,} files with next to nothing in them")


def multiply(source: str, target: Path, times: int) -> str:
    """Write every shard so many times, with other subjects; the law of the data is the same."""

    def write(aside: Path) -> None:
        splits = pq.read_table(Path(source) / subject_splits_filepath)
        shift = pc.max(splits[SUBJECT]).as_py() + 1
        for copy in range(times):
            for path in _shards(source):
                table = _shift(pq.read_table(Path(source) / path), copy * shift)
                place = Path(path)
                rows = pq.read_metadata(Path(source) / path).row_group(0).num_rows
                _write(table, aside / place.with_name(f"{place.stem}_{copy}.parquet"), rows)
        (aside / "metadata").mkdir()
        copies = pa.concat_tables([_shift(splits, copy * shift) for copy in range(times)])
        pq.write_table(copies, aside / subject_splits_filepath)

    return _once(target, write, f"a hospital {times} times as large")


def regroup(source: str, target: Path, row_group_rows: int) -> str:
    """Write the same files with other row groups."""

    def write(aside: Path) -> None:
        for path in _shards(source):
            _write(pq.read_table(Path(source) / path), aside / path, row_group_rows)
        shutil.copytree(Path(source) / "metadata", aside / "metadata")

    return _once(target, write, f"row groups of {row_group_rows:,} rows")


def reshard(source: str, target: Path, num_shards: int) -> str:
    """Write the same rows in so many files, each with about as many subjects."""

    def write(aside: Path) -> None:
        total = pq.read_metadata(Path(source) / subject_splits_filepath).num_rows
        seen = 0
        for path in _shards(source):
            table = pq.read_table(Path(source) / path)
            starts = _subject_starts(table)
            before, seen = seen, seen + len(starts)
            num_parts = max(
                1, round(seen / total * num_shards) - round(before / total * num_shards)
            )
            firsts = [part[0] for part in np.array_split(starts, num_parts) if len(part)]
            ends = [*firsts[1:], table.num_rows]
            for number, (first, end) in enumerate(zip(firsts, ends, strict=True)):
                place = aside / Path(path).with_suffix("") / f"{number}.parquet"
                _write(table.slice(first, end - first), place, ROW_GROUP_ROWS)
        shutil.copytree(Path(source) / "metadata", aside / "metadata")

    return _once(target, write, f"the same rows in {num_shards:,} files")


def labs_only(source: str, target: Path, codes: tuple[str, ...]) -> str:
    """Write only rows that are measurements of the given codes: with a time and a value."""

    def write(aside: Path) -> None:
        for path in _shards(source):
            table = pq.read_table(Path(source) / path)
            kept = pc.is_in(table["code"], pa.array(codes))
            kept = pc.and_(
                kept, pc.and_(table["time"].is_valid(), table["numeric_value"].is_valid())
            )
            _write(table.filter(kept), aside / path, ROW_GROUP_ROWS)
        shutil.copytree(Path(source) / "metadata", aside / "metadata")

    return _once(target, write, "the measurements alone")


def _once(root: Path, write: Callable[[Path], None], what: str) -> str:
    """Write a data set aside and rename it, unless it is there."""
    if not (root / subject_splits_filepath).is_file():
        progress("writing %s to %s", what, root)
        aside = root.with_name(f"{root.name}.aside")
        shutil.rmtree(aside, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        aside.rename(root)
    return str(root)


def _shards(root: str) -> Iterator[str]:
    """Yield the shards' paths below the root, sorted."""
    folder = Path(root) / data_subdirectory
    yield from (path.relative_to(root).as_posix() for path in sorted(folder.rglob("*.parquet")))


def _shift(table: pa.Table, shift: int) -> pa.Table:
    place = table.column_names.index(SUBJECT)
    return table.set_column(place, table.field(SUBJECT), pc.add(table[SUBJECT], shift))


def _subject_starts(table: pa.Table) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    subject_N = table[SUBJECT].to_numpy()
    changes = np.flatnonzero(subject_N[1:] != subject_N[:-1]) + 1
    return np.concatenate([np.zeros(1, np.int64), changes])


def _write(table: pa.Table, path: Path, row_group_rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", row_group_size=row_group_rows)
