"""Figures of each code: sums that do not depend on order, and what a checkpoint holds of them."""

import json

import numpy as np
import torch

from cvmae.batches.batch import make_batch
from cvmae.batches.code_metrics import FIXED_POINT, CodeErrors, CodeMetrics, CodeSums
from cvmae.model.loss import add_code_errors


def batch_of(code_N: np.ndarray):
    return make_batch(
        lengths_B=np.array([len(code_N)]),
        code_index_N=code_N,
        minutes_N=np.zeros(len(code_N), np.int32),
        value_N=np.zeros(len(code_N), np.float32),
        hidden_N=np.arange(len(code_N)) > 0,
    )


def test_errors_of_codes_are_the_same_bits_in_any_order(rng):
    code_N = rng.integers(0, 3, 2000).astype(np.uint16)
    square_M = torch.from_numpy(rng.exponential(1e3, 1999).astype(np.float32))
    sums = []
    for order in (np.arange(1999), rng.permutation(1999)):
        sums.append(torch.zeros(3, dtype=torch.int64))
        add_code_errors(sums[-1], batch_of(code_N[[0, *(order + 1)]]), square_M[order])
    assert torch.equal(*sums)
    wanted = np.bincount(code_N[1:], square_M.double(), minlength=3)
    np.testing.assert_allclose(sums[0] / FIXED_POINT, wanted, rtol=1e-6)


def test_an_error_that_is_not_finite_leaves_the_others_sound():
    total = torch.zeros(2, dtype=torch.int64)
    square_M = torch.tensor([float("nan"), 1.0, 3.0])
    add_code_errors(total, batch_of(np.array([0, 0, 0, 1], np.uint16)), square_M)
    assert total.tolist() == [FIXED_POINT, 3 * FIXED_POINT]


def test_rates_and_errors_of_a_code_that_was_not_hidden_are_no_numbers():
    sums = CodeSums.of([[3 * 2**20, 0, 0], [2, 0, 0], [8, 5, 0]], 3)
    np.testing.assert_array_equal(sums.mask_rate_C, [0.25, 0.0, np.nan])
    np.testing.assert_array_equal(sums.mse_C, [1.5, np.nan, np.nan])
    assert CodeSums.of(sums.as_tuples(), 3).as_tuples() == sums.as_tuples()
    assert CodeSums.of((), 2).as_tuples() == ((0, 0), (0, 0), (0, 0))


def test_errors_by_code_add_up_to_the_pooled_one():
    errors = CodeErrors(*np.array([[2.0, 1.0, 0.0], [4.0, 1.0, 0.0], [0, 2.0, 0], [8.0, 4.0, 0]]))
    by_code = errors.by_code()
    assert errors.pooled() == {"tuning_mse": 3 / 5, "tuning_r2": 1 - 3 / 8}
    np.testing.assert_array_equal(by_code["tuning_mse_C"], [0.5, 1.0, np.nan])
    np.testing.assert_array_equal(by_code["tuning_r2_C"], [0.75, np.nan, np.nan])


def test_a_code_whose_hidden_values_are_all_equal_has_no_r2_for_all_rounding():
    value_M = np.full(3, 0.3)
    errors = CodeErrors(
        error_C=np.array([0.3]),
        count_C=np.array([3.0]),
        sum_C=np.array([value_M.sum()]),
        square_C=np.array([(value_M**2).sum()]),
    )
    assert 0 < errors.square_C - errors.sum_C**2 / 3 < 1e-15  # rounding alone
    assert np.isnan(errors.by_code()["tuning_r2_C"]).all()
    assert np.isnan(errors.pooled()["tuning_r2"])


def test_a_checkpoint_gives_figures_of_codes_back_to_the_last_bit():
    columns = {
        "mask_rate": [0.1, float("nan")],
        "train_mse": [1 / 3, 2.0],
        "tuning_mse": [0.7, 1e-9],
        "tuning_r2": [0.3, -1.0],
        "tuning_count": [5.0, 2.0],
    }
    given = CodeMetrics.of(json.loads(json.dumps(columns))).as_columns()
    np.testing.assert_equal(given, columns)
