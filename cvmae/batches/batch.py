"""The one currency between data and model: whole sequences as flat arrays."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cvmae import compiled
from cvmae.arrays import Bools, Float32s, Ints
from cvmae.batches.cells import Cell

__all__ = ["Batch", "LabelledBatch", "join_cells", "make_batch", "with_labels"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Whole sequences, concatenated; nothing is padded.

    ``offsets_B[b] : offsets_B[b + 1]`` are sequence b's measurements; visible and hidden
    measurements keep their order, so sequence b also owns a contiguous range of each, given by
    ``visible_offsets_B`` and ``hidden_offsets_B``. Offsets have B + 1 entries.
    Lengths are kept on the host as well: attention plans need them without a device sync.
    """

    code_index_N: Tensor  # int32
    hours_N: Tensor  # float32, since the sequence's first measurement
    value_N: Tensor  # float32, standardised
    visible_V: Tensor  # int64, into N
    hidden_M: Tensor  # int64, into N
    offsets_B: Tensor  # int32
    visible_offsets_B: Tensor  # int32
    hidden_offsets_B: Tensor  # int32
    num_visible_B: Ints  # host copies of the lengths
    num_hidden_B: Ints
    error_weight_M: Tensor | None = None  # float32; None: all errors count alike

    @property
    def num_sequences(self) -> int:
        """Return B."""
        return len(self.num_visible_B)

    @property
    def num_measurements(self) -> int:
        """Return N."""
        return len(self.code_index_N)

    @property
    def num_hidden(self) -> int:
        """Return M."""
        return len(self.hidden_M)

    @property
    def num_answers(self) -> int:
        """Return how many errors a loss sums up: one a hidden value."""
        return self.num_hidden

    def hidden_places(self) -> Tensor:
        """Return the place of each hidden measurement in its sequence, from 0, shape [M]."""
        return self._places(self.hidden_M, self.hidden_offsets_B)

    def visible_places(self) -> Tensor:
        """Return the place of each visible measurement in its sequence, from 0, shape [V]."""
        return self._places(self.visible_V, self.visible_offsets_B)

    def _places(self, index_N: Tensor, own_offsets_B: Tensor) -> Tensor:
        row_N = torch.arange(len(index_N), device=index_N.device)
        # No repetition, whose length a device would have to be asked for.
        sequence_N = torch.bucketize(row_N, own_offsets_B[1:].long(), right=True)
        return index_N - self.offsets_B[sequence_N]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Copy the tensors to a device; host lengths stay on the host."""
        moved: dict[str, Any] = {
            item.name: value.to(device, non_blocking=non_blocking)
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> Self:
        """Copy the tensors to page-locked memory, from which a GPU fetches by itself."""
        pinned: dict[str, Any] = {
            item.name: value.pin_memory()
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **pinned)

    def digest(self) -> str:
        """Return a hash of the content (for tests and error reports; names no subject)."""
        hasher = hashlib.sha256()
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            array = value.cpu().numpy() if isinstance(value, Tensor) else value
            hasher.update(f"{item.name}{array.dtype}{array.shape}".encode())
            hasher.update(array.tobytes())
        return hasher.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class LabelledBatch(Batch):
    """Sequences that are all visible, and of each what followed; a sequence may be empty."""

    label_B: Tensor  # float32, 0 or 1

    @property
    def num_answers(self) -> int:
        """Return how many errors a loss sums up: one a label."""
        return len(self.label_B)


def with_labels(batch: Batch, label_B: Float32s) -> LabelledBatch:
    """Put a label to each sequence of a batch."""
    columns: dict[str, Any] = {item.name: getattr(batch, item.name) for item in fields(batch)}
    return LabelledBatch(**columns, label_B=torch.from_numpy(label_B))


def make_batch(
    *,
    lengths_B: npt.NDArray[np.integer],
    code_index_N: npt.NDArray[np.integer],
    minutes_N: npt.NDArray[np.integer],
    value_N: Float32s,
    hidden_N: Bools,
    error_weight_M: Float32s | None = None,
) -> Batch:
    """Build a batch from the flat columns of whole sequences.

    Raises:
        ValueError: The columns disagree in length.
    """
    total = int(lengths_B.sum())
    for name, column in (
        ("code_index", code_index_N),
        ("minutes", minutes_N),
        ("value", value_N),
        ("hidden", hidden_N),
    ):
        if len(column) != total:
            raise ValueError(f"{name} has {len(column)} entries, the lengths add up to {total}")
    return join_cells(
        [
            Cell(
                length_W=lengths_B.astype(np.int32, copy=False),
                code_index_N=code_index_N.astype(np.uint16, copy=False),
                minutes_N=minutes_N.astype(np.int32, copy=False),
                value_N=np.ascontiguousarray(value_N, dtype=np.float32),
                hidden_N=np.ascontiguousarray(hidden_N),
                error_weight_M=error_weight_M,
            )
        ]
    )


def join_cells(cells: Sequence[Cell]) -> Batch:
    """Build a batch from the columns of several runs of whole sequences, none for an empty one."""
    num_sequences = sum(len(cell.length_W) for cell in cells)
    total = sum(len(cell.value_N) for cell in cells)
    num_hidden = sum(int(np.count_nonzero(cell.hidden_N)) for cell in cells)
    code_index_N = np.empty(total, np.int32)
    hours_N, value_N = np.empty(total, np.float32), np.empty(total, np.float32)
    visible_V, hidden_M = (np.empty(n + 1, np.int64) for n in (total - num_hidden, num_hidden))
    num_hidden_B = np.empty(num_sequences, np.int64)
    lengths_B = np.empty(num_sequences, np.int64)
    sequence, begin, hidden = 0, 0, 0
    for cell in cells:
        own = slice(sequence, sequence + len(cell.length_W))
        lengths_B[own] = cell.length_W
        hidden = compiled.fill_batch(
            *cell[:5],
            begin,
            hidden,
            code_index_N,
            hours_N,
            value_N,
            visible_V,
            hidden_M,
            num_hidden_B[own],
        )
        sequence, begin = own.stop, begin + len(cell.value_N)
    num_visible_B = lengths_B - num_hidden_B
    return Batch(
        code_index_N=torch.from_numpy(code_index_N),
        hours_N=torch.from_numpy(hours_N),
        value_N=torch.from_numpy(value_N),
        visible_V=torch.from_numpy(visible_V[:-1]),
        hidden_M=torch.from_numpy(hidden_M[:-1]),
        offsets_B=_offsets(lengths_B),
        visible_offsets_B=_offsets(num_visible_B),
        hidden_offsets_B=_offsets(num_hidden_B),
        num_visible_B=num_visible_B,
        num_hidden_B=num_hidden_B,
        error_weight_M=_joined([cell.error_weight_M for cell in cells]),
    )


def _joined(parts: Sequence[Float32s | None]) -> Tensor | None:
    weights = [part for part in parts if part is not None]
    return torch.from_numpy(np.concatenate(weights)) if weights else None


def _offsets(lengths_B: Ints) -> Tensor:
    offsets = np.zeros(len(lengths_B) + 1, np.int32)
    np.cumsum(lengths_B, out=offsets[1:])
    return torch.from_numpy(offsets)
