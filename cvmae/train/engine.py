"""One optimizer step over one or many ranks: what all strategies promise, and nobody else asks.

Every strategy takes the same steps and hands out the same state: full tensors by parameter name.
A checkpoint therefore knows neither the strategy nor the number of ranks that wrote it.
"""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cvmae.arrays import Ints
from cvmae.batches.batch import Batch, LabelledBatch
from cvmae.config import Config
from cvmae.model.loss import hidden_error, label_error
from cvmae.model.static import StaticBatch
from cvmae.runtime.ranks import world_size
from cvmae.train.peak import Peak, peak_of
from cvmae.train.schedule import learning_rate

__all__ = ["Engine", "State"]

State = dict[str, Tensor]


class Engine(ABC):
    """A model that learns from steps of micro-batches, on this rank's device."""

    def __init__(
        self, config: Config, device: torch.device, total_steps: int, num_codes: int
    ) -> None:
        self.device = device
        self._code_error_C = torch.zeros(num_codes, dtype=torch.int64, device=device)
        self._config, self._total_steps = config, total_steps
        self._target = config.mask.target
        # Of the step, in one place: a graph that reads it is replayed.
        self._visible_scale = (
            torch.zeros((), device=device) if config.train.visible_weight > 0 else None
        )
        precision = config.train.precision
        self._bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
        self._last_error = torch.zeros((), dtype=torch.float64, device=device)
        self._last_step = -1
        self._first_bad_step = torch.full((), math.inf, dtype=torch.float64, device=device)

    @abstractmethod
    def step(self, micro_batches: Sequence[Batch], global_step: int) -> tuple[Tensor, Tensor]:
        """Update the weights once from all ranks' micro-batches of a step (collective).

        Returns:
            Summed error and count of hidden values (or labels) on this rank, left on the device;
            sums over ranks give the loss that is minimised as their ratio. Where errors are
            weighted, the sum of weights stands for the count; that of visible values is scaled to
            be part of the ratio.
        """

    def code_errors(self, *, start_anew: bool = False) -> Ints:
        """Return this rank's squared errors by code, in `FIXED_POINT`, since they last began."""
        error_C: Ints = self._code_error_C.cpu().numpy().copy()
        if start_anew:
            self._code_error_C.zero_()
        return error_C

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """Return predictions of hidden values, [M], or of labels, [B], in float32 (collective)."""

    @abstractmethod
    def state(self) -> tuple[State, State]:
        """Return weights and optimiser state as full tensors on the CPU (collective).

        Rank 0 alone is given them, which writes checkpoints: a node's ranks share its memory.
        """

    @abstractmethod
    def load_state(self, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Load the state that `state` of any strategy returned (collective)."""

    @cached_property
    def peak(self) -> Peak:
        """Return what this rank's device can make at most; one of its own for every engine."""
        return peak_of(self.device, bf16=self._bf16)

    @property
    def is_healthy(self) -> bool:
        """Tell whether all errors before the last step were finite, on all ranks.

        Asking waits for the device.
        """
        return math.isinf(self._first_bad_step.item())

    def first_bad_step(self) -> int:
        """Return the first step whose error was not finite on some rank (collective).

        Where there is none, the last step's update made the weights unfit: its number.
        """
        self._note_health()
        first = self._first_bad_step.item()
        return self._last_step if math.isinf(first) else int(first)

    def _summed_error(
        self, model: nn.Module, batch: Batch, static: StaticBatch | None = None
    ) -> Tensor:
        """Return the summed error of a batch as the run weighs it, and note errors by code."""
        if isinstance(batch, LabelledBatch):
            return label_error(model, batch)
        error, _ = hidden_error(
            model,
            batch,
            self._code_error_C,
            target=self._target,
            visible_scale=self._visible_scale,
            static=static,
        )
        return error

    def _counts(self, micro_batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """Return what a step's errors are divided by, of this rank and of all.

        The number of hidden values or of labels, or the sum of the weights of values.
        """
        count = self._full(sum(batch.num_answers for batch in micro_batches))
        weights = [b.error_weight_M for b in micro_batches if b.error_weight_M is not None]
        if weights:
            count = torch.cat(weights).double().sum()
        if self._visible_scale is None:
            return count, self._note_health(count)[0]
        num_visible = self._full(sum(b.num_measurements - b.num_hidden for b in micro_batches))
        global_count, global_visible = self._note_health(count, num_visible)
        # Their mean, times the weight, once the whole is divided by the count of hidden values.
        share = global_count / global_visible.clamp(min=1)
        self._visible_scale.copy_(self._config.train.visible_weight * share)
        return count, global_count

    def _full(self, number: int) -> Tensor:
        # Made there: a copy from here would be waited for.
        return torch.full((), float(number), dtype=torch.float64, device=self.device)

    def _note_health(self, *counts: Tensor) -> Tensor:
        """Return counts over all ranks; in the same exchange they tell of errors gone bad."""
        every = torch.stack([*counts, (~self._last_error.isfinite()).double()])
        if world_size() > 1:
            dist.all_reduce(every)
        is_bad = every[-1] > 0
        self._first_bad_step = torch.where(
            is_bad, self._first_bad_step.clamp(max=self._last_step), self._first_bad_step
        )
        return every[:-1]

    def _note(self, global_step: int, error: Tensor) -> None:
        self._last_step, self._last_error = global_step, error

    def _learning_rate(self, global_step: int) -> float:
        return learning_rate(
            self._config.optim,
            global_step,
            self._total_steps,
            self._config.train.batch_sequences,
        )

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)
