"""Keyed randomness: every draw is a hash of what it is for, never of when it is made.

A 64-bit mix turns (seed, epoch, subject) into one 32-bit key; a 32-bit counter hash
(lowbias32, C. Wellons' hash prospector) turns key and position into a draw. Golden values in
the tests pin both: changing them changes every mask and every order.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Floats

__all__ = ["UInts", "counter_hash", "stream_keys", "uniform"]

UInts = npt.NDArray[np.uint32]
Stream = Literal[
    "mask",
    "count",
    "crop",
    "order",
    "tie",
    "deal",
    "shuffle",
    "choice",
    "noise",
    "control",
    "target",
    "split",
    "label",
    "residual",
]

_STREAMS: dict[str, int] = {
    "mask": 1,
    "count": 2,
    "crop": 3,
    "order": 4,
    "tie": 5,
    "deal": 6,
    "shuffle": 7,
    "choice": 8,  # of what an evaluation looks at
    "noise": 9,
    "control": 10,
    "target": 11,
    "split": 12,
    "label": 13,
    "residual": 14,
}
_MASK64 = (1 << 64) - 1


def _mix64(value: int) -> int:
    """Finish of splitmix64 on a Python integer."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def stream_keys(seed: int, epoch: int, items: npt.NDArray[np.integer], *, stream: Stream) -> UInts:
    """Return one 32-bit key per item (a subject, a unit) for one purpose of one epoch."""
    salt = _mix64(_mix64(_mix64(seed) ^ epoch) ^ _STREAMS[stream])
    mixed = items.astype(np.int64).view(np.uint64) ^ np.uint64(salt)
    mixed += np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)


def counter_hash(keys: UInts, counters: npt.NDArray[np.integer]) -> UInts:
    """Hash a counter under each key to 32 well-mixed bits."""
    bits = counters.astype(np.uint32)
    bits *= np.uint32(0x9E3779B1)
    bits ^= keys
    bits ^= bits >> np.uint32(16)
    bits *= np.uint32(0x7FEB352D)
    bits ^= bits >> np.uint32(15)
    bits *= np.uint32(0x846CA68B)
    bits ^= bits >> np.uint32(16)
    return bits


def uniform(bits: UInts) -> Floats:
    """Map 32 bits to the open interval (0, 1): 0 has no logarithm."""
    draws = bits.astype(np.float64)
    draws += 0.5
    draws *= 2.0**-32
    return draws
