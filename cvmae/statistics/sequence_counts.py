"""How many sequences a subject's measurements give."""

import numpy as np
import numpy.typing as npt

__all__ = ["count_sequences"]

Ints = npt.NDArray[np.int64]

# Shape letters: S subjects.


def count_sequences(lengths_S: Ints, sequence_length: int, *, crop: bool = False) -> Ints:
    """Return the number of sequences that a subject of each length gives, 0 below length 2.

    Example:
        >>> count_sequences(np.array([1, 2, 512, 513]), 512)
        array([0, 1, 1, 2])
    """
    windows_S = np.ones_like(lengths_S) if crop else -(-lengths_S // sequence_length)
    return np.where(lengths_S < 2, 0, windows_S)
