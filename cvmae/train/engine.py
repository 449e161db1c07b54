"""One optimizer step over one or many ranks: where strategies differ, and only here.

Every strategy takes the same steps and hands out the same state: full tensors by parameter name.
A checkpoint therefore knows neither the strategy nor the number of ranks that wrote it.
"""

import contextlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cvmae.batches.batch import Batch
from cvmae.config import Config
from cvmae.model.kernels import HEAD_DIMS
from cvmae.model.loss import hidden_error, rank_loss
from cvmae.model.vomae import VOMAE, param_groups
from cvmae.runtime.ranks import is_distributed, rank, world_size
from cvmae.train.peak import peak_flops
from cvmae.train.schedule import learning_rate

__all__ = ["DDPEngine", "Engine", "ReplicatedEngine", "State", "compiles", "make_engine"]

State = dict[str, Tensor]


class Engine(ABC):
    """A model that learns from steps of micro-batches, on this rank's device."""

    def __init__(self, config: Config, device: torch.device, total_steps: int) -> None:
        self.device = device
        self._config, self._total_steps = config, total_steps
        precision = config.train.precision
        self._bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
        self._last_error = torch.zeros((), dtype=torch.float64, device=device)
        self._last_step = -1
        self._first_bad_step = torch.full((), math.inf, dtype=torch.float64, device=device)

    @abstractmethod
    def step(self, micro_batches: Sequence[Batch], global_step: int) -> tuple[Tensor, Tensor]:
        """Update the weights once from all ranks' micro-batches of a step (collective).

        Returns:
            Summed error and count of hidden values on this rank, left on the device.
        """

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """Return predictions of the hidden values, shape [M], in float32 (collective)."""

    @abstractmethod
    def state(self) -> tuple[State, State]:
        """Return weights and optimiser state as full tensors on the CPU (collective).

        Rank 0 alone is given them, which writes checkpoints: a node's ranks share its memory.
        """

    @abstractmethod
    def load_state(self, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Take up the state that `state` of any strategy returned (collective)."""

    @property
    def peak_flops(self) -> float:
        """Return the operations a second that this rank's device can make at most."""
        return peak_flops(self.device, bf16=self._bf16)

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
        none = torch.zeros((), dtype=torch.float64, device=self.device)
        self._note_health(none)
        first = self._first_bad_step.item()
        return self._last_step if math.isinf(first) else int(first)

    def _counts(self, micro_batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """Return the number of hidden values in the step, of this rank and of all."""
        number = float(sum(batch.num_hidden for batch in micro_batches))
        # Made there: a copy from here would be waited for.
        count = torch.full((), number, dtype=torch.float64, device=self.device)
        return count, self._note_health(count)

    def _note_health(self, count: Tensor) -> Tensor:
        """Return the count over all ranks; in the same exchange they tell of errors gone bad."""
        both = torch.stack([count, (~self._last_error.isfinite()).double()])
        if world_size() > 1:
            dist.all_reduce(both)
        is_bad = both[1] > 0
        self._first_bad_step = torch.where(
            is_bad, self._first_bad_step.clamp(max=self._last_step), self._first_bad_step
        )
        return both[0]

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


class ReplicatedEngine(Engine):
    """Model and AdamW whole on each rank."""

    def __init__(
        self, model: VOMAE, config: Config, *, device: torch.device, total_steps: int
    ) -> None:
        super().__init__(config, device, total_steps)
        self.model = model.to(device)
        groups = param_groups(self.model, config.optim.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=config.optim.lr, fused=True)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """Return predictions; see `Engine.predict`."""
        with self._autocast():
            predicted: Tensor = self.model(batch)
        return predicted.float()

    def state(self) -> tuple[State, State]:
        """Return full tensors; see `Engine.state`."""
        if rank() != 0:
            return {}, {}
        model = {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}
        optimizer = {
            f"{name}/{key}": value.cpu()
            for name, parameter in self.model.named_parameters()
            for key, value in self._optimizer.state[parameter].items()
        }
        return model, optimizer

    def load_state(self, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Take up full tensors; see `Engine.load_state`."""
        self.model.load_state_dict(model)
        saved: dict[str, dict[str, Tensor]] = {}
        for place, value in optimizer.items():
            name, _, key = place.rpartition("/")
            saved.setdefault(name, {})[key] = value
        names = {id(p): name for name, p in self.model.named_parameters()}
        ordered = [p for group in self._optimizer.param_groups for p in group["params"]]
        template: dict[str, Any] = self._optimizer.state_dict()
        template["state"] = {
            number: saved[names[id(parameter)]]
            for number, parameter in enumerate(ordered)
            if names[id(parameter)] in saved
        }
        self._optimizer.load_state_dict(template)


class DDPEngine(ReplicatedEngine):
    """Gradients are averaged over ranks, where there are several, while they come."""

    def __init__(
        self, model: VOMAE, config: Config, *, device: torch.device, total_steps: int
    ) -> None:
        super().__init__(model, config, device=device, total_steps=total_steps)
        self._parallel: torch.nn.Module = self.model
        if is_distributed() and world_size() > 1:
            self._parallel = DistributedDataParallel(
                self.model,
                device_ids=[device.index] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                bucket_cap_mb=32,
            )

    def step(self, micro_batches: Sequence[Batch], global_step: int) -> tuple[Tensor, Tensor]:
        """Update the weights once; see `Engine.step`."""
        count, global_count = self._counts(micro_batches)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, batch in enumerate(micro_batches):
            is_last = number == len(micro_batches) - 1
            with self._synchronised(is_last):
                with self._autocast():
                    error_sum, _ = hidden_error(self._parallel, batch)
                rank_loss(error_sum, global_count, world_size()).backward()
            total += error_sum.detach()
        clip_norm = self._config.optim.clip_norm
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(global_step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._note(global_step, total)
        return total, count

    def _synchronised(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        if is_last or not isinstance(self._parallel, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._parallel.no_sync()


def make_engine(model: VOMAE, config: Config, *, device: torch.device, total_steps: int) -> Engine:
    """Return the engine that `train.strategy` names."""
    model.recompute = config.train.activation_checkpointing
    if compiles(config, on_gpu=device.type == "cuda"):
        from cvmae.train.captured_engine import CapturedEngine

        return CapturedEngine(model, config, device=device, total_steps=total_steps)
    if config.train.strategy == "deepspeed":
        if device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # it would look for others, and warn
        # Only where it is asked for: its import takes seconds.
        from cvmae.train.deepspeed_engine import DeepspeedEngine

        return DeepspeedEngine(model, config, device=device, total_steps=total_steps)
    return DDPEngine(model, config, device=device, total_steps=total_steps)


def compiles(config: Config, *, on_gpu: bool) -> bool:
    """Tell whether steps are compiled and captured.

    Raises:
        ValueError: `train.compile` is on where that is not possible.
    """
    head_dim = config.model.width // config.model.num_heads
    problems = {
        "on cpu; give a GPU (scaling.use_gpu True on Ray)": not on_gpu,
        "in fp32; give train.precision bf16": config.train.precision == "fp32",
        "with deepspeed; give train.strategy ddp": config.train.strategy != "ddp",
        f"with {head_dim} dimensions a head (model.width / model.num_heads); give one of "
        f"{', '.join(map(str, HEAD_DIMS))}": head_dim not in HEAD_DIMS,
    }
    found = [text for text, is_met in problems.items() if is_met]
    if config.train.compile == "on" and found:
        raise ValueError(f"train.compile=on is not possible {found[0]}, or leave it at auto")
    return config.train.compile != "off" and not found
