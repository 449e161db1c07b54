"""Useful floating-point operations of a training step, for utilisation."""

import numpy as np

from cvmae.arrays import Ints
from cvmae.settings import ModelConfig

__all__ = ["flops"]


def flops(
    config: ModelConfig, num_visible_B: Ints, num_hidden_B: Ints, *, ask_all: bool = False
) -> float:
    """Count forward and backward operations on these sequences, as if nothing were padded.

    The decoder is asked for hidden measurements, or for all (`train.visible_weight`).
    Matrix products only (two operations a multiply-add), backward as twice forward;
    embeddings, norms and softmax are left out, as is usual for utilisation.
    """
    width = config.width
    visible, hidden = num_visible_B.astype(np.float64), num_hidden_B.astype(np.float64)
    read = visible if config.encoder_input == "visible_only" else visible + hidden
    asked = visible + hidden if ask_all else hidden
    # Query, key, value, output: 4 D^2 multiply-adds a row; feed-forward: 8 D^2.
    encoder = 24 * width**2 * read + 4 * width * read**2
    decoder = 20 * width**2 * asked + 4 * width**2 * read + 4 * width * asked * read
    forward = config.num_layers * encoder + config.num_decoder_layers * decoder
    return 3 * float(forward.sum())
