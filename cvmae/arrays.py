"""Array types that every room shares, and what the shape letters behind a name mean.

A name ends with its shape: ``code_index_N`` has one entry a measurement, ``error_RK`` is a matrix.

==  ====================================================================
B   sequences of a batch
C   codes of the vocabulary, in the order of ``code_index``
L   lanes of the order
M   hidden measurements
N   measurements, one after another (or rows of a file, where none is left out)
S   subjects
U   units
V   visible measurements
W   sequences (windows) of some units
==  ====================================================================

Further letters, and another meaning where a file has one, stand at its top. Offsets of S subjects
have S + 1 entries.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["Bools", "Float32s", "Floats", "Ints"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
