"""The most operations a second that a device can make: what utilisation is a share of."""

import re
import time
from functools import lru_cache

import torch

__all__ = ["Peak", "measured_flops_per_s", "peak_of"]

# Dense bf16 of the vendors' data sheets, by a word of the device's name.
DATASHEET = {"A10": 125e12, "A100": 312e12, "H100": 989e12, "H200": 989e12, "L4": 121e12}
SIZE, REPEATS = 1024, 5


class Peak:
    """Operations a second that a device makes at most, by its data sheet or as measured here.

    Other work on the machine may have slowed the measurement, so that a measured peak is raised
    where training turns out to be faster; a data sheet's stays.
    """

    def __init__(self, flops_per_s: float, *, is_measured: bool) -> None:
        self._flops_per_s, self._is_measured = flops_per_s, is_measured

    def share(self, flops_per_s: float) -> float:
        """Return a rate over the peak, at most 1: steps may be counted that a GPU still queues."""
        return min(flops_per_s / self._flops_per_s, 1.0)

    def raised_share(self, flops_per_s: float) -> float:
        """Return the rate of finished work over the peak, which it raises if that was measured."""
        if self._is_measured:
            self._flops_per_s = max(self._flops_per_s, flops_per_s)
        return flops_per_s / self._flops_per_s


def peak_of(device: torch.device, *, bf16: bool) -> Peak:
    """Return a new peak of a device, from its data sheet where that is known.

    Utilisation is quoted against data sheets, of which only bf16 on known GPUs is noted here;
    elsewhere the fastest of a few products of matrices is the peak.
    """
    if device.type == "cuda" and bf16:
        for word in re.findall(r"\w+", torch.cuda.get_device_name(device)):
            if word in DATASHEET:
                return Peak(DATASHEET[word], is_measured=False)
    return Peak(measured_flops_per_s(device, bf16=bf16), is_measured=True)


@lru_cache(maxsize=4)
def measured_flops_per_s(device: torch.device, *, bf16: bool) -> float:
    """Return the operations a second of the fastest of a few large products on a device."""
    a = torch.ones(SIZE, SIZE, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    return 2 * SIZE**3 / min(_seconds(a) for _ in range(REPEATS))


def _seconds(a: torch.Tensor) -> float:
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
        begin = time.perf_counter()
        torch.mm(a, a)
        torch.cuda.synchronize(a.device)
        return time.perf_counter() - begin
    # Of this thread, which has its share of the product: others on the machine do not slow it.
    begin = time.thread_time()
    torch.mm(a, a)
    return time.thread_time() - begin
