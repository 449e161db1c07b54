"""What a run reads in which order, and by which weights its values are hidden."""

from dataclasses import dataclass, replace

from cvmae.batches.bricks import BrickReader
from cvmae.batches.order import Order
from cvmae.batches.policies import EpochWeights, epoch_weights
from cvmae.checkpoint import Progress
from cvmae.config import Config
from cvmae.meds.units import Unit
from cvmae.statistics.fitted import TrainingData
from cvmae.train.weights_file import table_weights

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is read in which order: train under the policy, tuning under the fixed mask."""

    unweighted_reader: BrickReader  # of train, without mask weights
    train_order: Order
    tuning_reader: BrickReader
    tuning_order: Order
    units: tuple[Unit, ...]
    weights: EpochWeights

    @property
    def train_reader(self) -> BrickReader:
        """Return what reads train in the first epoch, and in all if weights do not change."""
        return self.reader_of(Progress())

    def reader_of(self, progress: Progress) -> BrickReader:
        """Return what reads train in the epoch that a run has come to."""
        return replace(
            self.unweighted_reader,
            weight_C=self.weights.of_epoch(progress.epoch, progress.code_metrics),
        )


def make_plan(config: Config, data: TrainingData) -> Plan:
    """Derive readers and orders from the settings and what was fitted to the data.

    Raises:
        ValueError: The policy has no weight for a code; see `epoch_weights` and `table_weights`.
        FileNotFoundError: There is no `mask.weights_file`.
    """
    fitted = data.fitted
    reader = BrickReader(
        source=data.source,
        split="train",
        statistics=fitted.statistics,
        weight_C=None,
        ratio=config.mask.ratio,
        seed=config.seed,
        sequence_length=config.data.sequence_length,
        crop=config.data.crop,
        weigh_errors=config.train.loss_weighting == "inclusion",
        independent=config.mask.draws_independently,
    )
    # The tuning mask is uniform, fixed and the same for every policy and seed: errors under
    # each policy's own mask could not be compared.
    tuning_reader = replace(reader, split="tuning", seed=config.evaluate.seed, evaluation=True)
    train_order, tuning_order = (
        Order(
            num_sequences_U=fitted.unit_index.num_sequences[split],
            num_measurements_U=fitted.unit_index.num_measurements[split],
            seed=seed,
            lanes=config.data.lanes,
            batch_sequences=config.train.batch_sequences,
        )
        for split, seed in (("train", config.seed), ("tuning", config.evaluate.seed))
    )
    return Plan(
        unweighted_reader=reader,
        train_order=train_order,
        tuning_reader=tuning_reader,
        tuning_order=tuning_order,
        units=fitted.unit_index.units,
        weights=epoch_weights(
            fitted.statistics,
            config.mask,
            seed=config.seed,
            table_C=table_weights(config, fitted.statistics.codes),
        ),
    )
