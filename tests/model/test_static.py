"""Batches in memory that stays: sizes recur, what lies beyond moves nothing, few are compiled."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from cvmae.model import attention
from cvmae.model.loss import hidden_error
from cvmae.model.static import SIZES_PER_OCTAVE, StaticBatch, StaticSize, round_up
from cvmae.model.vomae import build_model
from tests.model.test_vomae import BOTH, CONFIG, NUM_CODES, random_batch

LONGEST = 100
CPU = torch.device("cpu")


def batches(rng, num):
    for _ in range(num):
        lengths = rng.integers(2, LONGEST + 1, rng.integers(12, 15))
        yield random_batch(rng, lengths.tolist(), (lengths // 4).tolist())


def filled(batch, static=None):
    static = static or StaticBatch(StaticSize.of(batch, LONGEST), CPU)
    static.fill(batch)
    return static


def test_sizes_waste_a_sixteenth_at_most_and_are_multiples_of_64():
    for size in range(2048, 100_000, 7):
        assert size < round_up(size) <= size * (1 + 2 / SIZES_PER_OCTAVE)
        assert round_up(size) % 64 == 0


@pytest.mark.parametrize("lengths", [[], [100], [100] * 30, [1, 2, 3], [99] * 7])
def test_rows_beyond_lie_in_sequences_of_their_own_none_too_long(rng, lengths):
    batch = random_batch(rng, lengths, [n // 4 for n in lengths])
    static = filled(batch)
    own, size = static.batch, static.size
    for offsets, on_host, rows, given in (
        (own.visible_offsets_B, own.num_visible_B, size.visible, batch.num_visible_B),
        (own.hidden_offsets_B, own.num_hidden_B, size.hidden, batch.num_hidden_B),
    ):
        found = np.diff(offsets.numpy())
        np.testing.assert_array_equal(found, on_host)
        np.testing.assert_array_equal(found[: len(given)], given)
        assert found.sum() == rows
        assert found.max() <= LONGEST
        assert len(found) == size.sequences
    assert np.diff(own.offsets_B.numpy()).max() <= LONGEST
    assert static.own_M.sum() == batch.num_hidden


@pytest.mark.parametrize("longest", [2, 5, 33, 64])
def test_rows_beyond_a_large_batch_are_cut_short_enough_for_a_short_longest(rng, longest):
    """A kernel goes as far as the longest: rows further on would be left unwritten."""
    lengths = rng.integers(1, longest + 1, 100_000 // longest)
    batch = random_batch(rng, lengths.tolist(), (lengths // 4).tolist())
    static = StaticBatch(StaticSize.of(batch, longest), CPU)
    static.fill(batch)
    assert np.diff(static.batch.offsets_B.numpy()).max() <= longest


@pytest.mark.parametrize("encoder_input", BOTH)
def test_left_overs_of_a_larger_batch_change_nothing(rng, encoder_input):
    config = type(CONFIG)(**{**vars(CONFIG), "encoder_input": encoder_input})
    model = build_model(config, NUM_CODES, seed=0)
    large = random_batch(rng, [90, 100, 80], [22, 25, 20])
    small = random_batch(rng, [90, 100, 75], [22, 25, 18])
    static = filled(large)
    assert StaticSize.of(small, LONGEST) == static.size
    static.fill(small)
    with torch.no_grad():
        # The same rows, multiplied in blocks of another number of rows.
        torch.testing.assert_close(
            model(static.batch)[: small.num_hidden], model(small), atol=1e-5, rtol=0
        )


def test_a_sequence_that_is_too_long_is_an_error(rng):
    with pytest.raises(AssertionError, match=r"data\.sequence_length"):
        StaticSize.of(random_batch(rng, [LONGEST + 1], [3]), LONGEST)


def by_mask(query, key, value, query_offsets, key_offsets):
    """Stand in for the kernels that only GPUs have: one product, with all other pairs masked."""

    def sequence_of(rows, offsets):
        return torch.bucketize(torch.arange(rows), offsets[1:], right=True)

    mask = sequence_of(len(query), query_offsets)[:, None] == sequence_of(len(key), key_offsets)
    heads = (x.transpose(0, 1)[None] for x in (query, key, value))
    output = scaled_dot_product_attention(*heads, attn_mask=mask)[0].transpose(0, 1)
    return torch.where(mask.any(1)[:, None, None], output, 0.0)


@pytest.fixture
def compilations(monkeypatch):
    """Return a list that grows with each compilation, and the backend that does nothing else."""
    operators = SimpleNamespace(
        self_attention=lambda packed, offsets, _: by_mask(*packed.unbind(1), offsets, offsets),
        cross_attention=lambda query, packed, query_offsets, key_offsets, _: by_mask(
            query, *packed.unbind(1), query_offsets, key_offsets
        ),
    )
    monkeypatch.setattr(attention, "operators", operators, raising=False)
    monkeypatch.setattr(attention, "_have_kernels", lambda _: True)
    torch._dynamo.reset()
    met = []

    def backend(graph, inputs):
        met.append(graph)
        return graph.forward

    yield met, backend
    torch._dynamo.reset()


@pytest.mark.parametrize("encoder_input", BOTH)
def test_layers_alike_are_compiled_once_for_batches_of_all_sizes(rng, compilations, encoder_input):
    met, backend = compilations
    config = type(CONFIG)(**{**vars(CONFIG), "encoder_input": encoder_input})
    plain, compiled = (build_model(config, NUM_CODES, seed=0) for _ in range(2))
    compiled.compile_parts(backend)
    num_compiled = []
    for batch in batches(rng, 6):
        errors = []
        for model in (plain, compiled):
            model.zero_grad()
            error, _ = hidden_error(model, batch)
            error.backward()
            errors.append(error.item())
        assert errors[1] == pytest.approx(errors[0], rel=1e-5)
        for (name, a), b in zip(plain.named_parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=name)
        num_compiled.append(len(met))
    # Embeddings, layers of encoder and decoder, ends of both; first layers may differ from others.
    assert num_compiled[0] <= 7
    assert num_compiled[-1] == num_compiled[0]


@pytest.mark.parametrize("kind", ["visible", "measurement"])
def test_layers_of_other_losses_are_compiled_once_as_well(rng, compilations, kind):
    met, backend = compilations
    target = "measurement" if kind == "measurement" else "value"
    scale = torch.tensor(0.5) if kind == "visible" else None
    plain, compiled = (build_model(CONFIG, NUM_CODES, 0, target) for _ in range(2))
    compiled.compile_parts(backend)
    num_compiled = []
    for batch in batches(rng, 4):
        errors = []
        for model in (plain, compiled):
            model.zero_grad()
            error, _ = hidden_error(model, batch, target=target, visible_scale=scale)
            error.backward()
            errors.append(error.item())
        assert errors[1] == pytest.approx(errors[0], rel=1e-5)
        num_compiled.append(len(met))
    assert num_compiled[-1] == num_compiled[0] <= 8


def test_two_sizes_that_are_the_same_at_first_are_not_taken_for_one(rng, compilations):
    met, backend = compilations
    model = build_model(CONFIG, NUM_CODES, seed=0)
    model.compile_parts(backend)
    num_compiled = []
    for length in (8, 12):  # as many hidden as visible, then fewer
        hidden_error(model, random_batch(rng, [length] * 16, [4] * 16))
        num_compiled.append(len(met))
    assert num_compiled[1] == num_compiled[0]
