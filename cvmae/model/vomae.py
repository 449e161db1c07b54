"""Value-only masked autoencoder, read top to bottom: embed, encode, decode.

* A measurement is a triplet: its embedding is code + time + value, summed. Measurements of a
  sequence are a set; there is no positional encoding beside time.
* The encoder sees visible measurements only (`visible_only`), or all of them, with the mask token
  where a value is hidden (`masked_value`). A hidden value reaches nothing but the loss.
* The decoder asks for each hidden value (in training for visible ones, too, if wished) by its
  code and time, and looks at the encoder's output; what is asked for does not look at one another.
* Where code and time are hidden, too (`mask.target` measurement), it asks by the place in the
  sequence instead, and restores all three.
* Batches are packed: linear layers run over all measurements of all sequences at once, and
  attention stays within sequences. Nothing is padded.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from cvmae.arrays import Ints
from cvmae.batches.batch import Batch
from cvmae.model.attention import (
    AttentionPlan,
    cross_attention,
    plan_attention,
    self_attention,
)
from cvmae.model.residual import Residual, add_norm, product, widen
from cvmae.runtime.torch_hooks import compile_for_all_sizes
from cvmae.settings import MaskTarget, ModelConfig

__all__ = ["VOMAE", "build_model", "param_groups"]

# Shape letters beside those of `cvmae.arrays`: V measurements that the encoder reads (the visible
# ones, or all), D width.

NUM_PERIODS = 32
PERIODS_HOURS = 1.0, 20 * 365.25 * 24  # shortest and longest
# Of places in a sequence: neighbours differ most at the shortest one. Sines fit sequences of any
# length, where a learned embedding would end with the longest of training.
PERIODS_PLACES = 2.0, 20_000.0


class VOMAE(nn.Module):
    """Restore hidden values of a sequence from its visible measurements.

    Args:
        config: Sizes.
        num_codes: Of the vocabulary.
        target: What is hidden of a measurement.
    """

    def __init__(self, config: ModelConfig, num_codes: int, target: MaskTarget = "value") -> None:
        super().__init__()
        self.encoder_input = config.encoder_input
        self.recompute = False  # activations in backward, instead of keeping them
        self.longest = 0  # measurements of a sequence at most; 0: those of the batch's longest
        width, heads = config.width, config.num_heads
        self.code_embedding = nn.Embedding(num_codes, width)
        self.time_embedding = SineEmbedding(width, PERIODS_HOURS)
        self.value_embedding = nn.Linear(1, width)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads) for _ in range(config.num_layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.decoder = nn.ModuleList(
            DecoderLayer(width, heads) for _ in range(config.num_decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        self.target = target
        if target == "measurement":  # last: the weights of the others are drawn before
            self.place_embedding = SineEmbedding(width, PERIODS_PLACES)
            self.measurement_head = nn.Linear(width, 1 + num_codes)

    def forward(self, batch: Batch, *, ask_all: bool = False, whole: bool = False) -> Tensor:
        """Predict the standardised value of each hidden measurement, shape [M].

        Args:
            batch: Any.
            ask_all: Ask for each measurement, shape [N]; the encoder reads the same.
            whole: Predict value, log1p of the hours since the measurement before, and scores of
                the codes, shape [M, 2 + C]; for target measurement only.
        """
        return self.decode(batch, self.encode(batch), ask_all=ask_all, whole=whole)

    def compile_parts(self, backend: str = "inductor") -> None:
        """Let torch compile layers and embeddings, once for batches of all sizes.

        Layer by layer: layers alike share the code, which takes seconds instead of minutes.
        """
        compile_for_all_sizes()
        for layer in (*self.encoder, *self.decoder):
            layer.compile(dynamic=True, fullgraph=True, backend=backend)
        parts = ["_embed", "_finish_encoder", "_finish_decoder"]
        parts += ["_embed_query"] if self.target == "value" else ["_embed_places", "_finish_whole"]
        for name in parts:
            compiled = torch.compile(
                getattr(self, name), dynamic=True, fullgraph=True, backend=backend
            )
            setattr(self, name, compiled)

    def encode(self, batch: Batch) -> Tensor:
        """Contextualise what the encoder reads, shape [V, D]."""
        if self.encoder_input == "visible_only":
            columns = batch.code_index_N, batch.hours_N, batch.value_N
            whole = self.target == "measurement"  # the decoder asks by place, so places are shown
            places = batch.visible_places() if whole else None
            terms = self._embed(*columns, batch.visible_V, places)
        else:
            terms = self._embed_all(batch)
        num_V, offsets_B = self._encoded(batch)
        plan = plan_attention(num_V, num_V, offsets_B, offsets_B, longest=self.longest)
        for layer in self.encoder:
            terms = self._run(layer, terms, plan)
        return self._finish_encoder(terms)

    def decode(
        self,
        batch: Batch,
        encoded_VD: Tensor,
        *,
        ask_all: bool = False,
        whole: bool = False,
        read: Batch | None = None,
    ) -> Tensor:
        """Predict what is asked for from the encoder's output; see `forward`.

        `read` is the batch that was encoded, where it is another one of as many sequences.
        """
        num_M, asked_offsets_B = batch.num_hidden_B, batch.hidden_offsets_B
        if self.target == "measurement":
            terms = self._embed_places(batch.hidden_places())
        elif ask_all:
            index_N = torch.arange(batch.num_measurements, device=batch.hidden_M.device)
            terms = self._embed_query(batch.code_index_N, batch.hours_N, index_N)
            num_M, asked_offsets_B = batch.num_visible_B + num_M, batch.offsets_B
        else:
            terms = self._embed_query(batch.code_index_N, batch.hours_N, batch.hidden_M)
        num_V, offsets_B = self._encoded(read or batch)
        plan = plan_attention(num_M, num_V, asked_offsets_B, offsets_B, longest=self.longest)
        for layer in self.decoder:
            terms = self._run(layer, terms, plan, encoded_VD)
        return self._finish_whole(terms) if whole else self._finish_decoder(terms)

    def _encoded(self, batch: Batch) -> tuple[Ints, Tensor]:
        """Return how many measurements of each sequence the encoder reads, and their offsets."""
        if self.encoder_input == "visible_only":
            return batch.num_visible_B, batch.visible_offsets_B
        return batch.num_visible_B + batch.num_hidden_B, batch.offsets_B

    def _embed(
        self,
        code_N: Tensor,
        hours_N: Tensor,
        value_N: Tensor,
        index_V: Tensor,
        place_V: Tensor | None,
    ) -> Residual:
        code_VD, time_VD = self._embed_code_and_time(code_N[index_V], hours_N[index_V])
        if place_V is not None:
            time_VD = time_VD + self.place_embedding(place_V.float())
        value_VD, bias = product(self.value_embedding, value_N[index_V, None])
        return Residual(code_VD + time_VD, value_VD, bias)

    def _embed_all(self, batch: Batch) -> Residual:
        visible_only_N = batch.value_N.index_fill(0, batch.hidden_M, 0.0)
        value_ND: Tensor = self.value_embedding(visible_only_N[:, None])
        value_ND = value_ND.index_put((batch.hidden_M,), self.mask_token.to(value_ND.dtype))
        code_ND, time_ND = self._embed_code_and_time(batch.code_index_N, batch.hours_N)
        return Residual(code_ND + time_ND, value_ND, None)

    def _embed_query(self, code_N: Tensor, hours_N: Tensor, index_M: Tensor) -> Residual:
        embedded = self._embed_code_and_time(code_N[index_M], hours_N[index_M])
        return Residual(*embedded, self.mask_token)

    def _embed_places(self, place_M: Tensor) -> Residual:
        place_MD: Tensor = self.place_embedding(place_M.float())
        return Residual(place_MD, torch.zeros_like(place_MD), self.mask_token)

    def _embed_code_and_time(self, code_N: Tensor, hours_N: Tensor) -> tuple[Tensor, Tensor]:
        time_ND: Tensor = self.time_embedding(hours_N)
        code_ND: Tensor = self.code_embedding(code_N)
        # Sums are as precise as the layers' products: half of the traffic in bf16.
        return code_ND.to(time_ND.dtype), time_ND

    def _finish_encoder(self, terms: Residual) -> Tensor:
        return add_norm(terms, self.encoder_norm)[1]

    def _finish_decoder(self, terms: Residual) -> Tensor:
        predicted_M: Tensor = self.head(add_norm(terms, self.decoder_norm)[1])[:, 0]
        return predicted_M

    def _finish_whole(self, terms: Residual) -> Tensor:
        decoded_MD = add_norm(terms, self.decoder_norm)[1]
        return torch.cat([self.head(decoded_MD), self.measurement_head(decoded_MD)], dim=1)

    def _run(self, layer: nn.Module, *inputs: Residual | AttentionPlan | Tensor) -> Residual:
        if self.recompute and torch.is_grad_enabled():
            # Nothing is drawn at random in a layer.
            terms: Residual = checkpoint(
                layer, *inputs, use_reentrant=False, preserve_rng_state=False
            )
        else:
            terms = layer(*inputs)
        return terms


class SineEmbedding(nn.Module):
    """Sines and cosines at periods from a shortest to a longest one, then linear."""

    frequency_F: Tensor

    def __init__(self, width: int, periods: tuple[float, float]) -> None:
        super().__init__()
        period = np.geomspace(*periods, NUM_PERIODS)
        frequency = torch.tensor(2 * math.pi / period, dtype=torch.float32)
        self.register_buffer("frequency_F", frequency, persistent=False)
        self.linear = nn.Linear(2 * NUM_PERIODS, width)

    def forward(self, at_N: Tensor) -> Tensor:
        """Embed hours since the first measurement of the sequence, or places, shape [N, D]."""
        angle_NF = at_N[:, None] * self.frequency_F
        embedded_ND: Tensor = self.linear(torch.cat([angle_NF.sin(), angle_NF.cos()], dim=1))
        return embedded_ND


class Projection(nn.Linear):
    """Queries, keys and values, or the last two, in one product; the keys' bias does not learn.

    It adds the same to all scores of a query, which softmax takes no notice of: its true gradient
    is zero, and AdamW would make steps of what rounding leaves of it.
    """

    def __init__(self, width: int, num_parts: int) -> None:
        super().__init__(width, num_parts * width)
        self.num_parts = num_parts

    def forward(self, x_ND: Tensor) -> Tensor:
        """Project rows, to as many widths as there are parts."""
        *query, key, value = self.bias.chunk(self.num_parts)
        return linear(x_ND, self.weight, torch.cat([*query, key.detach(), value]))


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer: attention among visible measurements, feed-forward."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = Projection(width, 3)
        self.attention_output = nn.Linear(width, width)
        self.feed_forward = FeedForward(width)

    def forward(self, terms_VD: Residual, plan: AttentionPlan) -> Residual:
        """Update visible measurements from those of the same sequence."""
        x_VD, normed_VD = add_norm(terms_VD, self.attention_norm)
        packed = self.query_key_value(normed_VD).unflatten(1, (3, self.num_heads, -1))
        attended_VD = self_attention(packed, plan).flatten(1)
        terms_VD = Residual(x_VD, *product(self.attention_output, attended_VD))
        updated_VD: Residual = self.feed_forward(terms_VD)
        return updated_VD


class DecoderLayer(nn.Module):
    """Pre-norm layer: attention from hidden to visible measurements, feed-forward."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = Projection(width, 2)
        self.attention_output = nn.Linear(width, width)
        self.feed_forward = FeedForward(width)

    def forward(self, terms_MD: Residual, plan: AttentionPlan, encoded_VD: Tensor) -> Residual:
        """Update hidden measurements from the visible ones of the same sequence."""
        x_MD, normed_MD = add_norm(terms_MD, self.attention_norm)
        query = self.query(normed_MD).unflatten(1, (self.num_heads, -1))
        packed = self.key_value(encoded_VD).unflatten(1, (2, self.num_heads, -1))
        attended_MD = cross_attention(query, packed, plan).flatten(1)
        terms_MD = Residual(x_MD, *product(self.attention_output, attended_MD))
        updated_MD: Residual = self.feed_forward(terms_MD)
        return updated_MD


class FeedForward(nn.Module):
    """Norm, four times as wide, GELU, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, terms: Residual) -> Residual:
        """Transform each row by itself."""
        x, normed = add_norm(terms, self.norm)
        return Residual(x, *product(self.narrow, widen(self.widen, normed)))


def build_model(
    config: ModelConfig, num_codes: int, seed: int, target: MaskTarget = "value"
) -> VOMAE:
    """Build a model whose initial weights depend on the arguments only.

    The ambient random state is neither used nor moved.
    """
    with torch.random.fork_rng(devices=[]):  # the constructors draw weights that are not kept
        model = VOMAE(config, num_codes, target)
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
    if target == "measurement":
        place_weight = model.place_embedding.linear.weight
        nn.init.normal_(place_weight, std=NUM_PERIODS**-0.5, generator=generator)
        nn.init.normal_(model.measurement_head.weight, std=0.02, generator=generator)
    return model


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split parameters for AdamW: weight matrices of linear layers decay, the rest does not."""
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
