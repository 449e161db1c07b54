"""Rows that are asked for: each once and in order, and those of some subjects among them."""

import numpy as np

from cvmae.infer.asked import Asked
from cvmae.meds.splits import is_among
from tests.infer.rows import asking


def rows_of(asked):
    return list(zip(asked.subject_id_L, asked.time_us_L, asked.code_L, strict=True))


def many(rng):
    shape = rng.integers([-6, -3, 0], [7, 4, 3], size=(500, 3))
    return Asked(subject_id_L=shape[:, 0], time_us_L=shape[:, 1], code_L=shape[:, 2])


def test_each_row_comes_once_and_in_order(rng):
    asked = many(rng)
    assert rows_of(asked.in_order()) == sorted(set(rows_of(asked)))
    assert asked.take(np.empty(0, int)).in_order().num_rows == 0


def test_rows_of_some_subjects_are_found_among_all(rng):
    asked = many(rng).in_order()
    for size in (0, 1, 5):
        subject_S = np.sort(rng.choice(np.arange(-9, 10), size, replace=False))
        expected = asked.take(is_among(subject_S, asked.subject_id_L))
        assert rows_of(asked.of_subjects(subject_S)) == rows_of(expected)
    assert asking((3, 1, 1), (7, 1, 1)).of_subjects(np.array([5])).num_rows == 0
