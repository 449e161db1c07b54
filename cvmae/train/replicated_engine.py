"""Model and optimiser whole on each rank, and the steps of data parallel training."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cvmae.batches.batch import Batch
from cvmae.config import Config
from cvmae.model.loss import rank_loss
from cvmae.model.vomae import VOMAE, param_groups
from cvmae.runtime.ranks import is_distributed, rank, world_size
from cvmae.train.engine import Engine, State

__all__ = ["DDPEngine", "ReplicatedEngine"]


class ReplicatedEngine(Engine):
    """Model and AdamW whole on each rank."""

    def __init__(
        self, model: VOMAE, config: Config, *, device: torch.device, total_steps: int
    ) -> None:
        super().__init__(config, device, total_steps, model.code_embedding.num_embeddings)
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
        """Load full tensors; see `Engine.load_state`."""
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
                    error_sum = self._summed_error(self._parallel, batch)
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
