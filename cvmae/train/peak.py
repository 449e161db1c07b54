"""The most a device can compute: what utilisation is a share of."""

import time
from functools import lru_cache

import torch

__all__ = ["Peak", "peak_of"]

# Dense bf16 of the vendors' data sheets, by a part of the device's name; the longest match counts.
DATASHEET = {"A10": 125e12, "A100": 312e12, "H100": 989e12, "H200": 989e12, "L4": 121e12}
SIZE, REPEATS = 1024, 5


class Peak:
    """Operations a second of a device, raised where training shows that it can make more."""

    def __init__(self, flops_per_s: float) -> None:
        self._flops_per_s = flops_per_s

    def share(self, flops_per_s: float) -> float:
        """Return what share of the peak some work is, of which not all may be done yet."""
        return min(flops_per_s / self._flops_per_s, 1.0)

    def raised_share(self, flops_per_s: float) -> float:
        """Return what share of the peak some work is that has been done, and learn from it."""
        self._flops_per_s = max(self._flops_per_s, flops_per_s)
        return flops_per_s / self._flops_per_s


@lru_cache(maxsize=4)
def peak_of(device: torch.device, *, bf16: bool) -> Peak:
    """Return the peak of the data sheet, or that of a large product here.

    Utilisation is quoted against data sheets, of which only bf16 on known GPUs is noted here;
    elsewhere the fastest of a few products of float32 matrices is the peak.
    """
    if device.type == "cuda" and bf16:
        name = torch.cuda.get_device_name(device)
        known = [part for part in DATASHEET if part in name]
        if known:
            return Peak(DATASHEET[max(known, key=len)])
    dtype = torch.bfloat16 if bf16 else torch.float32
    a = torch.ones(SIZE, SIZE, device=device, dtype=dtype)
    return Peak(2 * SIZE**3 / min(_seconds(a) for _ in range(REPEATS)))


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
