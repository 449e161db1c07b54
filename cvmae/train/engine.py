"""One optimizer step over one or many ranks: where strategies may differ, and only here."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cvmae.config import Config
from cvmae.data.batches import Batch
from cvmae.distributed import is_distributed, world_size
from cvmae.model.loss import hidden_error, rank_loss
from cvmae.model.vomae import VOMAE, param_groups
from cvmae.train.schedule import learning_rate

__all__ = ["Engine"]


class Engine:
    """Model and AdamW on this rank's device, under DDP where there are several ranks."""

    def __init__(
        self, model: VOMAE, config: Config, *, device: torch.device, total_steps: int
    ) -> None:
        self.model = model.to(device)
        self.device = device
        self._optim = config.optim
        self._total_steps = total_steps
        precision = config.train.precision
        self._bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
        self._parallel: torch.nn.Module = self.model
        if is_distributed() and world_size() > 1:
            self._parallel = DistributedDataParallel(
                self.model,
                device_ids=[device.index] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                bucket_cap_mb=32,
            )
        groups = param_groups(self.model, config.optim.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=config.optim.lr, fused=True)

    def step(self, micro_batches: Sequence[Batch], global_step: int) -> tuple[Tensor, Tensor]:
        """Update the weights once from all ranks' micro-batches of a step.

        Returns:
            Summed error and count of hidden values on this rank, left on the device.
        """
        count = torch.tensor(sum(batch.num_hidden for batch in micro_batches), dtype=torch.float64)
        count = count.to(self.device)
        global_count = count.clone()
        if world_size() > 1:
            dist.all_reduce(global_count)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, batch in enumerate(micro_batches):
            is_last = number == len(micro_batches) - 1
            with self._synchronised(is_last), self._autocast():
                error_sum, _ = hidden_error(self._parallel, batch)
                rank_loss(error_sum, global_count, world_size()).backward()
            total += error_sum.detach()
        if self._optim.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._optim.clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._optim, global_step, self._total_steps)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return total, count

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """Return predictions of the hidden values, shape [M], in float32."""
        with self._autocast():
            predicted: Tensor = self.model(batch)
        return predicted.float()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return weights and optimiser state as flat tensors on the CPU."""
        model = {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}
        optimizer = {
            f"{name}/{key}": value.cpu()
            for name, parameter in self.model.named_parameters()
            for key, value in self._optimizer.state[parameter].items()
        }
        return model, optimizer

    def load_state(self, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Take up the state that `state` returned."""
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

    def _synchronised(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        if is_last or not isinstance(self._parallel, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._parallel.no_sync()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)
