"""Nothing of fewer than 20 subjects follows from what is shown."""

import numpy as np
import pytest

from cvmae.evaluate.downstream.candidates import Candidate
from cvmae.evaluate.downstream.probes import Probe
from cvmae.evaluate.downstream.scored import Outcomes, score_labels
from cvmae.evaluate.downstream.subgroups import subgroups
from cvmae.evaluate.small_cells import SMALLEST_CELL, hidden


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([30, 40, 50], []),
        ([7, 57, 56], [0, 2]),  # the total less the others would tell the 7
        ([7, 8, 57, 90], [0, 1, 2]),  # 15 together
        ([12, 9, 57], [0, 1]),  # 21 together, and neither by itself
        ([19], [0]),
        ([3, 4], [0, 1]),
    ],
)
def test_what_would_tell_a_small_count_by_subtraction_is_hidden(counts, expected):
    assert np.flatnonzero(hidden(np.array(counts)[:, None])).tolist() == expected


def test_every_count_of_what_is_hidden_is_large_together():
    rng = np.random.default_rng(5)
    for _ in range(200):
        count_GK = rng.integers(0, 60, (rng.integers(2, 7), 2))
        hidden_G = hidden(count_GK)
        assert hidden_G[(count_GK < SMALLEST_CELL).any(axis=1)].all()
        if hidden_G.any() and not hidden_G.all():
            assert hidden_G.sum() > 1
            assert (count_GK[hidden_G].sum(axis=0) >= SMALLEST_CELL).all()


def rows_of(sizes, positives, kind="WARD", *, labels_each=1, named=True):
    """The rows of groups, given subjects and positive ones of each."""
    level_S = np.repeat([f"name {place}" for place in range(len(sizes))], sizes).astype(object)
    positive_S = np.concatenate(
        [np.arange(size) < own for size, own in zip(sizes, positives, strict=True)]
    )
    level_L = np.repeat(level_S, labels_each)
    outcome_L = np.repeat(positive_S, labels_each).astype(np.float64)
    rng = np.random.default_rng(2)
    probe = Probe(
        learner="logistic regression",
        strength=1.0,
        tuning_loss=0.5,
        predicted_L=rng.random(len(outcome_L)),
    )
    candidate = Candidate(
        method="cv", kind="model", features="mean", learner="logistic regression", probes=[probe]
    )
    subject_L = np.repeat(np.arange(len(level_S)), labels_each)
    outcomes = Outcomes(outcome_L=outcome_L, subject_id_L=subject_L, boolean=True)
    every_L = np.ones(len(outcome_L), np.bool_)
    scored = score_labels([candidate], outcomes, every_L, undefined="", samples=20, seed=0)
    if not named:
        level_L[:] = "not recorded"
    return subgroups(scored, {kind: level_L}, samples=20, seed=0)


def test_a_small_group_has_neither_name_nor_number():
    rows = rows_of([7, 100, 90, 3], [3, 40, 45, 1])
    assert [row.level for row in rows] == [
        "name 1",
        "name 2",
        "2 levels of fewer than 20 subjects",
    ]
    assert [row.num_subjects for row in rows] == [100, None, None]
    assert [row.num_labels for row in rows] == [100, None, None]
    assert [row.num_positives for row in rows] == [40, None, None]
    assert np.isfinite(rows[1].scores["cv"].value)


def test_positives_that_are_few_cannot_be_had_by_subtraction():
    rows = rows_of([100, 100, 100], [5, 30, 45], labels_each=2)
    assert [row.num_labels for row in rows] == [200, 200, 200]
    assert [row.num_positives for row in rows] == [None, None, 90]
    # An area of few positives is one of few values, from which their number follows.
    assert "fewer than 20 subjects are positive" in rows[0].scores["cv"].undefined
    assert not rows[1].scores["cv"].undefined
    assert [row.num_positives for row in rows_of([100, 100], [95, 50])] == [None, None]


def test_scores_do_not_tell_counts_by_their_digits():
    for row in rows_of([100, 90, 7], [40, 45, 3])[:2]:
        score = row.scores["cv"]
        for value in (score.value, *score.interval, *score.seeds):
            assert value == round(value, 3)


def test_a_kind_that_few_subjects_have_is_not_named():
    rows = rows_of([50, 60], [25, 30], kind="SURNAME", named=False)
    assert [(row.kind, row.level) for row in rows] == [("kinds of group", "1 of fewer than 20")]
