"""The settings of the verbs that put a trained model to use; the others' are in `settings`."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["InferConfig"]


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """A trained model put to use."""

    checkpoint: str = ""
    """Model: a run folder, or one checkpoint of it."""
    labels: str = ""
    """MEDS label set, or a folder of such, which says for whom and when an embedding is wanted;
    empty: for each subject at its last measurement."""
    pooling: Literal["mean", "mean+decoded"] = "mean+decoded"
    """What an embedding is: the mean of the encoder's output over the last data.sequence_length
    measurements, as published; or beside it what the decoder restores for each code."""
