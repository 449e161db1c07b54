"""Useful floating-point operations of a training step, for utilisation."""

import numpy as np

from cvmae.arrays import Ints
from cvmae.settings import ModelConfig

__all__ = ["flops"]


def flops(config: ModelConfig, num_visible_B: Ints, num_hidden_B: Ints) -> float:
    """Count forward and backward operations on these sequences, as if nothing were padded.

    Matrix products only (two operations a multiply-add), backward as twice forward;
    embeddings, norms and softmax are left out, as is usual for utilisation.
    """
    width = config.width
    read, hidden = num_visible_B.astype(np.float64), num_hidden_B.astype(np.float64)
    if config.encoder_input == "masked_value":
        read = read + hidden
    # Query, key, value, output: 4 D^2 multiply-adds a row; feed-forward: 8 D^2.
    encoder = 24 * width**2 * read + 4 * width * read**2
    decoder = 20 * width**2 * hidden + 4 * width**2 * read + 4 * width * hidden * read
    forward = config.num_layers * encoder + config.num_decoder_layers * decoder
    return 3 * float(forward.sum())
