"""Ten million rows are read as exactly as a few: once each, in the same steps, for any ranks."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from cvmae.batches.batch import Batch
from cvmae.batches.bricks import iterate_steps, stream_bricks
from cvmae.batches.masking import hidden_counts, sample_hidden
from cvmae.batches.sequences import gather_index
from tests.batches.numbered_rows import RATIO, SECONDS, WEIGHT_C, Case, Written, write_many


@pytest.fixture(scope="module")
def ten_million(tmp_path_factory):
    """Ten million rows of some 50,000 subjects in 20 shards; half are no measurements."""
    case = Case(
        num_rows=10_000_000,
        num_shards=20,
        row_group_size=30_000,
        unit_rows=30_000,
        lanes=4,
        batch_sequences=256,
        sequence_length=256,
        epoch=3,
    )
    return write_many(case, tmp_path_factory.mktemp("ten_million"))


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What a step, or an epoch, holds: sequences in the order of their first row."""

    length_W: np.ndarray
    row_N: np.ndarray
    code_N: np.ndarray
    hours_N: np.ndarray
    hidden_N: np.ndarray

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> "Columns":
        length_W = np.concatenate([np.diff(batch.offsets_B.numpy()) for batch in batches])
        hidden = [np.zeros(batch.num_measurements, bool) for batch in batches]
        for batch, own in zip(batches, hidden, strict=True):
            own[batch.hidden_M.numpy()] = True
        row_N, code_N, hours_N = (
            np.concatenate([getattr(batch, name).numpy() for batch in batches])
            for name in ("value_N", "code_index_N", "hours_N")
        )
        start_W = np.cumsum(length_W) - length_W
        by_row_W = np.argsort(row_N[start_W])
        index_N = gather_index(start_W[by_row_W], length_W[by_row_W])
        return cls(
            length_W=length_W[by_row_W],
            row_N=row_N.astype(np.int64)[index_N],
            code_N=code_N[index_N],
            hours_N=hours_N[index_N],
            hidden_N=np.concatenate(hidden)[index_N],
        )

    def digest(self) -> str:
        return hashlib.sha256(b"".join(a.tobytes() for a in vars(self).values())).hexdigest()


def batches_of(data: Written, rank: int, world: int, step: int = 0) -> Iterator[Batch]:
    bricks = stream_bricks(
        data.reader, data.order, data.units,
        epoch=data.case.epoch, step=step, rank=rank, world=world,
    )  # fmt: skip
    for (batch,) in iterate_steps(bricks, lanes=data.order.lanes // world, step=step):
        yield batch


def digests_of(data: Written, world: int, step: int = 0) -> list[str]:
    ranks = [batches_of(data, rank, world, step) for rank in range(world)]
    return [Columns.of(parts).digest() for parts in zip(*ranks, strict=True)]


@pytest.mark.survival
def test_ten_million_rows_are_exact(ten_million):
    data, row_M, subject_M = ten_million
    assert row_M[-1] < 2**24  # where a float32 value no longer names every row
    assert len(list(data.order.supersteps(3))) >= 8
    steps = [[batch] for batch in batches_of(data, 0, 1)]
    digests = [Columns.of(parts).digest() for parts in steps]
    epoch = Columns.of([batch for parts in steps for batch in parts])

    # Every measurement of a subject that has two comes once, in windows of its own subject.
    kept_M = (num_S := np.bincount(subject_M))[subject_M] > 1
    np.testing.assert_array_equal(epoch.row_N, row_M[kept_M])
    ends_W = np.cumsum(epoch.length_W)
    subject_N = subject_M[kept_M]
    subject_W = subject_N[ends_W - 1]
    np.testing.assert_array_equal(np.repeat(subject_W, epoch.length_W), subject_N)
    windows_S = np.bincount(subject_W, minlength=len(num_S))
    np.testing.assert_array_equal(windows_S, np.where(num_S > 1, -(-num_S // 256), 0))
    base_W = num_S[subject_W] // windows_S[subject_W]
    assert set(np.unique(epoch.length_W - base_W)) == {0, 1}
    # Codes and times are those of the rows; masks those of all sequences drawn at once.
    np.testing.assert_array_equal(epoch.code_N, epoch.row_N % 3)
    first_N = np.repeat(epoch.row_N[ends_W - epoch.length_W], epoch.length_W)
    minutes_N = (epoch.row_N - first_N) * SECONDS // 60
    np.testing.assert_array_equal(epoch.hours_N, minutes_N.astype(np.float32) / np.float32(60))
    first_S = np.searchsorted(subject_N, np.arange(len(num_S)))
    keys = {
        "subject_id_W": subject_W,
        "first_position_W": ends_W - epoch.length_W - first_S[subject_W],
        "length_W": epoch.length_W.astype(np.int64),
        "ratio": RATIO,
        "seed": 0,
        "epoch": 3,
    }
    hidden_W = np.add.reduceat(epoch.hidden_N, ends_W - epoch.length_W, dtype=np.int64)
    np.testing.assert_array_equal(hidden_W, hidden_counts(**keys))
    assert (np.abs(hidden_W - RATIO * epoch.length_W) < 1).all()
    at_once_N = sample_hidden(**keys, weight_N=WEIGHT_C[epoch.code_N])
    np.testing.assert_array_equal(epoch.hidden_N, at_once_N)

    assert digests_of(data, 2) == digests_of(data, 4) == digests
    middle = len(digests) // 2
    assert digests_of(data, 2, step=middle) == digests[middle:]
