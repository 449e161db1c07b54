"""What an epoch amounts to: losses, throughput, waiting, masks; and the line a person sees."""

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cvmae.arrays import Floats, Ints
from cvmae.batches.batch import Batch
from cvmae.batches.code_metrics import CodeSums
from cvmae.model.flops import flops
from cvmae.runtime.ranks import (
    max_over_ranks,
    sum_counts_over_ranks,
    sum_over_ranks,
    world_size,
)
from cvmae.settings import ModelConfig
from cvmae.train.peak import Peak

__all__ = ["EpochMeter", "ProgressLine", "Tell"]

Item = TypeVar("Item")

# Figures of a run -> nothing; called by rank 0.
Tell = Callable[[Mapping[str, float]], None]

LINE_EVERY_S = 30.0
TELL_EVERY_S = 10.0  # as often as Ray exports what it is told
logger = logging.getLogger("cvmae")


class EpochMeter:
    """Sums over the steps of an epoch on this rank; nothing leaves the device until asked."""

    def __init__(
        self,
        model: ModelConfig,
        num_codes: int,
        device: torch.device,
        peak: Peak,
        before: tuple[float, float] = (0.0, 0.0),
        codes_before: CodeSums | None = None,
        *,
        ask_all: bool = False,
    ) -> None:
        """Start an epoch.

        Args:
            model: Sizes, for the operations of a step.
            num_codes: Size of the vocabulary.
            device: Of this rank.
            peak: What utilisation is a share of, of this rank's device.
            before: Error and count of the epoch's steps in an earlier attempt.
            codes_before: Likewise of each code.
            ask_all: The decoder is asked for visible values, too.
        """
        self._peak, self._ask_all = peak, ask_all
        self._model, self._device, self._before = model, device, before
        self._error = torch.zeros((), dtype=torch.float64, device=device)
        self._count = torch.zeros((), dtype=torch.float64, device=device)
        self._codes_before = codes_before or CodeSums.of((), num_codes)
        self._seen_C = torch.zeros(num_codes, dtype=torch.int64, device=device)
        self._hidden_C = torch.zeros(num_codes, dtype=torch.int64, device=device)
        self._measurements, self._flops = 0, 0.0
        self._waited_s, self._started_s = 0.0, time.monotonic()
        self._step_ended_s: list[float] = [self._started_s]
        self._step_ended_cpu_s: list[float] = [time.thread_time()]

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items and add up the time that they were waited for."""
        iterator = iter(items)
        while True:
            asked_s = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._waited_s += time.monotonic() - asked_s
            yield item

    def add(self, micro_batches: Iterable[Batch], error_sum: Tensor, count: Tensor) -> None:
        """Account for one step."""
        self._error += error_sum
        self._count += count
        for batch in micro_batches:
            codes_N = batch.code_index_N.long()
            ones_N = torch.ones_like(codes_N)
            self._seen_C.index_add_(0, codes_N, ones_N)
            self._hidden_C.index_add_(0, codes_N[batch.hidden_M], ones_N[: batch.num_hidden])
            self._measurements += batch.num_measurements
            lengths = batch.num_visible_B, batch.num_hidden_B
            self._flops += flops(self._model, *lengths, ask_all=self._ask_all)
        self._step_ended_s.append(time.monotonic())
        self._step_ended_cpu_s.append(time.thread_time())

    @property
    def measurements_per_s(self) -> float:
        """Return this rank's throughput in the epoch so far."""
        return self._measurements / max(time.monotonic() - self._started_s, 1e-9)

    @property
    def utilisation(self) -> float:
        """Return useful operations a second over the peak, of this rank in the epoch so far."""
        return self._peak.share(self._flops / max(time.monotonic() - self._started_s, 1e-9))

    @property
    def wait_share(self) -> float:
        """Return the share of time that this rank waited for data."""
        return self._waited_s / max(time.monotonic() - self._started_s, 1e-9)

    @property
    def own_loss(self) -> float:
        """Return this rank's mean error in the epoch so far; waits for the device."""
        return self._error.item() / max(self._count.item(), 1e-9)

    def error_and_count(self) -> tuple[float, float]:
        """Return summed error and count of the epoch so far over all ranks (collective)."""
        error, count = sum_over_ranks(
            np.array([self._error.item(), self._count.item()]), self._device
        )
        return float(error) + self._before[0], float(count) + self._before[1]

    def codes(self, error_C: Ints) -> CodeSums:
        """Return the sums of each code in the epoch so far over all ranks (collective).

        Args:
            error_C: This rank's squared errors in this attempt; see `Engine.code_errors`.
        """
        own = torch.stack([self._hidden_C, self._seen_C]).cpu().numpy()
        sums_3C = sum_counts_over_ranks(np.stack([error_C, *own]), self._device)
        return CodeSums.of(sums_3C + np.array(self._codes_before.as_tuples()), len(error_C))

    def summary(self) -> dict[str, float]:
        """Return loss, throughput and waiting of the epoch over all ranks (collective)."""
        error, count = self.error_and_count()  # waits for the device: all work is done
        own_wall_s = max(time.monotonic() - self._started_s, 1e-9)
        # On a GPU steps are queued, and a step's time is that of the queue, which is as long.
        median_s, p95_s = _percentiles(self._step_ended_s, 50, 95)
        (median_cpu_s,) = _percentiles(self._step_ended_cpu_s, 50)
        total, waited, work, utilisation, median_s, p95_s, median_cpu_s = sum_over_ranks(
            np.array(
                [
                    self._measurements,
                    self.wait_share,
                    self._flops,
                    self._peak.raised_share(self._flops / own_wall_s),
                    median_s,
                    p95_s,
                    median_cpu_s,
                ]
            ),
            self._device,
        )
        # Of the rank that comes closest to the end of its memory.
        (memory_gib,) = max_over_ranks(np.array([self._peak_memory_gib()]), self._device)
        wall_s = time.monotonic() - self._started_s
        return {
            "train_loss": error / max(count, 1.0),
            "measurements_per_s": float(total) / max(wall_s, 1e-9),
            "data_wait_share": float(waited) / world_size(),
            "model_gflops_per_s": float(work) / 1e9 / max(wall_s, 1e-9),
            "mfu": float(utilisation) / world_size(),
            "step_ms_median": 1e3 * float(median_s) / world_size(),  # mean over ranks
            "step_ms_p95": 1e3 * float(p95_s) / world_size(),
            # Of the thread that trains: what others do on the machine hardly touches it.
            "step_cpu_ms_median": 1e3 * float(median_cpu_s) / world_size(),
            "peak_memory_gib": float(memory_gib),
            "train_s": wall_s,
        }

    def _peak_memory_gib(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux gives KiB


def _percentiles(ended_s: Sequence[float], *shares: float) -> Floats:
    """Return percentiles of the seconds between ends of steps, 0 where there was none."""
    between_s = np.diff(ended_s) if len(ended_s) > 1 else np.zeros(1)
    return np.percentile(between_s, shares)


class ProgressLine:
    """A bar on a terminal; elsewhere (a job's log) a line now and then and one each epoch.

    Who is to be told figures, too, is told now and then and after each epoch.
    """

    def __init__(
        self,
        label: str,
        *,
        total_steps: int,
        first_step: int,
        enabled: bool,
        tell: Tell | None = None,
    ) -> None:
        self._label, self._enabled, self._total = label, enabled, total_steps
        self._tell, self._told_s = tell, time.monotonic()
        self._first, self._started_s, self._said_s = first_step, time.monotonic(), time.monotonic()
        on_terminal = enabled and sys.stderr.isatty()
        self._bar = tqdm(
            total=total_steps, initial=first_step, desc=label, unit="step", disable=not on_terminal
        )

    def step(self, global_step: int, meter: EpochMeter) -> None:
        """Show that a step is done."""
        if not self._enabled:
            return
        speed = (
            f"{world_size() * meter.measurements_per_s:,.0f} measurements/s, "
            f"waiting {meter.wait_share:.1%}, {meter.utilisation:.0%} of peak"
        )
        if not self._bar.disable:
            self._bar.set_postfix_str(speed, refresh=False)  # shown when the bar is drawn next
            self._bar.update()
        elif time.monotonic() - self._said_s > LINE_EVERY_S:
            self._say(global_step, speed)
        if self._tell and time.monotonic() - self._told_s > TELL_EVERY_S:
            self._told_s = time.monotonic()
            self._tell(
                {
                    "progress": global_step / self._total,
                    "measurements_per_s": world_size() * meter.measurements_per_s,
                    "data_wait_share": meter.wait_share,
                    "train_loss": meter.own_loss,
                }
            )

    def epoch(
        self, global_step: int, epochs: int, metrics: Mapping[str, float], tuned: str
    ) -> None:
        """Show how an epoch went; what tuning has shown is said in words."""
        if self._enabled:
            if self._tell:
                self._tell(dict(metrics) | {"progress": global_step / self._total})
            self._say(
                global_step,
                f"epoch {metrics['epoch']:.0f}/{epochs}, train {metrics['train_loss']:.4f}, "
                f"{tuned}, {metrics['measurements_per_s']:,.0f} measurements/s, "
                f"waiting {metrics['data_wait_share']:.1%}, {metrics['mfu']:.0%} of peak, "
                f"step {metrics['step_ms_median']:.0f} ms (p95 {metrics['step_ms_p95']:.0f}), "
                f"memory {metrics['peak_memory_gib']:.1f} GiB",
            )

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.close()

    def _say(self, global_step: int, what: str) -> None:
        self._said_s = time.monotonic()
        done = max(global_step - self._first, 1)
        left_s = (self._said_s - self._started_s) / done * (self._total - global_step)
        eta = time.strftime("%H:%M:%S", time.gmtime(left_s))
        line = f"{self._label}: step {global_step}/{self._total}, {what}, ETA {eta}"
        if self._bar.disable:
            logger.info(line)
        else:
            self._bar.write(line, file=sys.stderr)
