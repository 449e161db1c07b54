"""Layers at recurring sizes give what packed ones give, and few sizes come up."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from cvmae.model import attention
from cvmae.model.loss import hidden_error
from cvmae.model.static import SIZES_PER_OCTAVE, static_plan, static_size
from cvmae.model.vomae import build_model
from tests.model.test_vomae import BOTH, CONFIG, NUM_CODES, random_batch

LONGEST = 100


def varlen_by_mask(query, key, value, query_offsets, key_offsets, max_queries, max_keys):
    """Stand in for the kernel that only GPUs have: one product, with all other pairs masked."""

    def sequence_of(rows, offsets):
        return torch.bucketize(torch.arange(rows), offsets[1:], right=True)

    mask = sequence_of(len(query), query_offsets)[:, None] == sequence_of(len(key), key_offsets)
    heads = (x.transpose(0, 1)[None] for x in (query, key, value))
    output = scaled_dot_product_attention(*heads, attn_mask=mask)[0].transpose(0, 1)
    return torch.where(mask.any(1)[:, None, None], output, 0.0)


@pytest.fixture
def shapes(monkeypatch):
    """Return the sizes that the compiler meets, one entry for each compilation."""
    monkeypatch.setattr(attention, "varlen_attn", varlen_by_mask)
    torch._dynamo.reset()
    met = []

    def backend(graph, inputs):
        met.append(tuple(tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor)))
        return graph.forward

    yield met, backend
    torch._dynamo.reset()


def batches(rng, num):
    for _ in range(num):
        lengths = rng.integers(2, LONGEST + 1, rng.integers(12, 15))
        yield random_batch(rng, lengths.tolist(), (lengths // 4).tolist())


@pytest.mark.parametrize("encoder_input", BOTH)
def test_fixed_sizes_change_predictions_and_gradients_by_rounding_only(rng, shapes, encoder_input):
    config = type(CONFIG)(**{**vars(CONFIG), "encoder_input": encoder_input})
    packed, fixed = (build_model(config, NUM_CODES, seed=0) for _ in range(2))
    fixed.fix_sizes(LONGEST, shapes[1])
    for batch in batches(rng, 3):
        errors = []
        for model in (packed, fixed):
            model.zero_grad()
            error, _ = hidden_error(model, batch)
            error.backward()
            errors.append(error.item())
        assert errors[1] == pytest.approx(errors[0], rel=1e-5)
        for (name, a), b in zip(packed.named_parameters(), fixed.parameters(), strict=True):
            # Sums of float32 in another order.
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_a_batch_that_hides_nothing_still_reaches_every_parameter(rng, shapes):
    model = build_model(CONFIG, NUM_CODES, seed=0)
    model.fix_sizes(LONGEST, shapes[1])
    error, count = hidden_error(model, random_batch(rng, [5, 3], [0, 0]))
    error.backward()
    assert count == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_batches_of_many_sizes_are_compiled_a_few_times_and_more_often_than_torch_allows(
    rng, shapes
):
    met, backend = shapes
    model = build_model(CONFIG, NUM_CODES, seed=0)
    model.fix_sizes(LONGEST, backend)
    sizes = set()
    with torch.no_grad():
        for batch in batches(rng, 40):
            sizes.add((batch.num_measurements, batch.num_sequences))
            model(batch)
    assert len(sizes) > 30
    assert 8 < len(met) < len(sizes)  # of 8 torch.compile would make an error, left alone


@pytest.mark.parametrize("lengths", [[], [100], [100] * 30, [1, 2, 3], [99] * 7])
def test_padding_lies_in_sequences_of_its_own_none_too_long(lengths):
    num_queries, num_keys = np.array(lengths, np.int64) // 4, np.array(lengths, np.int64)
    plan = static_plan(num_queries, num_keys, LONGEST, "cpu")
    for offsets, rows, own in (
        (plan.query_offsets_B, plan.num_queries, num_queries),
        (plan.key_offsets_B, plan.num_keys, num_keys),
    ):
        found = np.diff(offsets.numpy())
        np.testing.assert_array_equal(found[: len(own)], own)
        assert found.sum() == rows == static_size(int(own.sum()))
        assert found.max() <= LONGEST
    assert len(plan.query_offsets_B) == len(plan.key_offsets_B)


def test_sizes_waste_an_eighth_at_most():
    for size in range(64, 5000):
        assert size < static_size(size) <= size * (1 + 1 / SIZES_PER_OCTAVE)
