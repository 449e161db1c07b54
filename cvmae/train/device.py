"""Batches on their way to the device: copied ahead, while the step before is computed."""

from collections.abc import Iterator
from dataclasses import fields

import torch
from torch import Tensor

from cvmae.batches.batch import Batch
from cvmae.runtime.read_ahead import read_ahead

__all__ = ["Step", "on_device"]

Step = list[Batch]


def on_device(steps: Iterator[Step], device: torch.device) -> Iterator[Step]:
    """Yield steps on the device, up to two of them made and copied ahead.

    A GPU copies from page-locked memory on a stream of its own; neither the host nor the stream
    that computes waits for more than the copy of the step it needs.
    """
    if device.type != "cuda":
        yield from read_ahead(_plainly(steps, device))
        return
    stream = torch.cuda.Stream(device)
    for step, copied in read_ahead(_copied(steps, device, stream)):
        current = torch.cuda.current_stream(device)
        current.wait_event(copied)
        for batch in step:
            _belongs_to(batch, current)
        yield step


def _plainly(steps: Iterator[Step], device: torch.device) -> Iterator[Step]:
    for step in steps:
        yield [batch.to(device) for batch in step]


def _copied(
    steps: Iterator[Step], device: torch.device, stream: torch.cuda.Stream
) -> Iterator[tuple[Step, torch.cuda.Event]]:
    for step in steps:
        with torch.cuda.stream(stream):
            there = [batch.pin_memory().to(device, non_blocking=True) for batch in step]
            copied = torch.cuda.Event()
            copied.record(stream)
        yield there, copied


def _belongs_to(batch: Batch, stream: torch.cuda.Stream) -> None:
    """Keep the memory of tensors that another stream has allocated until this one is done."""
    for item in fields(batch):
        if isinstance(value := getattr(batch, item.name), Tensor):
            value.record_stream(stream)
