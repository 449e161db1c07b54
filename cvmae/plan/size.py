"""How large the data are that a plan is made for."""

from dataclasses import dataclass

from meds.schema import train_split

from cvmae.meds.dataset import Dataset, open_dataset, require_splits

__all__ = ["Size", "dataset_size", "known_size", "size_of"]

FILES = 10_000  # of data of which only the measurements are known


@dataclass(frozen=True, kw_only=True)
class Size:
    """Rows and files of all splits, and the measurements of train, which make an epoch."""

    num_measurements: float
    measurements_why: str
    rows: float
    rows_why: str
    num_files: int
    files_why: str
    bytes_a_row: float | None = None  # on storage; None: not known


def known_size(num_measurements: float, rows_a_measurement: float) -> Size:
    """Return the size of data of which only the measurements are known."""
    return Size(
        num_measurements=num_measurements,
        measurements_why="num_measurements",
        rows=num_measurements * rows_a_measurement,
        rows_why=f"{num_measurements:.3g} x {rows_a_measurement:.3g} rows a measurement",
        num_files=FILES,
        files_why="assumed",
    )


def size_of(root: str, num_measurements: float, rows_a_measurement: float) -> Size:
    """Return the size of a data set, from its footers and its splits.

    Args:
        root: Folder or URI.
        num_measurements: Of train, where that is known; 0: estimated from the rows.
        rows_a_measurement: What it is estimated with.

    Raises:
        FileNotFoundError: There is no such data set.
        ValueError: It is not one, or no subject is in train.
    """
    return dataset_size(open_dataset(root), num_measurements, rows_a_measurement)


def dataset_size(dataset: Dataset, num_measurements: float, rows_a_measurement: float) -> Size:
    """Return the size of a data set that is open; see `size_of`."""
    require_splits(dataset, [train_split])
    rows = sum(shard.num_rows for shard in dataset.shards)
    share = dataset.num_subjects[train_split] / sum(dataset.num_subjects.values())
    estimate = f"rows x {share:.2f} of subjects in train / {rows_a_measurement:.3g} a measurement"
    return Size(
        num_measurements=num_measurements or rows * share / rows_a_measurement,
        measurements_why="num_measurements" if num_measurements else estimate,
        rows=rows,
        rows_why="footers of root",
        num_files=len(dataset.shards),
        files_why="files of root",
        bytes_a_row=sum(shard.size_bytes for shard in dataset.shards) / rows,
    )
