"""Steps on a GPU as two CUDA graphs: errors and gradients of a batch, and the update.

A graph is replayed by one call: the host, which would launch some thousand kernels a step one by
one, is no limit, and nothing is waited for inside a step. Gradients are added up in one flat
tensor: micro-batches add to it, ranks exchange it whole, the update reads it and leaves zeros.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cvmae.batches.batch import Batch
from cvmae.config import Config
from cvmae.model.static import StaticBatch, StaticSize
from cvmae.model.vomae import VOMAE
from cvmae.runtime.ranks import world_size
from cvmae.runtime.torch_hooks import add_each
from cvmae.train.replicated_engine import ReplicatedEngine

__all__ = ["CapturedEngine"]

MOST_SIZES = 128  # that are captured; batches of other ones are launched kernel by kernel


class CapturedEngine(ReplicatedEngine):
    """Data parallel in bf16 on GPUs, with compiled layers and captured steps.

    On a CPU it takes the same steps kernel by kernel, for tests.

    Args:
        model: With fresh weights.
        config: Of the run.
        device: That of this rank.
        total_steps: Of the whole run, for the learning rate.
        backend: Of torch.compile; None: inductor on a GPU, and on a CPU nothing is compiled.
    """

    def __init__(
        self,
        model: VOMAE,
        config: Config,
        *,
        device: torch.device,
        total_steps: int,
        backend: str | None = None,
    ) -> None:
        super().__init__(model, config, device=device, total_steps=total_steps)
        self._longest = model.longest = config.data.sequence_length
        if backend or device.type == "cuda":
            model.compile_parts(backend or "inductor")
        self._parameters = list(model.parameters())
        sizes = [parameter.numel() for parameter in self._parameters]
        self._flat = torch.zeros(sum(sizes), device=device)
        parts = zip(self._flat.split(sizes), self._parameters, strict=True)
        self._grads = [part.view_as(parameter) for part, parameter in parts]
        for parameter, grad in zip(self._parameters, self._grads, strict=True):
            parameter.grad = grad  # what AdamW reads
        self._lr = torch.zeros((), device=device)
        self._scale = torch.zeros((), device=device)
        self._error = torch.zeros((), dtype=torch.float64, device=device)
        self._batches: dict[StaticSize, StaticBatch] = {}
        self._largest = StaticSize(0, 0, 0)
        self._gradients, self._updates = _Graphs(device), _Graphs(device)
        self._use_own_rate()

    def step(self, micro_batches: Sequence[Batch], global_step: int) -> tuple[Tensor, Tensor]:
        """Update the weights once; see `Engine.step`."""
        count, global_count = self._counts(micro_batches)
        self._scale.copy_(1 / global_count.clamp(min=1))
        self._error.zero_()
        for batch in micro_batches:
            self._add_gradients(batch)
        if world_size() > 1:
            dist.all_reduce(self._flat)  # summed: errors are scaled by the count of all ranks
        self._lr.fill_(self._learning_rate(global_step))
        self._updates.run(self._update, "update")
        total = self._error.clone()
        self._note(global_step, total)
        return total, count

    def load_state(self, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Load full tensors; see `Engine.load_state`."""
        super().load_state(model, optimizer)
        self._use_own_rate()
        self._updates = _Graphs(self.device)  # an earlier one would write to earlier moments

    def _use_own_rate(self) -> None:
        """Let AdamW read the learning rate from where a captured update can be told another."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr
            group["capturable"] = self.device.type == "cuda"

    def _add_gradients(self, batch: Batch) -> None:
        size = StaticSize.of(batch, self._longest)
        static = self._batches.get(size)
        if static is None:
            static = StaticBatch(
                size,
                self.device,
                weighs_errors=self._config.train.loss_weighting != "none",
                asks_all=self._visible_scale is not None,
            )
            self._make_room(size)
            if len(self._batches) < MOST_SIZES:
                self._batches[size] = static
        static.fill(batch)
        if size in self._batches:
            self._gradients.run(lambda: self._run(static), size)
        else:
            self._run(static)

    def _make_room(self, size: StaticSize) -> None:
        """Begin anew with graphs if a batch is larger than all before.

        It would find no use for the memory of smaller ones, and the other way round they do.
        """
        largest = StaticSize(*map(max, size, self._largest))
        if largest != self._largest:
            self._largest = largest
            self._gradients.forget()

    def _run(self, static: StaticBatch) -> None:
        """Add the gradients and the error of a batch to those of the step."""
        with self._autocast():
            error = self._summed_error(self.model, static.batch, static)
        add_each(self._grads, torch.autograd.grad(error * self._scale, self._parameters))
        self._error += error.detach()

    def _update(self) -> None:
        clip_norm = self._config.optim.clip_norm
        if clip_norm is not None:
            self._flat *= (clip_norm / (self._flat.norm() + 1e-6)).clamp(max=1.0)
        self._optimizer.step()
        self._flat.zero_()


class _Graphs:
    """Work that is captured once for each size, and replayed from then on.

    The very first time it is launched kernel by kernel: compilers, libraries and the optimiser
    make then what they make once, which a capture does not allow. All graphs share their memory:
    only one runs at a time, and what outlives it lies outside.
    """

    def __init__(self, device: torch.device) -> None:
        self._captures = device.type == "cuda"
        self._is_first = True
        self.forget()

    def forget(self) -> None:
        """Drop all graphs, and their memory, once none is being replayed."""
        self._pool = _new_pool() if self._captures else None
        self._replay_of: dict[Hashable, Callable[[], None]] = {}

    def run(self, work: Callable[[], object], size: Hashable) -> None:
        """Do some work on tensors that keep their place, the same for the same size."""
        if not self._captures or self._is_first:
            self._is_first = False
            work()
            return
        if size not in self._replay_of:
            self._replay_of[size] = _capture(work, self._pool)
        self._replay_of[size]()


def _new_pool() -> Any:
    """Return memory for graphs, once no earlier one is being replayed any more."""
    torch.cuda.synchronize()
    return torch.cuda.graph_pool_handle()


def _capture(work: Callable[[], object], pool: Any) -> Callable[[], None]:
    """Return what does some work on a GPU, again and again; it is not done yet."""
    graph = torch.cuda.CUDAGraph()
    # Other threads copy batches meanwhile.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        work()
    replay: Callable[[], None] = graph.replay
    return replay
