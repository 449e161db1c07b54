"""Batches at recurring sizes, in memory that stays: what a CUDA graph can be replayed on.

Packed batches differ in size from step to step, and a small model on a fast GPU waits for the host
to launch its kernels one by one. Here the rows of a batch are written over those of the last one
of its size, up to the next of the sizes that recur. What lies beyond is in sequences of its own,
which no other sees and whose errors weigh nothing: left-overs of earlier batches.
"""

from dataclasses import replace
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from cvmae.arrays import Ints
from cvmae.batches.batch import Batch, make_batch

__all__ = ["StaticBatch", "StaticSize", "round_up"]

SIZES_PER_OCTAVE, SMALLEST = 32, 64


class StaticSize(NamedTuple):
    """Numbers of rows that recur, with what is beyond the batch's own."""

    visible: int
    hidden: int
    sequences: int

    @classmethod
    def of(cls, batch: Batch, longest: int) -> Self:
        """Return the size for a batch; no device is asked.

        Args:
            batch: Any.
            longest: Measurements of a sequence at most.
        """
        length_B = batch.num_visible_B + batch.num_hidden_B
        assert length_B.max(initial=0) <= longest, "a sequence is longer than data.sequence_length"
        num_visible, num_hidden = int(batch.num_visible_B.sum()), int(batch.num_hidden_B.sum())
        visible, hidden = round_up(num_visible), round_up(num_hidden)
        # As many more sequences as the most rows beyond could need, so that their number recurs.
        beyond = (visible + hidden) // SIZES_PER_OCTAVE + 2 * SMALLEST
        # Two less, since rows are spread evenly, visible and hidden ones each rounded up.
        sequences = round_up(batch.num_sequences + beyond // max(longest - 2, 1) + 1)
        return cls(visible=visible, hidden=hidden, sequences=sequences)


def round_up(size: int) -> int:
    """Return the smallest of the recurring sizes that is larger; all are multiples of 64.

    Example:
        >>> [round_up(size) for size in (0, 63, 64, 1000, 49_000)]
        [64, 64, 128, 1024, 49152]
    """
    step = max(SMALLEST, (1 << size.bit_length()) // (2 * SIZES_PER_OCTAVE))
    return (size // step + 1) * step


class StaticBatch:
    """A batch whose tensors keep their place, and which of its rows are its own.

    Args:
        size: Of the batches that it holds.
        device: Where.
        weighs_errors: Whether they tell how much each hidden value's error counts.
        asks_all: Whether errors of visible values count, too.
    """

    def __init__(
        self,
        size: StaticSize,
        device: torch.device,
        *,
        weighs_errors: bool = False,
        asks_all: bool = False,
    ) -> None:
        self.size = size
        self.batch = _blank(size).to(device)
        self.own_M = torch.zeros(size.hidden, device=device)  # 1, and beyond the batch 0
        self.own_V = torch.zeros(size.visible, device=device) if asks_all else None
        if weighs_errors:
            weight_M = torch.zeros(size.hidden, device=device)
            self.batch = replace(self.batch, error_weight_M=weight_M)

    def fill(self, batch: Batch) -> None:
        """Write a batch of this size over the last one."""
        own, num_hidden = self.batch, batch.num_hidden
        num_visible = batch.num_measurements - num_hidden
        for target, source in (
            (own.code_index_N, batch.code_index_N),
            (own.hours_N, batch.hours_N),
            (own.value_N, batch.value_N),
            (own.visible_V, batch.visible_V),
            (own.hidden_M, batch.hidden_M),
            (own.visible_offsets_B, batch.visible_offsets_B),
            (own.hidden_offsets_B, batch.hidden_offsets_B),
        ):
            target[: len(source)].copy_(source)
        own.hidden_M[num_hidden:].fill_(len(own.code_index_N) - 1)  # the last row is beyond
        self.own_M.zero_()[:num_hidden].fill_(1.0)
        if self.own_V is not None:
            self.own_V.zero_()[:num_visible].fill_(1.0)
        if own.error_weight_M is not None and batch.error_weight_M is not None:
            own.error_weight_M[:num_hidden].copy_(batch.error_weight_M)
        first = len(batch.visible_offsets_B)
        _spread(own.visible_offsets_B[first:], num_visible, self.size.visible)
        _spread(own.hidden_offsets_B[first:], num_hidden, self.size.hidden)
        torch.add(own.visible_offsets_B, own.hidden_offsets_B, out=own.offsets_B)
        beyond = self.size.sequences - batch.num_sequences
        self.batch = replace(
            own,
            num_visible_B=_lengths(batch.num_visible_B, beyond, self.size.visible),
            num_hidden_B=_lengths(batch.num_hidden_B, beyond, self.size.hidden),
        )


def _spread(offset_P: Tensor, end: int, total: int) -> None:
    """Cut the rows from `end` to `total` into sequences of about the same length."""
    steps = torch.arange(1, len(offset_P) + 1, device=offset_P.device, dtype=torch.int32)
    offset_P.copy_(end + steps * (total - end) // len(offset_P))


def _lengths(num_B: Ints, beyond: int, total: int) -> Ints:
    """Return, on the host, the lengths of all sequences; those beyond are as in `_spread`."""
    end = int(num_B.sum())
    offsets = end + np.arange(beyond + 1) * (total - end) // beyond
    return np.concatenate([num_B, np.diff(offsets)])


def _blank(size: StaticSize) -> Batch:
    """Return a batch of zeros, of that size; one sequence holds everything."""
    hidden_N = np.arange(size.visible + size.hidden) >= size.visible
    zero_N = np.zeros(len(hidden_N), np.int32)
    return make_batch(
        lengths_B=np.array([len(hidden_N)] + [0] * (size.sequences - 1)),
        code_index_N=zero_N,
        minutes_N=zero_N,
        value_N=zero_N.astype(np.float32),
        hidden_N=hidden_N,
    )
