"""The lessons of fine-tuning: labelled windows in memory, and AUROC on tuning after each epoch."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from cvmae.arrays import Float32s, Floats, Ints
from cvmae.batches.batch import Batch
from cvmae.batches.code_metrics import CodeMetrics, CodeSums
from cvmae.batches.keys import stream_keys
from cvmae.checkpoint import COST, Progress
from cvmae.config import Config
from cvmae.model.finetuned import FinetunedVOMAE, build_finetuned
from cvmae.runtime.ranks import rank, sum_over_ranks, world_size
from cvmae.statistics.fitted import FittedData
from cvmae.train.device import Step, on_device
from cvmae.train.engine import Engine
from cvmae.train.labelled import LabelledWindows
from cvmae.train.lessons import Lessons, StepsOf

__all__ = [
    "Finetuning",
    "LabelledData",
    "auroc",
    "cross_entropy",
    "predict_windows",
    "steps_of_labels",
]

# Shape letters: L labels of a split, B labels of a batch.

PREDICTED_AT_ONCE = 16_384  # measurements


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class LabelledData:
    """What every rank of a fine-tuning is given: in memory, since labels are few."""

    train: LabelledWindows
    tuning: LabelledWindows
    pretrained: Mapping[str, Tensor] | None  # weights to begin with; None: fresh ones


def steps_of_labels(num_labels: int, batch_labels: int) -> int:
    """Return the steps of an epoch."""
    return max(1, round(num_labels / batch_labels))


class Finetuning(Lessons):
    """Labels are to be predicted.

    Args:
        config: Of the run.
        fitted: What a checkpoint holds beside the weights.
        labelled: Windows that lead up to labels.
    """

    criterion = "tuning_loss"

    def __init__(self, config: Config, fitted: FittedData, labelled: LabelledData) -> None:
        self._labelled = labelled
        num_steps = steps_of_labels(labelled.train.num_labels, config.train.batch_sequences)
        super().__init__(config, fitted, (num_steps,) * config.train.epochs)

    def model(self) -> FinetunedVOMAE:
        """Return the pretrained encoder, or a fresh one, with a head; see `Lessons.model`."""
        positive = float(self._labelled.train.label_L.mean())
        return build_finetuned(
            self.config.model,
            self.num_codes,
            self.config.seed,
            self.config.mask.target,
            pretrained=self._labelled.pretrained,
            log_odds=math.log(positive / (1 - positive)),
        )

    @contextlib.contextmanager
    def opened(self, progress: Progress, end: int) -> Iterator[StepsOf]:
        """Make steps of what is in memory; see `Lessons.opened`."""
        yield self._steps

    def _steps(self, progress: Progress) -> Iterator[Step]:
        parts = self.config.train.accumulation_steps
        for index_B in self._dealt(progress.epoch)[progress.step :]:
            own_B = index_B[rank() :: world_size()]
            yield [self._labelled.train.take(own_B[part::parts]) for part in range(parts)]

    def _dealt(self, epoch: int) -> list[Ints]:
        """Return the labels of each step of an epoch: each label once, longest window first.

        So the ranks, and the micro-batches of each, have about as much to do, dealt in turn.
        """
        windows = self._labelled.train
        label_L = np.arange(windows.num_labels)
        key_L = stream_keys(self.config.seed, epoch, label_L, stream="label")
        shuffled = np.array_split(np.argsort(key_L, kind="stable"), self.num_steps[epoch])
        return [
            index_B[np.argsort(-windows.length_L[index_B], kind="stable")] for index_B in shuffled
        ]

    def examine(
        self, engine: Engine, trained: CodeSums
    ) -> tuple[dict[str, float], CodeMetrics | None]:
        """Predict tuning; see `Lessons.examine`."""
        tuning = self._labelled.tuning
        logit_L = predict_windows(engine, tuning)
        loss, area = cross_entropy(tuning.label_L, logit_L), auroc(tuning.label_L, logit_L)
        cost = 1 - area if self.config.finetune.choose_by == "auroc" else loss
        return {"tuning_auroc": area, "tuning_loss": loss, COST: cost}, None

    def digest(self, progress: Progress, step: int) -> str:
        """Make a step once more; see `Lessons.digest`."""
        own_B = self._dealt(progress.epoch)[step][rank() :: world_size()]
        return self._labelled.train.take(own_B).digest()

    def told(self, metrics: Mapping[str, float]) -> str:
        """Say AUROC and loss; see `Lessons.told`."""
        return f"tuning {metrics['tuning_loss']:.4f} (AUROC {metrics['tuning_auroc']:.3f})"


def predict_windows(engine: Engine, windows: LabelledWindows) -> Floats:
    """Return the log-odds of every label of a split, shape [L] (collective).

    Batches are the same for any number of ranks, which take them in turn.
    """
    own = list(windows.in_batches(PREDICTED_AT_ONCE))[rank() :: world_size()]
    batches: Iterator[list[Batch]] = ([windows.take(index_B)] for index_B in own)
    logit_L = np.zeros(windows.num_labels)
    for index_B, (batch,) in zip(own, on_device(batches, engine.device), strict=True):
        logit_L[index_B] = engine.predict(batch).double().cpu().numpy()
    return sum_over_ranks(logit_L, engine.device)


def cross_entropy(label_L: Float32s, logit_L: Floats) -> float:
    """Return the mean cross-entropy of labels that are 0 or 1."""
    return float(np.mean(np.logaddexp(0, logit_L) - label_L * logit_L))


def auroc(label_L: Float32s, logit_L: Floats) -> float:
    """Return the chance that a positive label ranks above a negative one; NaN without both.

    Example:
        >>> auroc(np.array([0, 1, 1], np.float32), np.array([0.5, 0.5, 2.0]))
        0.75
    """
    positive = label_L > 0
    num_positive = int(positive.sum())
    num_pairs = num_positive * (len(label_L) - num_positive)
    if not num_pairs:
        return math.nan
    rank_sum = rankdata(logit_L)[positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / num_pairs)
