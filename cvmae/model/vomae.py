"""Value-only masked autoencoder, read top to bottom: embed, encode, decode.

* A measurement is a triplet: its embedding is code + time + value, summed. Measurements of a
  sequence are a set; there is no positional encoding beside time.
* The encoder sees visible measurements only (`visible_only`), or all of them, with the mask token
  where a value is hidden (`masked_value`). A hidden value reaches nothing but the loss.
* The decoder asks for each hidden value by its code and time, and looks at the encoder's
  output; hidden measurements do not look at one another.
* Batches are packed: linear layers run over all measurements of all sequences at once, and
  attention stays within sequences. Nothing is padded.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.utils.checkpoint import checkpoint

from cvmae.data.batches import Batch
from cvmae.model.attention import Plan, attention, plan_attention
from cvmae.model.static import compiled, padded_rows, static_plan
from cvmae.settings import ModelConfig

__all__ = ["VOMAE", "build_model", "param_groups"]

# Shape letters: N measurements of a batch, V those that the encoder reads (the visible ones, or
# all), M hidden (masked) ones, D width.

NUM_PERIODS = 32
SHORTEST_PERIOD_HOURS, LONGEST_PERIOD_HOURS = 1.0, 20 * 365.25 * 24


class VOMAE(nn.Module):
    """Restore hidden values of a sequence from its visible measurements."""

    def __init__(self, config: ModelConfig, num_codes: int) -> None:
        super().__init__()
        self.encoder_input = config.encoder_input
        self.recompute = False  # activations in backward, instead of keeping them
        self._longest = 0  # of a sequence, where layers run at fixed sizes
        self._encode_rows: Callable[..., Tensor] = self._encode_layers
        self._decode_rows: Callable[..., Tensor] = self._decode_layers
        width, heads = config.width, config.num_heads
        self.code_embedding = nn.Embedding(num_codes, width)
        self.time_embedding = TimeEmbedding(width)
        self.value_embedding = nn.Linear(1, width)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads) for _ in range(config.num_layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.decoder = nn.ModuleList(
            DecoderLayer(width, heads) for _ in range(config.num_decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)

    def forward(self, batch: Batch) -> Tensor:
        """Predict the standardised value of each hidden measurement, shape [M]."""
        return self.decode(batch, self.encode(batch))

    def fix_sizes(self, longest: int, backend: str = "inductor") -> None:
        """Compile the layers for a few sizes of batches (`cvmae.model.static`), on a GPU in bf16.

        Args:
            longest: Measurements of a sequence at most.
            backend: Of torch.compile.
        """
        self._longest = longest
        self._encode_rows = compiled(self._encode_rows, backend)
        self._decode_rows = compiled(self._decode_rows, backend)

    def encode(self, batch: Batch) -> Tensor:
        """Contextualise what the encoder reads, shape [V, D]."""
        num_V = self._num_encoded_B(batch)
        x_VD = self._embed_visible(batch) if self._skips_hidden else self._embed_all(batch)
        if not self._longest:
            return self._encode_rows(x_VD, plan_attention(num_V, num_V, x_VD.device))
        plan = static_plan(num_V, num_V, self._longest, x_VD.device)
        return self._encode_rows(padded_rows(x_VD, plan.num_keys), plan)[: len(x_VD)]

    def decode(self, batch: Batch, encoded_VD: Tensor) -> Tensor:
        """Predict the hidden values from the encoder's output, shape [M]."""
        num_M, num_V = batch.num_hidden_B, self._num_encoded_B(batch)
        x_MD = self._embed_code_and_time(batch, batch.hidden_M) + self.mask_token
        if not self._longest:
            return self._decode_rows(x_MD, encoded_VD, plan_attention(num_M, num_V, x_MD.device))
        plan = static_plan(num_M, num_V, self._longest, x_MD.device)
        rows = padded_rows(x_MD, plan.num_queries), padded_rows(encoded_VD, plan.num_keys)
        return self._decode_rows(*rows, plan)[: len(x_MD)]

    def _encode_layers(self, x_VD: Tensor, plan: Plan) -> Tensor:
        for layer in self.encoder:
            x_VD = self._run(layer, x_VD, plan)
        encoded_VD: Tensor = self.encoder_norm(x_VD)
        return encoded_VD

    def _decode_layers(self, x_MD: Tensor, encoded_VD: Tensor, plan: Plan) -> Tensor:
        for layer in self.decoder:
            x_MD = self._run(layer, x_MD, encoded_VD, plan)
        predicted_M: Tensor = self.head(self.decoder_norm(x_MD))[:, 0]
        return predicted_M

    @property
    def _skips_hidden(self) -> bool:
        return self.encoder_input == "visible_only"

    def _num_encoded_B(self, batch: Batch) -> npt.NDArray[np.int64]:
        if self._skips_hidden:
            return batch.num_visible_B
        return batch.num_visible_B + batch.num_hidden_B

    def _embed_visible(self, batch: Batch) -> Tensor:
        visible = batch.visible_V
        value_VD: Tensor = self.value_embedding(batch.value_N[visible, None])
        return self._embed_code_and_time(batch, visible) + value_VD

    def _embed_all(self, batch: Batch) -> Tensor:
        visible_only_N = batch.value_N.index_fill(0, batch.hidden_M, 0.0)
        value_ND: Tensor = self.value_embedding(visible_only_N[:, None])
        value_ND = value_ND.index_put((batch.hidden_M,), self.mask_token.to(value_ND.dtype))
        return self._embed_code_and_time(batch, slice(None)) + value_ND

    def _run(self, layer: nn.Module, *inputs: Tensor | Plan) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            output: Tensor = checkpoint(layer, *inputs, use_reentrant=False)
        else:
            output = layer(*inputs)
        return output

    def _embed_code_and_time(self, batch: Batch, index: Tensor | slice) -> Tensor:
        code_ND: Tensor = self.code_embedding(batch.code_index_N[index])
        time_ND: Tensor = self.time_embedding(batch.hours_N[index])
        return code_ND + time_ND


class TimeEmbedding(nn.Module):
    """Sines and cosines of the hours at periods from an hour to twenty years, then linear."""

    frequency_F: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        period = np.geomspace(SHORTEST_PERIOD_HOURS, LONGEST_PERIOD_HOURS, NUM_PERIODS)
        frequency = torch.tensor(2 * math.pi / period, dtype=torch.float32)
        self.register_buffer("frequency_F", frequency, persistent=False)
        self.linear = nn.Linear(2 * NUM_PERIODS, width)

    def forward(self, hours_N: Tensor) -> Tensor:
        """Embed hours since the first measurement of the sequence, shape [N, D]."""
        angle_NF = hours_N[:, None] * self.frequency_F
        embedded_ND: Tensor = self.linear(torch.cat([angle_NF.sin(), angle_NF.cos()], dim=1))
        return embedded_ND


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer: attention among visible measurements, feed-forward."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.feed_forward = FeedForward(width)

    def forward(self, x_VD: Tensor, plan: Plan) -> Tensor:
        """Update visible measurements from those of the same sequence."""
        projected = self.query_key_value(self.attention_norm(x_VD))
        query, key, value = projected.unflatten(1, (3, self.num_heads, -1)).unbind(1)
        x_VD = x_VD + self.attention_output(attention(query, key, value, plan).flatten(1))
        x_VD = x_VD + self.feed_forward(x_VD)
        return x_VD


class DecoderLayer(nn.Module):
    """Pre-norm layer: attention from hidden to visible measurements, feed-forward."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.attention_output = nn.Linear(width, width)
        self.feed_forward = FeedForward(width)

    def forward(self, x_MD: Tensor, encoded_VD: Tensor, plan: Plan) -> Tensor:
        """Update hidden measurements from the visible ones of the same sequence."""
        query = self.query(self.attention_norm(x_MD)).unflatten(1, (self.num_heads, -1))
        key, value = self.key_value(encoded_VD).unflatten(1, (2, self.num_heads, -1)).unbind(1)
        x_MD = x_MD + self.attention_output(attention(query, key, value, plan).flatten(1))
        x_MD = x_MD + self.feed_forward(x_MD)
        return x_MD


class FeedForward(nn.Module):
    """Norm, four times as wide, GELU, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each row by itself."""
        narrowed: Tensor = self.narrow(gelu(self.widen(self.norm(x))))
        return narrowed


def build_model(config: ModelConfig, num_codes: int, seed: int) -> VOMAE:
    """Build a model whose initial weights depend on the arguments only.

    The ambient random state is neither used nor moved.
    """
    with torch.random.fork_rng(devices=[]):  # the constructors draw weights that are not kept
        model = VOMAE(config, num_codes)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
    # Code, time and value start with about equal variance: sines and cosines have a mean
    # square of a half, standardised values of one.
    nn.init.normal_(model.code_embedding.weight, generator=generator)
    nn.init.normal_(model.time_embedding.linear.weight, std=NUM_PERIODS**-0.5, generator=generator)
    nn.init.normal_(model.value_embedding.weight, generator=generator)
    nn.init.normal_(model.mask_token, generator=generator)
    # The first predictions are near zero, which is each code's mean.
    nn.init.normal_(model.head.weight, std=0.02, generator=generator)
    return model


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split parameters for AdamW: weight matrices of linear layers decay, the rest does not."""
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
