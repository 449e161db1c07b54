"""Our kernels on a GPU beside what else does their work: whether they stay is decided by these.

Attention beside torch's `varlen_attn`, flash-attn and padded buckets; sums, norms and GELU beside
torch's own and what a compiler fuses; then whole steps of short models with one of ours replaced.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from benchmarks.clock import progress
from benchmarks.gpu.sizes import Sizes, device_note, gpu_row, milliseconds
from benchmarks.gpu.steps import measure
from benchmarks.rows import Row
from benchmarks.step.batches import draw_steps
from cvmae.model import attention, residual
from cvmae.model.attention import AttentionPlan, plan_attention
from cvmae.model.kernels import attention as operators
from cvmae.model.kernels.gelu import bias_gelu
from cvmae.model.kernels.norm import add_norm
from cvmae.settings import ModelConfig

__all__ = ["attention_rows", "fused_rows", "replaced_rows"]

# Shape letters: N rows, H heads, D dimension of a head, W width.

Work = Callable[..., Any]
LAYERS, DECODER_LAYERS = 2, 1  # of a model that is compiled in seconds; layers are all alike


def attention_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Yield what attention within the visible sequences of a step takes, with its gradient."""
    step = next(draw_steps(sizes.large_step, seed=7))
    plan = _plan(step.length_W - step.num_hidden_W, device)
    for width, heads in sizes.widths:
        shape = (int(plan.num_queries_B.sum()), 3, heads, width // heads)
        packed = _rows(shape, device).requires_grad_()
        upstream = [_rows((shape[0], *shape[2:]), device)]
        ways = {name: partial(_listed, attend, plan) for name, attend in ATTENTION.items()}
        label = f"attention: width {width}, {heads} heads"
        yield from _compare(label, ways, [packed], upstream, device, sizes)


def fused_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Yield what a sum with its norm takes, and a bias with GELU, with their gradients."""
    num_rows = next(draw_steps(sizes.large_step, seed=7)).num_measurements
    for width, _ in sizes.widths:
        x, rest = (_rows((num_rows, width), device).requires_grad_() for _ in range(2))
        norm = nn.LayerNorm(width, device=device)
        bias = torch.randn(width, device=device, requires_grad=True)
        inputs = [x, rest, bias, *norm.parameters()]
        upstream = [_rows((num_rows, width), device) for _ in range(2)]
        ways = _with_compiler(NORM, sizes)
        yield from _compare(f"norm: width {width}", ways, inputs, upstream, device, sizes)
        x = _rows((num_rows, 4 * width), device).requires_grad_()
        bias = torch.randn(4 * width, device=device, requires_grad=True)
        upstream = [_rows(x.shape, device)]
        ways = _with_compiler(GELU, sizes)
        yield from _compare(f"gelu: width {4 * width}", ways, [x, bias], upstream, device, sizes)


def replaced_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Yield what steps take with one of our kernels replaced, of short models of each width."""
    for width, heads in sizes.widths:
        model = ModelConfig(
            width=width, num_layers=LAYERS, num_heads=heads, num_decoder_layers=DECODER_LAYERS
        )
        for name, replaced in REPLACED.items():
            label = f"step: width {width}, {LAYERS} layers, {name}"
            torch._dynamo.reset()
            try:
                with replaced():
                    speed = measure(model, sizes.large_step, device, replace(sizes, rounds=1))
            except Exception as error:
                yield gpu_row(label, None, "ms", note=_shown(error))
            else:
                yield gpu_row(label, speed.ms, "ms", note=device_note(device))
    torch._dynamo.reset()


def _compare(
    label: str,
    ways: Mapping[str, Work],
    inputs: list[Tensor],
    upstream: list[Tensor],
    device: torch.device,
    sizes: Sizes,
) -> Iterator[Row]:
    """Time each way forward and backward; ours comes first."""
    ours = None
    for name, way in ways.items():
        row, found = _timed(
            f"{label}, by {name}",
            partial(_there_and_back, way, inputs, upstream),
            ours,
            device,
            sizes,
        )
        ours = ours or found
        yield row


def _there_and_back(way: Work, inputs: list[Tensor], upstream: list[Tensor]) -> tuple[Tensor, ...]:
    outputs = way(*inputs)
    return *outputs, *torch.autograd.grad(outputs, inputs, upstream)


def _with_compiler(ways: dict[str, Work], sizes: Sizes) -> dict[str, Work]:
    """Add what a compiler makes of torch's own."""
    compiled = torch.compile(ways["torch"], fullgraph=True, backend=sizes.backend)
    return ways | {"a compiler": compiled}


def _timed(
    label: str,
    work: Callable[[], tuple[Tensor, ...]],
    ours: tuple[Tensor, ...] | None,
    device: torch.device,
    sizes: Sizes,
) -> tuple[Row, tuple[Tensor, ...] | None]:
    """Return what a way takes, or why it does not go here; its results agree with ours."""
    progress("%s", label)
    try:
        found = tuple(x.detach().clone() for x in work())
        taken = milliseconds(work, device, sizes)
    except Exception as error:  # of others' making: another way is tried next
        return gpu_row(label, None, "ms", note=_shown(error)), None
    differences = [_difference(a, b) for a, b in zip(found, ours or found, strict=True)]
    note = f"largest difference from ours {max(differences):.1e}, by norms; {device_note(device)}"
    return gpu_row(label, taken, "ms", note=note), found


def _shown(error: Exception) -> str:
    first, *_ = str(error).splitlines() or [""]
    return f"does not go here: {type(error).__name__}: {first[:200]}"


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-12))


def _rows(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return random rows in half precision; Triton's interpreter does not know bfloat16."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float16
    return torch.randn(shape, device=device).to(kind)


def _plan(num_B: "np.ndarray[Any, np.dtype[np.int64]]", device: torch.device) -> AttentionPlan:
    offsets_B = torch.from_numpy(np.concatenate([[0], np.cumsum(num_B)]).astype(np.int32))
    offsets_B = offsets_B.to(device)
    return plan_attention(num_B, num_B, offsets_B, offsets_B)


def _listed(attend: Work, plan: AttentionPlan, packed_N3HD: Tensor) -> list[Tensor]:
    return [attend(packed_N3HD, plan)]


def _by_ours(packed_N3HD: Tensor, plan: AttentionPlan) -> Tensor:
    return operators.self_attention(packed_N3HD, plan.query_offsets_B, plan.longest)


def _by_module(module: str, function: str) -> Callable[[Tensor, AttentionPlan], Tensor]:
    """Return attention by a function of others, whose arguments are the same."""

    def attend(packed_N3HD: Tensor, plan: AttentionPlan) -> Tensor:
        offsets_B, longest = plan.query_offsets_B, plan.longest
        varlen = getattr(import_module(module), function)
        found: Tensor = varlen(*packed_N3HD.unbind(1), offsets_B, offsets_B, longest, longest)
        return found

    return attend


def _by_buckets(packed_N3HD: Tensor, plan: AttentionPlan) -> Tensor:
    query_NHD, key_NHD, value_NHD = packed_N3HD.unbind(1)
    return attention._bucketed_attention(query_NHD, key_NHD, value_NHD, plan)


def _own_norm(x: Tensor, rest: Tensor, bias: Tensor, gain: Tensor, offset: Tensor) -> Any:
    return add_norm(x, rest, bias, gain, offset, 1e-5)


def _plain_norm(x: Tensor, rest: Tensor, bias: Tensor, gain: Tensor, offset: Tensor) -> Any:
    total = x + rest + bias.to(x.dtype)
    return total, layer_norm(total.float(), gain.shape, gain, offset, 1e-5).to(x.dtype)


def _own_gelu(x: Tensor, bias: Tensor) -> Any:
    return (bias_gelu(x, bias),)


def _plain_gelu(x: Tensor, bias: Tensor) -> Any:
    return (gelu(x + bias.to(x.dtype)),)


def _fused_by_compiler() -> contextlib.AbstractContextManager[object]:
    """Leave sums, norms and GELU to the compiler."""
    return patch.object(residual, "_have_kernels", lambda *_: False)


@contextlib.contextmanager
def _attention_by_torch() -> Iterator[None]:
    """Attend by torch's ragged attention."""
    varlen = import_module("torch.nn.attention.varlen").varlen_attn

    def own(packed: Tensor, offsets: Tensor, longest: int) -> Any:
        return varlen(*packed.unbind(1), offsets, offsets, longest, longest)

    def cross(query: Tensor, packed: Tensor, of_query: Tensor, of_key: Tensor, most: int) -> Any:
        return varlen(query, *packed.unbind(1), of_query, of_key, most, most)

    with (
        patch.object(operators, "self_attention", own),
        patch.object(operators, "cross_attention", cross),
    ):
        yield


ATTENTION: dict[str, Work] = {  # ours first, which others are compared with
    "ours": _by_ours,
    "torch's varlen_attn": _by_module("torch.nn.attention.varlen", "varlen_attn"),
    "flash-attn": _by_module("flash_attn", "flash_attn_varlen_func"),
    "padded buckets": _by_buckets,
}
NORM: dict[str, Work] = {"ours": _own_norm, "torch": _plain_norm}
GELU: dict[str, Work] = {"ours": _own_gelu, "torch": _plain_gelu}
REPLACED: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "all kernels ours": contextlib.nullcontext,
    "sums, norms and GELU by the compiler": _fused_by_compiler,
    "attention by torch's varlen_attn": _attention_by_torch,
}
