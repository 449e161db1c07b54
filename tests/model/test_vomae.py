"""The packed model against a padded, naive one, and what it must not see."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cvmae.batches.batch import Batch, make_batch
from cvmae.model.loss import hidden_error
from cvmae.model.vomae import VOMAE, build_model, param_groups
from cvmae.settings import ModelConfig

CONFIG = ModelConfig(width=16, num_layers=2, num_heads=2, num_decoder_layers=2)
NUM_CODES = 7


def random_batch(rng, lengths, num_hidden):
    """Draw a batch with the given numbers of measurements and of hidden ones per sequence."""
    total = sum(lengths)
    hidden = [rng.permutation(n) < k for n, k in zip(lengths, num_hidden, strict=True)]
    return make_batch(
        lengths_B=np.array(lengths, np.int64),
        code_index_N=rng.integers(0, NUM_CODES, total),
        minutes_N=rng.integers(0, 100_000, total),
        value_N=rng.normal(size=total).astype(np.float32),
        hidden_N=np.concatenate([*hidden, np.zeros(0, bool)]),
    )


def rebuild(batch: Batch, order_N, lengths, **changed) -> Batch:
    """Return the batch with its measurements in another order and some columns changed."""
    hidden = np.zeros(batch.num_measurements, bool)
    hidden[batch.hidden_M.numpy()] = True
    columns = {
        "code_index_N": batch.code_index_N.numpy(),
        "minutes_N": np.rint(batch.hours_N.numpy().astype(np.float64) * 60).astype(np.int64),
        "value_N": batch.value_N.numpy(),
        "hidden_N": hidden,
    } | changed
    taken = {name: column[order_N] for name, column in columns.items()}
    return make_batch(lengths_B=np.array(lengths, np.int64), **taken)


BOTH = ("visible_only", "masked_value")


@pytest.fixture
def model(request) -> VOMAE:
    encoder_input = getattr(request, "param", "visible_only")
    return build_model(replace(CONFIG, encoder_input=encoder_input), NUM_CODES, seed=0).eval()


class NaiveAttention(nn.Module):
    """torch's own attention module, with a padding mask; weights are copied in."""

    def __init__(self, weight, bias, output: nn.Linear) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(CONFIG.width, CONFIG.num_heads, batch_first=True)
        self.attention.in_proj_weight.data = weight
        self.attention.in_proj_bias.data = bias
        self.attention.out_proj.load_state_dict(output.state_dict())

    def forward(self, query, key, padding):
        return self.attention(query, key, key, key_padding_mask=padding, need_weights=False)[0]


def predict_naively(model: VOMAE, batch: Batch) -> torch.Tensor:
    """Predict with sequences padded to the longest: [B, L, D] everywhere, masks, no plan."""

    def pad(index, num_B):
        rows = [index[s : s + n] for s, n in zip(np.cumsum(num_B) - num_B, num_B, strict=True)]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        return padded.clamp(min=0), padded < 0

    def place(index):
        angle = batch.hours_N[index][..., None] * model.time_embedding.frequency_F
        time = torch.cat([angle.sin(), angle.cos()], dim=-1)
        code = model.code_embedding.weight[batch.code_index_N[index].long()]
        return code + model.time_embedding.linear(time)

    def feed_forward(block, x):
        return x + block.narrow(nn.functional.gelu(block.widen(block.norm(x))))

    hidden, hidden_padding = pad(batch.hidden_M, batch.num_hidden_B)
    if model.encoder_input == "visible_only":
        read, padding = pad(batch.visible_V, batch.num_visible_B)
    else:
        read, padding = pad(
            torch.arange(batch.num_measurements), batch.num_visible_B + batch.num_hidden_B
        )
    value = model.value_embedding(batch.value_N[read][..., None])
    is_hidden = torch.isin(read, batch.hidden_M)[..., None]
    if model.encoder_input == "masked_value":
        value = torch.where(is_hidden, model.mask_token, value)
    x = place(read) + value
    for layer in model.encoder:
        qkv = layer.query_key_value
        naive = NaiveAttention(qkv.weight.data, qkv.bias.data, layer.attention_output)
        normed = layer.attention_norm(x)
        x = feed_forward(layer.feed_forward, x + naive(normed, normed, padding))
    encoded = model.encoder_norm(x)
    y = place(hidden) + model.mask_token
    for layer in model.decoder:
        weight = torch.cat([layer.query.weight.data, layer.key_value.weight.data])
        bias = torch.cat([layer.query.bias.data, layer.key_value.bias.data])
        naive = NaiveAttention(weight, bias, layer.attention_output)
        y = feed_forward(layer.feed_forward, y + naive(layer.attention_norm(y), encoded, padding))
    return model.head(model.decoder_norm(y))[..., 0][~hidden_padding]


@pytest.mark.parametrize("model", BOTH, indirect=True)
def test_packed_model_equals_padded_naive_model_with_the_same_weights(model, rng):
    lengths = [90, 3, 17, 64, 2, 40, 41, 88, 5]
    batch = random_batch(rng, lengths, [n // 3 for n in lengths])
    with torch.no_grad():
        # Four layers of float32 sums in another order: 1e-6 relative each, values near one.
        torch.testing.assert_close(model(batch), predict_naively(model, batch), atol=2e-5, rtol=0)


@pytest.mark.parametrize("model", BOTH, indirect=True)
def test_hidden_values_move_neither_the_encoder_nor_the_predictions(model, rng):
    batch = random_batch(rng, [30, 12], [10, 4])
    value = batch.value_N.clone()
    value[batch.hidden_M] = torch.nan
    other = replace(batch, value_N=value)
    with torch.no_grad():
        assert torch.equal(model.encode(batch), model.encode(other))
        assert torch.equal(model(batch), model(other))


@pytest.mark.parametrize("model", BOTH, indirect=True)
def test_no_gradient_reaches_a_hidden_value_through_the_model(model, rng):
    batch = random_batch(rng, [30, 12], [10, 4])
    batch.value_N.requires_grad_()
    model(batch).sum().backward()
    moved = batch.value_N.grad != 0
    assert not moved[batch.hidden_M].any()
    assert moved[batch.visible_V].all()


def test_codes_and_times_of_hidden_measurements_do_not_reach_the_encoder(model, rng):
    batch = random_batch(rng, [30, 12], [10, 4])
    code, hours = batch.code_index_N.clone(), batch.hours_N.clone()
    code[batch.hidden_M], hours[batch.hidden_M] = 0, 1e5
    with torch.no_grad():
        other = model.encode(replace(batch, code_index_N=code, hours_N=hours))
        assert torch.equal(model.encode(batch), other)


def test_masked_value_reads_codes_and_times_of_hidden_measurements(rng):
    model = build_model(replace(CONFIG, encoder_input="masked_value"), NUM_CODES, seed=0)
    batch = random_batch(rng, [30, 12], [10, 4])
    hours = batch.hours_N.clone()
    hours[batch.hidden_M[0]] += 5
    with torch.no_grad():
        before, after = model.encode(batch), model.encode(replace(batch, hours_N=hours))
    assert before.shape == (42, CONFIG.width)
    assert not torch.equal(before[batch.visible_V[0]], after[batch.visible_V[0]])


@pytest.mark.parametrize("model", BOTH, indirect=True)
def test_recomputed_activations_give_the_same_gradients_and_fewer_are_kept(model, rng):
    batch = random_batch(rng, [60, 80, 30], [20, 20, 10])
    gradients, kept = [], []
    for model.recompute in (False, True):
        model.zero_grad()
        sizes = []

        def note(tensor, sizes=sizes):
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            error, _ = hidden_error(model, batch)
        kept.append(sum(sizes))
        error.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert kept[1] < kept[0] / 4


def test_a_hidden_measurement_does_not_see_other_hidden_ones(model, rng):
    batch = random_batch(rng, [30], [10])
    code = batch.code_index_N.clone()
    code[batch.hidden_M[0]] = (code[batch.hidden_M[0]] + 1) % NUM_CODES
    with torch.no_grad():
        before, after = model(batch), model(replace(batch, code_index_N=code))
    assert torch.equal(before[1:], after[1:])
    assert before[0] != after[0]


@pytest.mark.parametrize("model", BOTH, indirect=True)
def test_measurements_are_a_set_permuting_a_sequence_permutes_its_predictions(model, rng):
    batch = random_batch(rng, [20, 35], [6, 9])
    order = np.concatenate([rng.permutation(20), 20 + rng.permutation(35)])
    permuted = rebuild(batch, order, [20, 35])
    place_of = torch.from_numpy(np.argsort(order))
    with torch.no_grad():
        predicted, expected = torch.zeros(55), torch.zeros(55)
        expected[batch.hidden_M] = model(batch)
        predicted[permuted.hidden_M] = model(permuted)
    # Sums over the keys in another order.
    torch.testing.assert_close(predicted[place_of], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", BOTH, indirect=True)
def test_sequences_do_not_see_one_another(model, rng):
    lengths, num_hidden = [20, 35, 4], [6, 9, 1]
    batch = random_batch(rng, lengths, num_hidden)
    with torch.no_grad():
        together = model(batch).split(num_hidden)
        for s, (length, alone_start) in enumerate(zip(lengths, [0, 20, 55], strict=True)):
            alone = rebuild(batch, np.arange(alone_start, alone_start + length), [length])
            # Products of other shapes may add in another order.
            torch.testing.assert_close(together[s], model(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("lengths", "num_hidden"),
    [([], []), ([5, 3], [0, 0]), ([5, 3], [5, 3]), ([5, 3], [0, 3]), ([1], [1])],
    ids=["no sequence", "nothing hidden", "nothing visible", "never both", "one hidden"],
)
@pytest.mark.parametrize("model", BOTH, indirect=True)
def test_every_parameter_gets_a_gradient_however_empty_the_batch(model, rng, lengths, num_hidden):
    batch = random_batch(rng, lengths, num_hidden)
    error, count = hidden_error(model, batch)
    error.backward()
    assert count == sum(num_hidden)
    assert (error == 0) == (count == 0)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert count > 0 or not parameter.grad.any(), name


def test_every_parameter_learns_from_an_ordinary_batch(rng):
    model = build_model(CONFIG, NUM_CODES, seed=0)
    hidden_error(model, random_batch(rng, [60, 80, 30], [20, 20, 10]))[0].backward()
    unmoved = [name for name, p in model.named_parameters() if not p.grad.any()]
    assert unmoved == []


@pytest.mark.parametrize("model", BOTH, indirect=True)
def test_biases_of_keys_have_no_gradient_and_those_beside_them_have(model, rng):
    """The true one is zero, and what rounding leaves would be made steps of."""
    hidden_error(model, random_batch(rng, [60, 80, 30], [20, 20, 10]))[0].backward()
    for layer in model.encoder:
        query, key, value = layer.query_key_value.bias.grad.chunk(3)
        assert not key.any()
        assert query.all()
        assert value.all()
    for layer in model.decoder:
        key, value = layer.key_value.bias.grad.chunk(2)
        assert not key.any()
        assert value.all()


@pytest.mark.parametrize("model", BOTH, indirect=True)
def test_biases_of_keys_move_no_prediction(model, rng):
    """So that a checkpoint whose keys have learnt one goes on as it was."""
    batch = random_batch(rng, [60, 80, 30], [20, 20, 10])
    with torch.no_grad():
        before = model(batch)
        for layer in model.encoder:
            layer.query_key_value.bias.chunk(3)[1].fill_(0.7)
        for layer in model.decoder:
            layer.key_value.bias.chunk(2)[0].fill_(-0.4)
        # Scores that are larger by the same are rounded otherwise.
        torch.testing.assert_close(model(batch), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", BOTH, indirect=True)
def test_sequences_without_visible_or_hidden_measurements_leave_the_others_alone(model, rng):
    batch = random_batch(rng, [20, 6, 35, 9], [6, 6, 9, 0])
    kept = np.concatenate([np.arange(20), np.arange(26, 61)])
    with torch.no_grad():
        all_of_them, others = model(batch), model(rebuild(batch, kept, [20, 35]))
        # Products of other shapes may add in another order.
        expected = torch.cat([all_of_them[:6], all_of_them[12:]])
    torch.testing.assert_close(others, expected, atol=1e-5, rtol=0)
    assert all_of_them.isfinite().all()


def test_initial_weights_follow_the_seed_and_leave_ambient_randomness_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = build_model(CONFIG, NUM_CODES, seed=5).state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = build_model(CONFIG, NUM_CODES, seed=5).state_dict()
    other = build_model(CONFIG, NUM_CODES, seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_codes_and_times_that_are_to_be_restored_move_nothing(rng):
    model = build_model(CONFIG, NUM_CODES, seed=0, target="measurement")
    batch = random_batch(rng, [30, 12], [10, 4])
    code, hours, value = batch.code_index_N.clone(), batch.hours_N.clone(), batch.value_N.clone()
    code[batch.hidden_M], hours[batch.hidden_M], value[batch.hidden_M] = 0, 1e5, torch.nan
    other = replace(batch, code_index_N=code, hours_N=hours, value_N=value)
    with torch.no_grad():
        assert torch.equal(model(batch, whole=True), model(other, whole=True))


def test_a_hidden_measurement_is_asked_for_by_its_place_in_the_sequence(rng):
    model = build_model(CONFIG, NUM_CODES, seed=0, target="measurement")
    batch = random_batch(rng, [30, 12, 9], [10, 0, 4])
    starts = np.repeat([0, 30, 42], [10, 0, 4])
    places = batch.hidden_M.numpy() - starts
    np.testing.assert_array_equal(batch.hidden_places().numpy(), places)
    with torch.no_grad():
        found = model(batch)
        assert len(found.unique()) == 14
        later = replace(batch, hidden_M=batch.hidden_M + 1)
        assert (model.decode(later, model.encode(batch)) != found).all()


def test_an_encoder_of_measurements_reads_their_places_beside_the_hidden_ones(rng):
    """Else a place that is asked for could not be told from the next."""
    batch = random_batch(rng, [30, 12, 9], [10, 0, 4])
    starts = np.repeat([0, 30, 42], [20, 12, 5])
    places = batch.visible_V.numpy() - starts
    np.testing.assert_array_equal(batch.visible_places().numpy(), places)
    # Exchanging a visible and a hidden measurement that are alike moves places and nothing else.
    visible, hidden = batch.visible_V[0].item(), batch.hidden_M[0].item()
    moved = replace(
        batch,
        visible_V=torch.where(batch.visible_V == visible, hidden, batch.visible_V),
        hidden_M=torch.where(batch.hidden_M == hidden, visible, batch.hidden_M),
    )
    for column in ("code_index_N", "hours_N", "value_N"):
        getattr(batch, column)[hidden] = getattr(batch, column)[visible]
    for target, is_same in (("measurement", False), ("value", True)):
        model = build_model(CONFIG, NUM_CODES, seed=0, target=target)
        with torch.no_grad():
            assert torch.equal(model.encode(moved), model.encode(batch)) == is_same


def test_a_target_of_measurements_leaves_the_weights_of_values_as_they_are():
    """All but what is drawn after the layers' weights, of which there are more."""
    value, measurement = (
        build_model(CONFIG, NUM_CODES, seed=0, target=target).state_dict()
        for target in ("value", "measurement")
    )
    added = {name.partition(".")[0] for name in measurement.keys() - value.keys()}
    assert added == {"place_embedding", "measurement_head"}
    assert value.keys() <= measurement.keys()


def test_only_weight_matrices_of_linear_layers_decay():
    model = build_model(CONFIG, NUM_CODES, seed=0)
    decayed, kept = param_groups(model, 0.05)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.05, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert sorted(id(p) for p in decayed["params"] + kept["params"]) == sorted(names)
    not_decayed = {names[id(p)] for p in kept["params"]}
    assert not_decayed == {
        name
        for name in names.values()
        if name.endswith("bias")
        or "norm" in name
        or name in ("code_embedding.weight", "mask_token")
    }


def test_the_periods_span_an_hour_to_twenty_years():
    period = 2 * np.pi / build_model(CONFIG, NUM_CODES, seed=0).time_embedding.frequency_F
    assert len(period) == 32
    np.testing.assert_allclose(period[[0, -1]], [1, 20 * 365.25 * 24], rtol=1e-6)
