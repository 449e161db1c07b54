"""What one run of training takes: its steps, how ranks share them, memory, hours."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cvmae.batches.order import Order
from cvmae.config import Config
from cvmae.model.flops import flops
from cvmae.plan.cluster import BRICK_BYTES
from cvmae.plan.inputs import INPUTS
from cvmae.plan.lines import Line, hours_line
from cvmae.plan.memory import (
    GIB,
    STRATEGIES,
    Strategy,
    activation_bytes,
    num_parameters,
)
from cvmae.runtime.tables import counted
from cvmae.settings import ModelConfig

__all__ = [
    "EXCHANGE_S",
    "LIBRARIES_GIB",
    "Amount",
    "CpuTime",
    "balance",
    "bricks_line",
    "cpu_hours",
    "cpu_time",
    "gpu_hours",
    "memory_lines_of_run",
    "order_lines",
]

# Operations a second of one thread on cores of a server (AVX-512): preset paper came to 5e10, small
# to 2.7e10, since narrow products take as long to begin.
WIDE_FLOPS, HALF_WIDTH = 6.95e10, 100
BRICKS_AHEAD = 4  # of a rank
LIBRARIES_GIB = 0.7  # of a process that trains, on a CPU: its share of pages (PSS)
# What a step takes beside those of one rank alone where several tell each other gradients: two gloo
# ranks of preset tiny on two cores of an AMD EPYC, 33 ms for 23, 2026-11-30. They wait meanwhile.
EXCHANGE_S = 10e-3


@dataclass(frozen=True, kw_only=True)
class Amount:
    """What an epoch holds."""

    num_sequences: float
    num_measurements: float

    @property
    def mean_length(self) -> float:
        """Return the measurements of a sequence."""
        return self.num_measurements / max(self.num_sequences, 1)


def order_lines(order: Order, *, num_ranks: int, num_epochs: int, parts: int) -> Iterator[Line]:
    """Yield the arithmetic of batches and the order's balance.

    Args:
        order: Of train.
        num_ranks: Among which each step is shared.
        num_epochs: Of the run.
        parts: Micro-batches of a rank's share of a step.
    """
    first = list(order.supersteps(0))
    steps = [order.num_steps(epoch) for epoch in range(num_epochs)]
    sequences = int(order.num_sequences_U.sum())
    mean = sequences / steps[0]
    yield Line(
        name="steps an epoch",
        value=steps[0],
        why=f"of the first; train.batch_sequences={order.batch_sequences} in whole steps",
    )
    same = len(set(steps)) == 1
    how = f"train.epochs={num_epochs}" + ("" if same else ", epochs differ by a few steps")
    yield Line(name="steps of the run", value=sum(steps), why=how)
    yield Line(
        name="sequences a step", value=mean, why=f"{sequences:,} / {counted(steps[0], 'step')}"
    )
    yield Line(
        name="sequences a step and rank", value=mean / num_ranks, why=f"over {num_ranks} ranks"
    )
    yield Line(
        name="sequences of a micro-batch",
        value=mean / num_ranks / parts,
        why=f"train.accumulation_steps={parts}",
    )
    how = (
        f"units that all {order.lanes} lanes share, dealt by sequences"
        if first[0].shared
        else f"{order.lanes} lanes (data.lanes) of their own units"
    )
    yield Line(name="supersteps an epoch", value=len(first), why=how)
    yield Line(
        name="balance of ranks",
        value=balance(order, num_ranks),
        why="mean over slowest, measurements of the first epoch; dealing takes 1-2% more",
    )
    bricks = len(first) * order.lanes
    yield Line(
        name="measurements a brick",
        value=float(order.num_measurements_U.sum()) / bricks,
        why=f"{counted(len(first), 'superstep')} x {counted(order.lanes, 'lane')} = {bricks:,} "
        "bricks an epoch",
    )


def balance(order: Order, num_ranks: int, epoch: int = 0) -> float:
    """Return the mean over the largest share of ranks in an epoch's measurements, step by step."""
    mean = largest = 0.0
    for superstep in order.supersteps(epoch):
        lanes = [int(order.num_measurements_U[list(units)].sum()) for units in superstep.lanes]
        ranks = [sum(lanes[rank::num_ranks]) for rank in range(num_ranks)]
        mean += sum(ranks) / num_ranks
        largest += max(ranks)
    return mean / max(largest, 1)


def memory_lines_of_run(
    config: Config, num_codes: int, *, step_measurements: float, on_gpu: bool
) -> Iterator[Line]:
    """Yield what a rank keeps of model, optimiser and activations.

    Args:
        config: Of the run.
        num_codes: Of the vocabulary.
        step_measurements: Of a step, over all ranks.
        on_gpu: Where ranks are.
    """
    num_ranks = max(config.scaling.num_workers, 1)
    parameters = num_parameters(config.model, num_codes)
    is_bf16 = config.train.precision == "bf16" or (config.train.precision == "auto" and on_gpu)
    strategy = _strategy(config, is_bf16=is_bf16)
    state = parameters * strategy.bytes_a_parameter(num_ranks)
    where = "GPU" if on_gpu else "process"
    yield Line(
        name="parameters", value=parameters, why=f"a vocabulary of {counted(num_codes, 'code')}"
    )
    yield Line(
        name="state of a rank",
        value=state / GIB,
        unit="GiB",
        why=f"parameters x ({strategy.arithmetic(num_ranks)}) bytes",
    )
    at_once = step_measurements / num_ranks / config.train.accumulation_steps
    kept = activation_bytes(
        config.model,
        recompute=config.train.activation_checkpointing,
        num_measurements=at_once,
        hidden=config.mask.ratio,
    ) * (1 if is_bf16 else 2)
    yield Line(
        name="activations of a rank",
        value=kept / GIB,
        unit="GiB",
        why=f"{at_once:,.0f} measurements of a micro-batch, {'bf16' if is_bf16 else 'fp32'}",
    )
    libraries = 0.0 if on_gpu else LIBRARIES_GIB
    if libraries:
        how = "PyTorch, Ray and numba, as measured on Linux with the preset tiny"
        yield Line(name="libraries of a rank", value=libraries, unit="GiB", why=how)
    yield Line(
        name="memory of a rank",
        value=(state + kept) / GIB + libraries,
        unit="GiB",
        why=f"of its {where}" + (", beside what libraries take" if on_gpu else ""),
    )


def bricks_line(measurements_a_brick: float) -> Line:
    """Return what is read ahead for a rank."""
    held = BRICKS_AHEAD * measurements_a_brick * BRICK_BYTES
    what = (
        f"{BRICKS_AHEAD} bricks of {measurements_a_brick:,.0f} measurements x {BRICK_BYTES} bytes"
    )
    return Line(name="bricks read ahead, a rank", value=held / GIB, unit="GiB", why=what)


def _strategy(config: Config, *, is_bf16: bool) -> Strategy:
    name = "DDP" if config.train.strategy == "ddp" else f"ZeRO-{config.deepspeed.stage}"
    strategy = STRATEGIES[name]
    if is_bf16:
        return strategy
    state = {kind: size for kind, size in strategy.state.items() if kind != "weights in bf16"}
    return replace(strategy, state=state)


@dataclass(frozen=True, kw_only=True)
class CpuTime:
    """What training on CPUs takes, in hours."""

    in_turn: float  # of a rank's steps, one after another
    of_cores: float  # of all ranks, and of what reads for them

    def hours(self, cores: float, num_at_once: int = 1) -> float:
        """Return how long it takes where so many cores are there for all of it.

        Args:
            cores: Of the machine; infinite where ranks and readers have cores of their own.
            num_at_once: Runs that train side by side.
        """
        return max(self.in_turn / num_at_once, self.of_cores / cores)


def cpu_time(config: Config, amount: Amount, *, step_s: float, steps: int, epochs: int) -> CpuTime:
    """Return what epochs take on CPUs.

    Args:
        config: Of the run.
        amount: Of an epoch.
        step_s: A rank's part of a step, as it was timed.
        steps: Of an epoch.
        epochs: That are left.
    """
    num_ranks = max(config.scaling.num_workers, 1)
    computing = epochs * steps * step_s
    exchange = epochs * steps * EXCHANGE_S if num_ranks > 1 else 0.0
    reading = epochs * amount.num_measurements * INPUTS["ray_cpu"].otherwise
    of_cores = computing * num_ranks * config.train.num_threads + reading
    return CpuTime(in_turn=(computing + exchange) / 3600, of_cores=of_cores / 3600)


def gpu_hours(config: Config, amount: Amount, *, epochs: int) -> Line:
    """Return how long epochs take on GPUs, from rates that were measured elsewhere.

    Args:
        config: Of the run.
        amount: Of an epoch.
        epochs: That are left.
    """
    num_gpus = max(config.scaling.num_workers, 1)
    speed, start = INPUTS["gpu_speed"], INPUTS["first_brick"]
    # No faster than it was measured: a smaller model does not fill a GPU.
    share = min(1.0, _work(ModelConfig(), amount) / _work(config.model, amount))
    epoch_s = amount.num_measurements / (num_gpus * share * speed.otherwise) + start.otherwise
    return hours_line(
        epochs * epoch_s / 3600,
        f"{epochs} epochs, {num_gpus} GPUs x {share * speed.otherwise:.3g} measurements/s "
        f"({speed.source}; by operations)",
    )


def cpu_hours(config: Config, amount: Amount) -> float:
    """Estimate the hours of all epochs on CPUs: training steps alone, each thread on its own core.

    All sequences count as of the mean length, which leaves out a little of what attention takes.
    """
    hidden = config.mask.ratio
    work = _work(config.model, amount, hidden, ask_all=config.train.visible_weight > 0)
    num_threads = max(config.scaling.num_workers, 1) * config.train.num_threads
    return work * config.train.epochs / (_thread_flops(config.model) * num_threads) / 3600


def _thread_flops(model: ModelConfig) -> float:
    return WIDE_FLOPS * model.width / (model.width + HALF_WIDTH)


def _work(
    model: ModelConfig, amount: Amount, hidden: float = 0.25, *, ask_all: bool = False
) -> float:
    """Return the operations of an epoch."""
    length = amount.mean_length
    one = np.array([(1 - hidden) * length]), np.array([hidden * length])
    return amount.num_sequences * flops(model, *one, ask_all=ask_all)
