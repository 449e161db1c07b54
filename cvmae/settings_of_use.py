"""The settings of the verbs that put a trained model to use; the others' are in `settings`."""

from dataclasses import dataclass
from typing import Literal

from cvmae.settings import require

__all__ = ["FinetuneConfig", "InferConfig"]


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """A trained model put to use."""

    checkpoint: str = ""
    """Model: a run folder, or one checkpoint of it; of a sweep's folder `export` takes the best."""
    labels: str = ""
    """MEDS label set, or a folder of such, which says for whom and when an embedding is wanted;
    empty: for each subject at its last measurement."""
    pooling: Literal["mean", "mean+decoded"] = "mean+decoded"
    """What an embedding is: the mean of the encoder's output over the last data.sequence_length
    measurements, as published; or beside it what the decoder restores for each code."""
    rows: str = ""
    """Parquet file with columns subject_id, time and code, which says what is imputed; empty: every
    row of one of the model's codes that has a time and no value."""
    level: float = 0.95
    """Share of values that the interval of an imputed value is to hold."""
    past_only: bool = False
    """Impute from rows at or before a row's time only, as at the bedside; False: also from later
    ones. Intervals are by residuals of values that were restored in the same way."""
    results: str = ""
    """Folder of an evaluation of this model, whose figures `export` writes into its card."""
    register: str = ""
    """Name under which `export` registers the model in MLflow."""

    def __post_init__(self) -> None:
        require(0 < self.level < 1, "infer.level", self.level, "a share between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Training the encoder of a pretrained model with labels."""

    checkpoint: str = ""
    """Run folder (or a checkpoint) of the pretrained model, whose sizes, vocabulary, statistics
    and window are taken."""
    labels: str = ""
    """Boolean labels: a parquet file of MEDS's label schema, or a folder of such files."""
    from_scratch: bool = False
    """Begin with fresh weights instead of the checkpoint's: what pretraining is worth."""
    epochs: int = 5
    """Passes over the labels of train."""
    batch_labels: int = 64
    """Labels a step, over all workers."""
    lr: float = 3e-4
    """Peak learning rate, after a warm-up and before a cosine down to zero."""
    choose_by: Literal["auroc", "loss"] = "auroc"
    """What an epoch is chosen by, on tuning: the highest AUROC or the least cross-entropy."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_labels"):
            value = getattr(self, name)
            require(value >= 1, f"finetune.{name}", value, "at least 1")
        require(0 < self.lr < float("inf"), "finetune.lr", self.lr, "a positive number")
