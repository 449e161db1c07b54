"""A subject's history -> one vector: what a frozen model says of it."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from cvmae.arrays import Float32s
from cvmae.checkpoint import Loaded
from cvmae.infer.histories import HistoryBatch, ask_every_code

__all__ = ["POOLINGS", "Pooling", "default_pooling", "pool", "refuse_pooling", "width_of"]

# Shape letters: B sequences, D entries of an embedding.

Pooling = Literal["mean", "mean+decoded"]
POOLINGS: tuple[Pooling, ...] = ("mean", "mean+decoded")


def width_of(loaded: Loaded, pooling: Pooling) -> int:
    """Return D: the model's width, and behind it a number for every code where it is decoded."""
    decoded = loaded.fitted.statistics.num_codes if pooling == "mean+decoded" else 0
    return loaded.config.model.width + decoded


def refuse_pooling(loaded: Loaded, poolings: Sequence[Pooling]) -> None:
    """Refuse what is no pooling, and to ask a model for codes that was never told which it is.

    Raises:
        ValueError: There is no such pooling, or the model was trained with
            mask.target=measurement, or fine-tuned, which moves the encoder and leaves the decoder
            where it was.
    """
    if unknown := [pooling for pooling in poolings if pooling not in POOLINGS]:
        raise ValueError(f"pooling={unknown[0]!r}: choose one of {', '.join(POOLINGS)}")
    if "mean+decoded" in poolings and loaded.config.finetune.checkpoint:
        raise ValueError(
            "infer.pooling=mean+decoded asks the decoder, and fine-tuning has trained this model's "
            "encoder away from it: choose mean"
        )
    if "mean+decoded" in poolings and loaded.model.target != "value":
        raise ValueError(
            "infer.pooling=mean+decoded asks the decoder for each code by its name, and the model "
            f"was trained with mask.target={loaded.model.target}, which hides codes from it: "
            "choose mean"
        )


def default_pooling(loaded: Loaded) -> Pooling:
    """Return what a model embeds by where nobody says it: all that it can."""
    try:
        refuse_pooling(loaded, ["mean+decoded"])
    except ValueError:
        return "mean"
    return "mean+decoded"


def pool(
    loaded: Loaded, history: HistoryBatch, poolings: Sequence[Pooling]
) -> dict[Pooling, Float32s]:
    """Embed a batch of histories, shape [B, D] for each pooling.

    ``mean`` is the mean of the encoder's output over a history's measurements (all are visible);
    ``mean+decoded`` has beside it the standardised value that the decoder restores when it is
    asked for each code of the vocabulary at the history's moment.
    """
    device = loaded.model.mask_token.device
    read = history.batch.to(device)
    with torch.inference_mode():
        encoded_VD = loaded.model.encode(read)
        lengths_B = torch.from_numpy(history.batch.num_visible_B).to(device)
        mean_BD = torch.segment_reduce(encoded_VD.float(), "mean", lengths=lengths_B, axis=0)
        embedded: dict[Pooling, Float32s] = {"mean": mean_BD.cpu().numpy()}
        if "mean+decoded" in poolings:
            asked = ask_every_code(history, loaded.fitted.statistics.num_codes).to(device)
            decoded_M = loaded.model.decode(asked, encoded_VD, read=read)
            decoded_BC = decoded_M.float().reshape(len(history.moment_B), -1).cpu().numpy()
            embedded["mean+decoded"] = np.concatenate([embedded["mean"], decoded_BC], axis=1)
    return {pooling: embedded[pooling] for pooling in poolings}
