"""Ragged attention against a plain loop over sequences, and its backends against each other."""

import numpy as np
import pytest
import torch

from cvmae.model.attention import cross_attention, plan_attention, self_attention


def attend_one_by_one(query, key, value, num_queries, num_keys):
    """Attend in float64, a sequence and a formula at a time."""
    outputs, q, k = [query.new_zeros((0, *query.shape[1:])).double()], 0, 0
    for m, n in zip(num_queries, num_keys, strict=True):
        rows = [x[s : s + c].double() for x, s, c in ((query, q, m), (key, k, n), (value, k, n))]
        scores = torch.einsum("qhd,khd->hqk", rows[0], rows[1]) / rows[0].shape[-1] ** 0.5
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), rows[2]))
        q, k = q + m, k + n
    return torch.cat(outputs)


def draw(rng, num_queries, num_keys, num_heads=3, head_dim=8):
    shapes = [sum(num_queries), sum(num_keys), sum(num_keys)]
    arrays = (rng.normal(size=(n, num_heads, head_dim)).astype(np.float32) for n in shapes)
    return [torch.from_numpy(array).requires_grad_() for array in arrays]


def plan_on(device, num_queries, num_keys):
    offsets = [
        torch.from_numpy(np.concatenate([[0], np.cumsum(num)]).astype(np.int32)).to(device)
        for num in (num_queries, num_keys)
    ]
    return plan_attention(num_queries, num_keys, *offsets)


def attend(query, key, value, plan):
    """Attend as encoder layers do where queries and keys are the same rows, else as decoders do."""
    if np.array_equal(plan.num_queries_B, plan.num_keys_B):
        return self_attention(torch.stack([query, key, value], dim=1), plan)
    return cross_attention(query, torch.stack([key, value], dim=1), plan)


LENGTHS = {
    "self, unsorted": ([70, 3, 200, 18, 1, 69, 33], None),
    "self, equal": ([16] * 5, None),
    "cross": ([20, 1, 50, 6, 1, 30, 8], [70, 3, 200, 18, 1, 69, 33]),
    "some without queries": ([0, 4, 0, 9], [7, 5, 90, 3]),
    "some without keys": ([5, 4, 2, 9], [0, 5, 0, 3]),
    "no keys at all": ([3, 2], [0, 0]),
    "no queries at all": ([0, 0], [3, 2]),
    "no sequence": ([], []),
}


def lengths(name):
    num_queries, num_keys = LENGTHS[name]
    return np.array(num_queries, np.int64), np.array(num_keys or num_queries, np.int64)


@pytest.mark.parametrize("name", LENGTHS)
def test_attention_equals_a_loop_over_sequences(rng, name):
    num_queries, num_keys = lengths(name)
    inputs = draw(rng, num_queries, num_keys)
    output = attend(*inputs, plan_on("cpu", num_queries, num_keys))
    expected = attend_one_by_one(*inputs, num_queries, num_keys)
    # float32 sums over at most 200 keys of weights that add up to one.
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in LENGTHS if "no " not in name])
def test_gradients_equal_those_of_a_loop_over_sequences(rng, name):
    num_queries, num_keys = lengths(name)
    inputs = draw(rng, num_queries, num_keys)
    output = attend(*inputs, plan_on("cpu", num_queries, num_keys))
    upstream = torch.from_numpy(rng.normal(size=output.shape))
    grads = torch.autograd.grad(output, inputs, upstream.float())
    expected = torch.autograd.grad(
        attend_one_by_one(*inputs, num_queries, num_keys), inputs, upstream
    )
    for grad, reference in zip(grads, expected, strict=True):
        # Sums over at most 200 queries of terms near one, in float32.
        torch.testing.assert_close(grad, reference, atol=1e-4, rtol=1e-4)


def test_a_sequence_that_is_not_finite_leaves_the_others_alone(rng):
    num = np.array([20, 30, 18, 25])
    inputs = [x.detach() for x in draw(rng, num, num)]
    for x in inputs:
        x[20:50] = torch.nan
    output = attend(*inputs, plan_on("cpu", num, num))
    assert output[:20].isfinite().all()
    assert output[50:].isfinite().all()


def test_padding_stays_small_whatever_the_order_of_the_lengths(rng):
    num = np.clip(np.exp(rng.normal(np.log(75), 1, size=200)), 2, 384).astype(np.int64)
    shapes = plan_on("cpu", num, num).buckets.shapes
    assert sum(b for b, _, _ in shapes) == 200
    # Lengths within 16 or an eighth waste about a tenth of the scores.
    assert sum(b * q * k for b, q, k in shapes) < 1.2 * (num**2).sum()
    assert len(shapes) < 20


@pytest.mark.parametrize("name", ["cross", "some without queries", "some without keys"])
def test_a_plan_knows_the_longest_of_queries_and_keys(name):
    """Kernels go as far as that: a shorter one would leave gradients of keys unwritten."""
    num_queries, num_keys = lengths(name)
    longest = max(num_queries.max(), num_keys.max())
    assert plan_on("cpu", num_queries, num_keys).longest == longest
