"""Columns in numbers: R2 about train's mean, errors in their unit, who pays for a gain."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cvmae.batches.columns import LEAVE_ONE_OUT, Column, uniform_column
from cvmae.evaluate.attainable import Truth
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.columns import code_columns, column_scores, totals
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.reconstruction import Sums
from cvmae.evaluate.volatility import volatility
from cvmae.statistics.code_statistics import CodeStatistics

NUM_CODES, NUM_SUBJECTS, VALUES = 8, 60, 5
COLUMNS = (
    uniform_column(0.25),
    Column(name=LEAVE_ONE_OUT, kind=LEAVE_ONE_OUT, meaning="one at a time"),
    Column(name="own mask of cv", kind="own mask", meaning="as cv hides", own_of=("cv",)),
)
MODELS = [Contestant(name=name, path=name, stamp="") for name in ("random", "cv", "cv")]


def make_statistics(cv=None, **changes):
    cv = np.geomspace(0.01, 2, NUM_CODES) if cv is None else cv
    ones = np.ones(NUM_CODES)
    codes = tuple(f"LAB//{code}//mg/dL" for code in range(NUM_CODES))
    statistics = CodeStatistics(
        codes=codes,
        members=tuple((code,) for code in codes),
        num_values=np.full(NUM_CODES, 1000),
        num_subjects=np.full(NUM_CODES, 500),
        minimum=ones,
        maximum=300 * ones,
        raw_mean=100 * ones,
        raw_std=100 * cv[::-1],
        clip_low=ones,
        clip_high=300 * ones,
        mean=100 * ones,
        std=100 * cv,
        q25=ones,
        median=100 * ones,
        q75=ones,
        mad=10 * cv / 1.4826,
        within_subject_std=50 * cv[::-1],
        entropy=ones,
    )
    return replace(statistics, **changes)


def make_sums(rng, scales, shift=0.3):
    """Sums of targets whose mean is not train's; a method's error is its scale times noise."""
    subject, code = (g.ravel() for g in np.mgrid[:NUM_SUBJECTS, :NUM_CODES])
    target = shift + rng.normal(size=(len(subject), VALUES))
    noise = rng.normal(size=target.shape)
    errors = [np.broadcast_to(s, NUM_CODES)[code][:, None] * noise for s in scales]
    errors += [target, 1.2 * noise, 0.9 * noise]  # the code mean says 0
    absolute = [np.bincount(code, np.abs(e).sum(axis=1)) for e in errors]
    return Sums(
        num_subjects=NUM_SUBJECTS,
        num_sequences=NUM_SUBJECTS,
        num_hidden=target.size + 4,
        num_twins=4,
        measurements_C=np.full(NUM_CODES, 999),
        subject_R=subject,
        code_R=code,
        count_R=np.full(len(subject), float(VALUES)),
        sum_R=target.sum(axis=1),
        square_R=(target**2).sum(axis=1),
        error_RK=np.stack([(e**2).sum(axis=1) for e in errors], axis=1),
        absolute_CK=np.stack(absolute, axis=1),
    )


@pytest.fixture
def sums(rng):
    return make_sums(rng, (0.6, 0.5, 0.7))


def test_the_code_mean_scores_zero_wherever_values_lie_and_seeds_enter_by_their_mean(sums):
    found = totals(sums, MODELS)
    assert found.names == ("random", "cv", *BASELINES)
    pooled = found.by_name(found.pooled_r2())
    assert pooled["code mean"] == 0
    np.testing.assert_allclose(found.r2_CK[:, 2], 0, atol=1e-12)
    by_hand = 1 - sums.error_RK[:, :3].sum(axis=0) / sums.square_R.sum()
    assert found.pooled_r2_runs()["cv"] == pytest.approx(tuple(by_hand[1:]))
    assert set(found.pooled_r2_runs()) == {"random", "cv"}
    assert pooled["cv"] == pytest.approx(by_hand[1:].mean())


def test_a_column_tells_its_counts_and_who_was_trained_on_its_mask(sums):
    rows = column_scores(COLUMNS, [sums] * 3, [totals(sums, MODELS)] * 3, None)
    assert [row.own_of for row in rows] == [(), (), ("cv",)]
    assert [row.name for row in rows] == ["uniform", "leave-one-out", "own mask of cv"]
    row = rows[0]
    assert (row.num_scored, row.num_hidden, row.num_twins) == (2400, 2404, 4)
    assert (row.num_subjects, row.num_codes, row.attainable_r2) == (60, 8, None)


def test_codes_have_errors_in_their_unit_and_a_share_of_what_is_attainable(sums):
    statistics, found = make_statistics(), totals(sums, MODELS)
    truth = Truth(
        name="best attainable R2",
        cv_C=np.arange(8.0),
        r2_JC=np.full((3, NUM_CODES), 0.8),
        pooled_J=np.full(3, 0.8),
    )
    shares = {"random": np.full(NUM_CODES, 0.25), "cv": np.linspace(0.1, 0.5, NUM_CODES)}
    rows = code_columns(COLUMNS, [found] * 3, statistics, shares, truth)
    expected = statistics.std[7] * sums.absolute_CK[7, 0] / (NUM_SUBJECTS * VALUES)
    assert rows[7].mean_absolute_error["own mask of cv"]["random"] == pytest.approx(expected)
    r2 = rows[7].r2["uniform"]["cv"]
    assert rows[7].share_of_attainable["uniform"]["cv"] == pytest.approx(r2 / 0.8)
    assert rows[7].share_hidden == {"random": 0.25, "cv": 0.5}
    assert rows[7].cv_true == 7.0
    assert rows[0].robust_cv == pytest.approx(0.001)
    bare = code_columns(COLUMNS, [found] * 3, statistics, shares, None)
    assert (bare[7].cv_true, bare[7].attainable_r2, bare[7].share_of_attainable) == (None, {}, {})


def describe(sums, statistics, **changes):
    options = {
        "counted_C": np.ones(NUM_CODES, bool),
        "models": ["random", "cv"],
        "reference": "random",
    }
    return volatility(totals(sums, MODELS), statistics, **(options | changes))


def test_a_gain_on_volatile_codes_that_stable_ones_pay_for_shows_by_quartile(rng):
    cv = np.linspace(1.2, 0.4, NUM_CODES)  # of random's error: worse on the stable ones
    told = describe(make_sums(rng, (0.6, 0.6 * cv, 0.6 * cv)), make_statistics())
    own = [quartile for quartile in told.quartiles if quartile.by == "cv"]
    assert [quartile.num_codes for quartile in own] == [2, 2, 2, 2]
    differences = [quartile.r2_difference["cv"] for quartile in own]
    assert differences[0] < 0 < differences[3]
    assert own[0].mae_difference["cv"] > 0 > own[3].mae_difference["cv"]
    # Within-subject CV runs the other way here, and so do its quartiles.
    other = [q.r2_difference["cv"] for q in told.quartiles if q.by == "within_subject_cv"]
    np.testing.assert_allclose(other, differences[::-1])
    assert own[1].r2_difference["random"] == 0
    assert len(own[0].r2_difference_runs["cv"]) == 2
    assert np.mean(own[0].r2_difference_runs["cv"]) == pytest.approx(differences[0])


def test_codes_whose_mean_says_nothing_have_no_quartile(sums):
    clip_low = np.ones(NUM_CODES)
    clip_low[7] = -5.0  # on both sides of zero
    minimum = clip_low
    told = describe(sums, make_statistics(clip_low=clip_low, minimum=minimum))
    assert told.num_unranked == 1
    assert sum(q.num_codes for q in told.quartiles if q.by == "cv") == 7
    assert max(q.highest for q in told.quartiles if q.by == "cv") < 2


def test_fewer_codes_than_quarters_have_none(sums):
    cv = np.full(NUM_CODES, np.inf)
    cv[:3] = 0.1, 0.2, 0.3
    told = describe(sums, make_statistics(mean=np.where(np.isfinite(cv), 100.0, 0.0)))
    assert [q for q in told.quartiles if q.by == "cv"] == []


def test_measures_of_volatility_are_correlated_over_counted_codes_with_a_finite_one(sums):
    counted = np.ones(NUM_CODES, bool)
    counted[0] = False
    told = describe(sums, make_statistics(), counted_C=counted)
    row = next(r for r in told.correlations if (r.measure, r.model) == ("CV", "cv"))
    statistics, r2 = make_statistics(), totals(sums, MODELS).r2_CK[1:, 1]
    assert row.num_codes == 7
    assert row.pearson == pytest.approx(stats.pearsonr(statistics.cv[1:], r2).statistic)
    spearman = stats.spearmanr(statistics.cv[1:], r2)
    assert row.spearman == pytest.approx(spearman.statistic)
    assert {r.measure for r in told.correlations} == {
        "CV",
        "CV without clipping",
        "robust CV",
        "within-subject CV",
    }
    opposite = next(r for r in told.correlations if r.measure == "within-subject CV")
    assert opposite.spearman == pytest.approx(
        -next(r.spearman for r in told.correlations if r.measure == "CV")
    )


def test_the_papers_pair_counts_wins_without_ties_and_names_both_ends(rng):
    scale = np.array([1.0, 1.0, 0.5, 0.6, 0.7, 0.8, 1.5, 2.0])
    told = describe(make_sums(rng, (0.6, 0.6 * scale, 0.6 * scale)), make_statistics())
    (pair,) = told.pairs  # there is no model of variance
    assert (pair.first, pair.second) == ("cv", "random")
    assert (pair.wins, pair.losses, pair.ties) == (4, 2, 2)
    assert pair.win_rate == pytest.approx(4 / 6)
    assert pair.published_win_rate == 0.71
    assert [row.code for row in pair.top] == [f"LAB//{code}//mg/dL" for code in (2, 3, 4, 5)]
    assert [row.code for row in pair.bottom] == [f"LAB//{code}//mg/dL" for code in (7, 6)]
    assert pair.top[0].difference == pytest.approx(pair.top[0].r2_first - pair.top[0].r2_second)
