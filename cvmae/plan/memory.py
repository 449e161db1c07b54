"""Memory of a rank by size of the model: what DDP and DeepSpeed's ZeRO keep, and where ZeRO pays.

On paper: bytes a parameter and bytes an activation are counted from the code of model and engines.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cvmae.plan.lines import Line
from cvmae.settings import ModelConfig

__all__ = [
    "STRATEGIES",
    "Strategy",
    "activation_bytes",
    "largest_model",
    "memory_lines",
    "num_parameters",
]

NUM_GPUS = 8
STEP_MEASUREMENTS = 65_536  # of a rank
HIDDEN_SHARE = 0.25
NUM_CODES, NUM_PERIODS = 100, 32
GIB = 2**30
MODELS = {
    "8M": ModelConfig(),
    "44M": ModelConfig(width=512, num_layers=12),
    "99M": ModelConfig(width=768, num_layers=12, num_heads=12),
    "328M": ModelConfig(width=1024, num_layers=24, num_heads=16),
    "1B": ModelConfig(width=1536, num_layers=34, num_heads=24),
}
GPUS_GIB = (24, 80, 141)
FREE_SHARE = 0.9  # of a GPU; the rest is CUDA's own, and what lies between blocks


# Bytes a parameter: float32 but for the weights that products in bf16 are made with (autocast).
# DeepSpeed's optimiser works on a flat copy of its part of the weights.
STATE = {"weights": 4, "weights in bf16": 2, "gradients": 4, "moments": 8}
FLAT_COPY = {"flat copy": 4}


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Bytes a parameter of each kind of state, and which kinds are cut into a part a rank."""

    state: dict[str, int]
    partitioned: tuple[str, ...]

    def bytes_a_parameter(self, num_ranks: int = NUM_GPUS) -> float:
        """Return what each of the ranks keeps."""
        return sum(
            size / (num_ranks if kind in self.partitioned else 1)
            for kind, size in self.state.items()
        )

    def arithmetic(self, num_ranks: int = NUM_GPUS) -> str:
        """Return the sum in words."""
        return " + ".join(
            f"{size}{f'/{num_ranks}' if kind in self.partitioned else ''} {kind}"
            for kind, size in self.state.items()
        )


STRATEGIES = {
    "DDP": Strategy(state=STATE, partitioned=()),
    "ZeRO-1": Strategy(state=STATE | FLAT_COPY, partitioned=("moments", "flat copy")),
    "ZeRO-2": Strategy(state=STATE | FLAT_COPY, partitioned=("gradients", "moments", "flat copy")),
    "ZeRO-3": Strategy(state=STATE | FLAT_COPY, partitioned=(*STATE, *FLAT_COPY)),
}

# Bytes that backward needs of a layer, for each row and unit of width; bf16 is 2.
# Encoder: residual 2, normed 2, query, key and value 6, attention's output 2; residual 2, normed
# 2, widened 8, its GELU 8. Decoder: for each hidden row the same with the query 2 alone; for each
# visible one the encoder's output 2, key and value 4.
ENCODER_ROW, DECODER_ROW, DECODER_KEY = 32, 28, 6
INPUT_ROW = 4  # of a layer that is computed again: two terms of its residual


def num_parameters(model: ModelConfig, num_codes: int = NUM_CODES) -> int:
    """Return the parameters of a model."""
    width = model.width
    # Four products of attention, two of the feed-forward; their biases; two norms.
    layer = 12 * width**2 + 13 * width
    embeddings = num_codes * width + (2 * NUM_PERIODS + 1) * width + 2 * width + width
    ends = 4 * width + width + 1  # two norms, the head
    return (model.num_layers + model.num_decoder_layers) * layer + embeddings + ends


def activation_bytes(
    model: ModelConfig,
    *,
    recompute: bool,
    num_measurements: float = STEP_MEASUREMENTS,
    hidden: float = HIDDEN_SHARE,
) -> float:
    """Return what a rank keeps in bf16 between forward and backward of a step.

    Args:
        model: Sizes.
        recompute: Whether a layer's activations are computed again in backward
            (`train.activation_checkpointing`): its input is kept, and one layer at a time is whole.
        num_measurements: Of a step, or of a part of it that is computed at once.
        hidden: Share of them that is hidden.
    """
    visible = 1 - hidden
    encoder, decoder = visible * ENCODER_ROW, hidden * DECODER_ROW + visible * DECODER_KEY
    if recompute:
        a_measurement = INPUT_ROW * (
            model.num_layers * visible + model.num_decoder_layers * hidden
        ) + max(encoder, decoder)
    else:
        a_measurement = model.num_layers * encoder + model.num_decoder_layers * decoder
    return num_measurements * model.width * a_measurement


def memory_lines() -> Iterator[Line]:
    """Yield memory of a rank for each size and strategy, and where ZeRO begins to pay."""
    for label, model in MODELS.items():
        yield from _model_lines(label, model)
    for gpu_gib in GPUS_GIB:
        yield from _limit_lines(gpu_gib)


def _model_lines(label: str, model: ModelConfig) -> Iterator[Line]:
    name = label
    parameters = num_parameters(model)
    shape = (
        f"width {model.width}, {model.num_layers} + {model.num_decoder_layers} layers: "
        f"{model.num_layers + model.num_decoder_layers} x 12 x {model.width}^2 and the rest"
    )
    yield _line(f"{name}, parameters", parameters / 1e6, "M", shape)
    for recompute in (False, True):
        value = activation_bytes(model, recompute=recompute) / GIB
        how = "computed again" if recompute else "kept"
        yield _line(f"{name}, activations {how}", value, "GiB", _activations(model, recompute))
    for strategy, kept in STRATEGIES.items():
        value = parameters * kept.bytes_a_parameter() / GIB
        note = f"{parameters / 1e6:.0f} M x ({kept.arithmetic()}) bytes"
        yield _line(f"{name}, state under {strategy}, {NUM_GPUS} GPUs", value, "GiB", note)


def _activations(model: ModelConfig, recompute: bool) -> str:
    visible, hidden = 1 - HIDDEN_SHARE, HIDDEN_SHARE
    if recompute:
        layers = (
            f"{INPUT_ROW} x ({model.num_layers} x {visible} + {model.num_decoder_layers} x "
            f"{hidden}) + {visible} x {ENCODER_ROW} of one layer"
        )
    else:
        layers = (
            f"{model.num_layers} x {visible} x {ENCODER_ROW} + {model.num_decoder_layers} x "
            f"({hidden} x {DECODER_ROW} + {visible} x {DECODER_KEY})"
        )
    return f"{STEP_MEASUREMENTS:,} measurements x width {model.width} x ({layers}) bytes"


def _limit_lines(gpu_gib: int) -> Iterator[Line]:
    """Yield the largest model of each strategy on a GPU, activations computed again."""
    for strategy in STRATEGIES:
        model = largest_model(strategy, gpu_gib)
        if model is None:
            value: float | str = "none"
            note = "the activations of preset paper do not fit"
        else:
            value = num_parameters(model) / 1e9
            state = num_parameters(model) * STRATEGIES[strategy].bytes_a_parameter() / GIB
            kept = activation_bytes(model, recompute=True) / GIB
            note = (
                f"width {model.width}, {model.num_layers} layers: state {state:.1f} + activations "
                f"computed again {kept:.1f} <= {FREE_SHARE} x {gpu_gib} GiB"
            )
            if strategy == "DDP":
                note += "; ZeRO pays beyond this"
        yield _line(f"{gpu_gib} GB, largest model under {strategy}", value, "B", note)


def largest_model(strategy: str, gpu_gib: float) -> ModelConfig | None:
    """Return the largest model that fits, of a family with a layer for each 44 of width.

    None where not even a width of 256 fits.
    """
    kept = STRATEGIES[strategy].bytes_a_parameter()
    found = None
    for width in range(256, 16_384, 64):
        model = ModelConfig(width=width, num_layers=round(width / 44), num_heads=width // 64)
        total = num_parameters(model) * kept + activation_bytes(model, recompute=True)
        if total > FREE_SHARE * gpu_gib * GIB:
            return found
        found = model
    return found


def _line(name: str, value: float | str, unit: str, arithmetic: str) -> Line:
    return Line(name=name, value=value, unit=unit, why=arithmetic)
