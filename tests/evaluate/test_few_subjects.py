"""Scores of few subjects are not told: the code mean's error over one value is as good as it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cvmae.batches.columns import uniform_column
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.columns import code_columns, totals
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.context import summarise
from cvmae.evaluate.history import Observed
from cvmae.evaluate.methods import code_rows, score
from cvmae.evaluate.one_target import TargetErrors
from cvmae.evaluate.results import to_json
from cvmae.evaluate.small_cells import SMALLEST_CELL
from cvmae.evaluate.volatility import volatility
from tests.evaluate.made_results import make_statistics
from tests.evaluate.made_sums import make_sums

MODEL = [Contestant(name="random", path="random", stamp="")]
SUBJECTS = (1, SMALLEST_CELL - 1, SMALLEST_CELL, 60)  # by code


@pytest.fixture
def sums(rng):
    """Sums of four codes, of which some have values of few subjects."""
    found = make_sums(rng, (0.6, 1.0, 1.1, 0.8), num_subjects=60, num_codes=len(SUBJECTS))
    kept_R = found.subject_R < np.array(SUBJECTS)[found.code_R]
    cut = {
        name: values[kept_R] for name, values in vars(found).items() if name.endswith(("_R", "_RK"))
    }
    return replace(found, **cut, absolute_CK=np.ones((len(SUBJECTS), 1 + len(BASELINES))))


def numbers(value):
    """All numbers of a tree."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value]


def test_a_code_of_few_subjects_has_no_scores_and_counts_in_the_pooled_ones(sums):
    found = score(sums, MODEL, min_scored=10, samples=20, seed=0)
    rows = code_rows(found, make_statistics(len(SUBJECTS)), {})
    assert [row.num_subjects for row in rows] == list(SUBJECTS)
    for row in rows:
        told = numbers(
            [
                to_json(getattr(row, name))
                for name in (
                    "r2",
                    "r2_interval",
                    "r2_classical",
                    "mean_absolute_error",
                    "root_mean_squared_error",
                )
            ]
        )
        assert len(told) == 6 * (1 + len(BASELINES))
        if row.num_subjects < SMALLEST_CELL:
            assert set(told) == {None}
        else:
            assert None not in told
    pooled = 1 - sums.error_RK[:, 0].sum() / sums.square_R.sum()
    assert found.scores.pooled_K[0] == pytest.approx(pooled)


def test_a_column_tells_no_scores_of_codes_of_few_subjects(sums):
    columns, found = [uniform_column(0.25)], totals(sums, MODEL)
    for row, number in zip(
        code_columns(columns, [found], make_statistics(len(SUBJECTS)), {}, None),
        SUBJECTS,
        strict=True,
    ):
        told = numbers(to_json([row.r2, row.mean_absolute_error]))
        assert len(told) == 2 * (1 + len(BASELINES))
        assert set(told) == {None} if number < SMALLEST_CELL else None not in told


def test_a_quartile_of_codes_of_few_subjects_tells_nothing(sums):
    statistics = make_statistics(len(SUBJECTS))
    counted_C = np.zeros(len(SUBJECTS), np.bool_)
    told = volatility(totals(sums, MODEL), statistics, counted_C, ["random"], "random")
    own = [quartile for quartile in told.quartiles if quartile.by == "cv"]
    assert [quartile.num_codes for quartile in own] == [1, 1, 1, 1]
    for quartile, number in zip(own, SUBJECTS, strict=True):
        scores = (quartile.r2, quartile.r2_difference, quartile.mae_difference)
        told = numbers(to_json([*scores, quartile.r2_difference_runs]))
        assert len(told) == 4
        assert set(told) == {None} if number < SMALLEST_CELL else None not in told


def test_a_bin_of_history_of_few_subjects_has_no_error(rng):
    subject_T = np.append(np.arange(SMALLEST_CELL), np.repeat(np.arange(SMALLEST_CELL - 1), 3))
    prior_T = np.where(np.arange(len(subject_T)) < SMALLEST_CELL, 0, 1)
    observed = Observed(
        num_found=9,
        num_windows=9,
        code_T=np.zeros(len(subject_T), int),
        subject_T=subject_T,
        num_subjects=SMALLEST_CELL,
        prior_T=prior_T,
        length_T=np.full(len(subject_T), 64),
        error_TK=rng.random((len(subject_T), 2 + len(BASELINES))).astype(np.float32),
    )
    nothing = TargetErrors(
        num_found=0,
        code_T=np.zeros(0, int),
        subject_T=np.zeros(0, int),
        num_subjects=0,
        num_prior_T=np.zeros(0, int),
        error_TXK=np.zeros((0, 6, 2 + len(BASELINES))),
    )
    found = summarise(observed, nothing, {"random": [0], "cv": [1]}, "random")
    enough, few = (to_json(one) for one in found.by_history)
    assert (few["label"], few["num_subjects"]) == ("1", SMALLEST_CELL - 1)
    assert set(few["error"].values()) == {None}
    assert (few["gap"]["cv"]["value"], few["gap"]["cv"]["interval"]) == (None, [None, None])
    assert None not in enough["error"].values()
    assert enough["gap"]["cv"]["value"] is not None
    json.dumps(few, allow_nan=False)
