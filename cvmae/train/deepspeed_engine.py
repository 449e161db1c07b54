"""ZeRO by DeepSpeed: optimiser state, gradients and parameters in parts on the ranks.

The state is gathered into full tensors for checkpoints and dealt out again on resuming, through
DeepSpeed's interface to its parts, so that a run goes on with another number of ranks, at another
stage, or under DDP.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from cvmae.batches.batch import Batch
from cvmae.config import Config
from cvmae.model.loss import rank_loss
from cvmae.model.vomae import VOMAE, param_groups
from cvmae.runtime.ranks import rank, world_size
from cvmae.train.deepspeed_settings import deepspeed_config
from cvmae.train.engine import Engine, State

__all__ = ["DeepspeedEngine"]

MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepspeedEngine(Engine):
    """Model and AdamW under `deepspeed.stage`."""

    def __init__(
        self, model: VOMAE, config: Config, *, device: torch.device, total_steps: int
    ) -> None:
        super().__init__(config, device, total_steps, model.code_embedding.num_embeddings)
        self._names = [name for name, _ in model.named_parameters()]
        if device.type == "cpu":
            # Its collectives in shared memory would be compiled at the start, for minutes.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        groups = param_groups(model, config.optim.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=config.optim.lr, fused=device.type == "cuda")
        self._engine: Any
        self._engine, *_ = deepspeed.initialize(
            model=model.to(device),
            optimizer=optimizer,
            config=deepspeed_config(config, bf16=self._bf16),
            dist_init_required=False,
        )

    def step(self, micro_batches: Sequence[Batch], global_step: int) -> tuple[Tensor, Tensor]:
        """Update the weights once; see `Engine.step`."""
        count, global_count = self._counts(micro_batches)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._learning_rate(global_step)
        for batch in micro_batches:
            error_sum = self._summed_error(self._engine, batch)
            loss = rank_loss(error_sum, global_count, world_size())
            self._engine.backward(loss, scale_wrt_gas=False)
            self._engine.step()  # updates after the last micro-batch only
            total += error_sum.detach()
        if not self._engine.was_step_applied():
            # It passes over a gradient that is not finite, on all ranks; DDP's weights would break.
            total.fill_(math.inf)
        self._note(global_step, total)
        return total, count

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """Return predictions; see `Engine.predict`."""
        predicted: Tensor = self._engine(batch)
        return predicted.float()

    def state(self) -> tuple[State, State]:
        """Return full tensors; see `Engine.state`."""
        model: State = {}
        optimizer: State = {}
        step = self._step_count()
        if step is not None:
            self._link_moments()
        for name, parameter in self._parameters():
            gathered = {name: (model, safe_get_full_fp32_param(parameter))}
            if step is not None:
                gathered[f"{name}/step"] = optimizer, step
                for key in MOMENTS:
                    value = safe_get_full_optimizer_state(parameter, key)
                    gathered[f"{name}/{key}"] = optimizer, value
            for place, (part, value) in gathered.items() if rank() == 0 else ():
                part[place] = (value + 0).cpu()  # a copy: it may be the parameter itself
        return model, optimizer

    @torch.no_grad()
    def load_state(self, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Load full tensors; see `Engine.load_state`."""
        self._make_optimizer_state(optimizer)
        for name, parameter in self._parameters():
            value = model[name].to(self.device)
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if parameter.numel() == value.numel():  # on rank 0, whose value counts, or on all
                    parameter.copy_(value)
            self._set(parameter, value)
            for key in MOMENTS if optimizer else ():
                self._set(parameter, optimizer[f"{name}/{key}"].to(self.device), key)

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(zip(self._names, self._engine.module.parameters(), strict=True))

    def _set(self, parameter: nn.Parameter, value: Tensor, key: str | None = None) -> None:
        """Write this rank's part of a full tensor, of the weights or of a moment."""
        if hasattr(parameter, "ds_tensor"):  # stage 3: parts of equal size, the last one padded
            size = parameter.ds_tensor.numel()
            value = nn.functional.pad(value.flatten(), (0, size * world_size() - value.numel()))
            part = value.narrow(0, size * rank(), size)
            if key is None:
                safe_set_local_fp32_param(parameter, part)
            else:
                safe_set_local_optimizer_state(parameter, part, key)
        elif key is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, key)

    def _step_count(self) -> Tensor | None:
        """Return how many updates AdamW has made, None before the first."""
        inner = self._engine.optimizer.optimizer
        steps = [state["step"] for state in inner.state.values() if "step" in state]
        return steps[0].cpu() if steps else None

    def _make_optimizer_state(self, optimizer: Mapping[str, Tensor]) -> None:
        """Make room for the moments of this rank's parts, and set the number of updates."""
        if not optimizer:
            return
        zero = self._engine.optimizer
        parts = getattr(zero, "single_partition_of_fp32_groups", None)
        if parts is None:
            parts = zero.fp32_partitioned_groups_flat
        step = next(value for name, value in optimizer.items() if name.endswith("/step"))
        for part in parts:
            # Fused AdamW wants the number of updates beside the weights, which may be offloaded.
            moments = {key: torch.zeros_like(part) for key in MOMENTS}
            zero.optimizer.state[part] = {"step": step.to(part.device, copy=True), **moments}
        self._link_moments()

    def _link_moments(self) -> None:
        """Let stages 1 and 2 find the moments of all groups of parameters.

        DeepSpeed does so itself when the first group has made its first step, which is too early
        for the others, and it offers no public way.
        """
        zero = self._engine.optimizer
        if hasattr(zero, "_hp_optimizer_states_linked"):
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()
