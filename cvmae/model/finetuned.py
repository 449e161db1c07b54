"""The encoder with a head for labels: the log-odds of what follows a sequence."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cvmae.batches.batch import Batch
from cvmae.model.vomae import VOMAE, build_model
from cvmae.settings import MaskTarget, ModelConfig

__all__ = ["FinetunedVOMAE", "build_finetuned"]

# What the encoder's output depends on where nothing is hidden; the rest stays as it is.
READ = (
    "code_embedding",
    "time_embedding",
    "value_embedding",
    "place_embedding",
    "encoder",
    "encoder_norm",
    "label_head",
)


class FinetunedVOMAE(VOMAE):
    """Predict a label from the mean of the encoder's output; the decoder is carried along.

    A sequence without measurements gives zeros, and an indicator tells them from a mean.
    """

    def __init__(self, config: ModelConfig, num_codes: int, target: MaskTarget = "value") -> None:
        super().__init__(config, num_codes, target)
        self.label_head = nn.Linear(config.width + 1, 1)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.partition(".")[0] in READ)

    def forward(self, batch: Batch, *, ask_all: bool = False, whole: bool = False) -> Tensor:
        """Return the log-odds of each sequence's label, shape [B].

        Args:
            batch: Of sequences of which nothing is hidden.
            ask_all: Of pretraining; not looked at.
            whole: Likewise.
        """
        encoded_VD = self.encode(batch).float()
        num_B = batch.offsets_B.diff()
        # Sums in the order of the rows, by whole sequences: the same bits for any device's threads.
        sum_BD = torch.segment_reduce(encoded_VD, "sum", lengths=num_B.long(), axis=0, unsafe=True)
        mean_BD = sum_BD / num_B.clamp(min=1)[:, None]
        is_empty_B = (num_B == 0).to(mean_BD.dtype)
        logit_B: Tensor = self.label_head(torch.cat([mean_BD, is_empty_B[:, None]], dim=1))[:, 0]
        return logit_B


def build_finetuned(
    config: ModelConfig,
    num_codes: int,
    seed: int,
    target: MaskTarget = "value",
    *,
    pretrained: Mapping[str, Tensor] | None,
    log_odds: float,
) -> FinetunedVOMAE:
    """Build a model before its first label; it depends on the arguments only.

    Args:
        config: Sizes.
        num_codes: Of the vocabulary.
        seed: Of all weights, or of the head's where the others are given.
        target: Of the pretrained model.
        pretrained: Its weights; None: fresh ones.
        log_odds: Of a positive label, which is the first prediction of all.
    """
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are not kept
        model = FinetunedVOMAE(config, num_codes, target)
    fresh = build_model(config, num_codes, seed, target).state_dict()
    own = model.state_dict() | fresh | dict(pretrained or {})
    model.load_state_dict(own)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(model.label_head.weight, std=0.02, generator=generator)
    nn.init.constant_(model.label_head.bias, log_odds)
    return model
