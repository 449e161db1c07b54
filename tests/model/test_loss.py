"""The summed error and its scale over ranks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cvmae.batches.batch import make_batch
from cvmae.batches.code_metrics import FIXED_POINT
from cvmae.model.loss import hidden_error, rank_loss
from cvmae.model.vomae import build_model
from cvmae.settings import ModelConfig

CONFIG = ModelConfig(width=16, num_layers=1, num_heads=2, num_decoder_layers=1)


def random_columns(rng, lengths, num_hidden):
    total = sum(lengths)
    return {
        "code_index_N": rng.integers(0, 5, total),
        "minutes_N": rng.integers(0, 9_000, total),
        "value_N": rng.normal(size=total).astype(np.float32),
        "hidden_N": np.concatenate(
            [rng.permutation(n) < k for n, k in zip(lengths, num_hidden, strict=True)]
        ),
    }


def test_error_is_the_sum_of_squares_over_hidden_values(rng):
    lengths = [12, 7]
    batch = make_batch(lengths_B=np.array(lengths), **random_columns(rng, lengths, [5, 2]))
    model = build_model(CONFIG, 5, seed=0)
    error, count = hidden_error(model, batch)
    difference = model(batch) - batch.value_N[batch.hidden_M]
    assert count == 7
    torch.testing.assert_close(error, (difference**2).sum())


def test_averaged_gradients_of_uneven_ranks_equal_the_gradient_of_the_global_mean(rng):
    lengths, num_hidden = [40, 9, 11], [20, 1, 2]
    columns = random_columns(rng, lengths, num_hidden)
    model = build_model(CONFIG, 5, seed=0)

    def gradients(start, stop, count, world_size):
        first, last = sum(lengths[:start]), sum(lengths[:stop])
        batch = make_batch(
            lengths_B=np.array(lengths[start:stop]),
            **{name: column[first:last] for name, column in columns.items()},
        )
        loss = rank_loss(hidden_error(model, batch)[0], torch.tensor(count), world_size)
        return torch.autograd.grad(loss, list(model.parameters()))

    alone = gradients(0, 3, 23, 1)
    ranks = [gradients(0, 1, 23, 2), gradients(1, 3, 23, 2)]
    for reference, first, second in zip(alone, *ranks, strict=True):
        # Float32 sums in another order; a mean per rank would be off by a factor near two.
        torch.testing.assert_close((first + second) / 2, reference, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("world_size", [1, 4])
def test_a_step_that_hides_nothing_has_zero_loss(world_size):
    loss = rank_loss(torch.tensor(0.0), torch.tensor(0), world_size)
    assert loss == 0


def weighted_batch(rng, lengths, num_hidden):
    weight_M = rng.uniform(1, 100, sum(num_hidden)).astype(np.float32)
    columns = random_columns(rng, lengths, num_hidden)
    return make_batch(lengths_B=np.array(lengths), error_weight_M=weight_M, **columns)


def test_weights_count_in_the_error_and_not_in_that_of_codes(rng):
    batch = weighted_batch(rng, [12, 7], [5, 2])
    model, by_code_C = build_model(CONFIG, 5, seed=0), torch.zeros(5, dtype=torch.int64)
    error, _ = hidden_error(model, batch, by_code_C)
    square_M = (model(batch) - batch.value_N[batch.hidden_M]).square()
    torch.testing.assert_close(error, (square_M * batch.error_weight_M).sum())
    # Each is rounded to a millionth.
    assert by_code_C.sum() / FIXED_POINT == pytest.approx(square_M.sum().item(), rel=1e-5)


@pytest.mark.parametrize("encoder_input", ["visible_only", "masked_value"])
def test_visible_values_are_asked_for_by_code_and_time_beside_the_hidden_ones(rng, encoder_input):
    lengths = [12, 7, 3]
    columns = random_columns(rng, lengths, [5, 2, 0])
    batch = make_batch(lengths_B=np.array(lengths), **columns)
    model = build_model(replace(CONFIG, encoder_input=encoder_input), 5, seed=0)
    alone, _ = hidden_error(model, batch)
    both, count = hidden_error(model, batch, visible_scale=torch.tensor(0.5))
    assert count == 7
    asked_N = model(batch, ask_all=True)
    torch.testing.assert_close(asked_N[batch.hidden_M], model(batch))
    visible = (asked_N - batch.value_N)[batch.visible_V].square().sum()
    torch.testing.assert_close(both, alone + 0.5 * visible)
    other = replace(batch, code_index_N=(batch.code_index_N + 1) % 5)
    encoded = model.encode(batch)
    moved = model.decode(other, encoded, ask_all=True) - model.decode(batch, encoded, ask_all=True)
    assert (moved != 0).all()


def test_a_measurement_is_restored_by_code_time_and_value(rng):
    lengths = [12, 7]
    columns = random_columns(rng, lengths, [5, 2])
    columns["minutes_N"] = np.concatenate([np.sort(columns["minutes_N"][:12]), np.arange(7) * 600])
    columns["hidden_N"][[0, 12]] = True  # the first of a sequence has none before it
    batch = make_batch(lengths_B=np.array(lengths), **columns)
    model = build_model(CONFIG, 5, seed=0, target="measurement")
    by_code_C = torch.zeros(5, dtype=torch.int64)
    error, _ = hidden_error(model, batch, by_code_C, target="measurement")
    found = model(batch, whole=True).detach().double().numpy()
    expected, squares = 0.0, 0.0
    for row, (value, gap, *scores) in zip(batch.hidden_M.tolist(), found, strict=True):
        hours = columns["minutes_N"].astype(np.float32) / np.float32(60)
        truth = 0.0 if row in (0, 12) else np.log1p(hours[row] - hours[row - 1])
        squares += (value - columns["value_N"][row]) ** 2
        code = np.log(np.exp(scores).sum()) - scores[columns["code_index_N"][row]]
        expected += code + (gap - truth) ** 2
    assert error.item() == pytest.approx(expected + squares, rel=1e-5)
    assert by_code_C.sum() / FIXED_POINT == pytest.approx(squares, rel=1e-5)


@pytest.mark.parametrize("num_hidden", [[0, 0], [5, 2], [12, 7]])
def test_every_parameter_learns_to_restore_measurements(rng, num_hidden):
    lengths = [12, 7]
    batch = make_batch(lengths_B=np.array(lengths), **random_columns(rng, lengths, num_hidden))
    model = build_model(CONFIG, 5, seed=0, target="measurement")
    hidden_error(model, batch, target="measurement")[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or sum(num_hidden) in (0, 19), name
