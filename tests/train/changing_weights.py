"""Mask weights that follow from the epoch before, and a record of what a run then trains on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from cvmae.batches.bricks import iterate_steps, stream_bricks
from cvmae.batches.code_metrics import CodeMetrics
from cvmae.config import Config
from cvmae.statistics.fitted import TrainingData
from cvmae.train import loop, pretraining
from cvmae.train.pretraining import BrickSource, Pretraining
from cvmae.train.replicated_engine import DDPEngine
from cvmae.train.streams import Plan, make_plan


@dataclass(frozen=True)
class FromTheLastError:
    """Weights drawn from tuning errors: nobody can know them before an epoch has ended."""

    num_codes: int

    def change_after(self, epoch: int) -> bool:
        return True

    def of_epoch(self, epoch: int, last: CodeMetrics | None) -> np.ndarray:
        seed = int(np.nansum(last.tuning_mse_C) * 1e9) if last else 0
        return np.random.default_rng(seed).uniform(0.01, 1, self.num_codes).astype(np.float32)


def adapting(config: Config, data: TrainingData) -> Plan:
    return replace(
        make_plan(config, data), weights=FromTheLastError(data.fitted.statistics.num_codes)
    )


def train_recording(
    config: Config, data: TrainingData, bricks: BrickSource, patch: pytest.MonkeyPatch
) -> tuple[list[str], list[CodeMetrics | None]]:
    """Train under weights that change; return every batch's digest, and each epoch's codes."""
    digests: list[str] = []
    codes: list[CodeMetrics | None] = []
    step = DDPEngine.step

    def recording(self, micro_batches, global_step):
        digests.extend(batch.digest() for batch in micro_batches)
        return step(self, micro_batches, global_step)

    patch.setattr(DDPEngine, "step", recording)
    patch.setattr(pretraining, "make_plan", adapting)
    loop.train(
        Pretraining(config, data, bricks),
        report=lambda metrics, last: codes.append(last),
        ask=lambda: "",
        device=torch.device("cpu"),
    )
    return digests, codes


def wanted_digests(
    config: Config, data: TrainingData, codes: Sequence[CodeMetrics | None]
) -> list[str]:
    """Return the batches of every epoch, each read alone under the weights that are due in it."""
    plan = adapting(config, data)
    digests = []
    for epoch in range(config.train.epochs):
        reader = replace(
            plan.train_reader,
            weight_C=plan.weights.of_epoch(epoch, codes[epoch - 1] if epoch else None),
        )
        bricks = stream_bricks(reader, plan.train_order, plan.units, epoch=epoch)
        for (batch,) in iterate_steps(bricks, lanes=plan.train_order.lanes):
            digests.append(batch.digest())
    return digests
