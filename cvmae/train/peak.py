"""The most a device can compute: what utilisation is a share of."""

import time
from functools import lru_cache

import torch

__all__ = ["peak_flops"]

# Dense bf16 of the vendors' data sheets, by a part of the device's name; the longest match counts.
DATASHEET = {"A10": 125e12, "A100": 312e12, "H100": 989e12, "H200": 989e12, "L4": 121e12}
SIZE, REPEATS = 1024, 3


@lru_cache(maxsize=4)
def peak_flops(device: torch.device, *, bf16: bool) -> float:
    """Return floating-point operations a second: of the data sheet, or of a large product here.

    Utilisation is quoted against data sheets, of which only bf16 on known GPUs is noted here;
    elsewhere the fastest of a few products of float32 matrices is the peak.
    """
    if device.type == "cuda" and bf16:
        name = torch.cuda.get_device_name(device)
        known = [part for part in DATASHEET if part in name]
        if known:
            return DATASHEET[max(known, key=len)]
    dtype = torch.bfloat16 if bf16 else torch.float32
    a = torch.ones(SIZE, SIZE, device=device, dtype=dtype)
    return 2 * SIZE**3 / min(_seconds(a) for _ in range(REPEATS))


def _seconds(a: torch.Tensor) -> float:
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    begin = time.perf_counter()
    torch.mm(a, a)
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - begin
