"""The settings of `convert`: a small tree of their own."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["ConvertConfig"]


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Write a public source as a MEDS data set with splits and labels."""

    source: Literal["physionet2012"]
    """Which: the PhysioNet/CinC Challenge 2012."""
    input: str
    """Folder of its files as they are published, unpacked: set-a, set-b and set-c with a file a
    record, and Outcomes-a.txt and so on beside them."""
    output: str
    """New folder for the data set."""
    splits: str = ""
    """A subject_splits.parquet to take the splits from; empty: drawn by the seed, 80% of subjects
    to train, 10% each to tuning and held_out."""
    seed: int = 0
    """Seed of the splits."""
    shard_subjects: int = 800
    """Subjects of a shard at most."""

    def __post_init__(self) -> None:
        if self.shard_subjects < 1:
            raise ValueError(
                f"shard_subjects={self.shard_subjects} is not allowed: give at least 1"
            )
