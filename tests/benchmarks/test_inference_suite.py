"""The suite `inference`, tiny: samples are of whole subjects, and every part gives its figures."""

import numpy as np
import pytest

from benchmarks.inference.coverage import Sizes
from benchmarks.inference.population import baseline_sums, draw_subjects
from benchmarks.inference.suite import PARTS, run_inference
from benchmarks.settings import BenchmarkConfig
from cvmae.evaluate.reconstruction import scores

TINY = Sizes(samples=20, num_subjects=(15,), num_seeds=(3,), resamples=40)
NAMES = {
    "subjects": {
        f"subjects: coverage, R2 {kind} of linear interpolation, 15 subjects"
        for kind in ("pooled", "macro")
    },
    "seeds": {
        f"seeds: {what}, {of}{gap}, 3 seeds x 15 subjects"
        for gap in ("0", "0.02", "0.06")
        for what, of in (("coverage", "difference of "), ("called a difference", ""))
    },
}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_gives_its_figures(part, folder, small_hospital, monkeypatch):
    monkeypatch.delenv("CVMAE_REAL_DATA", raising=False)
    config = BenchmarkConfig(suite="inference", root=str(folder), num_rows=40_000, only=(part,))
    subjects, *rows = run_inference(config, TINY)
    assert subjects.value > 0
    assert {row.name for row in rows} == NAMES[part]
    assert all(0 <= row.value <= 1 for row in rows)
    # With 20 samples an interval that covers 95% holds 14 or more but in 1 of 30,000 suites.
    assert all(row.value >= 0.7 for row in rows if "coverage" in row.name)


def test_a_sample_is_of_whole_subjects_each_as_often_as_it_was_drawn(folder, small_hospital):
    population = baseline_sums(small_hospital, folder)
    everybody = draw_subjects(population, np.arange(population.num_subjects))
    np.testing.assert_array_equal(everybody.error_RK, population.error_RK)
    twice = draw_subjects(population, np.array([1, 1, 4]))
    own = [population.error_RK[population.subject_R == subject].sum(axis=0) for subject in (1, 4)]
    assert twice.num_subjects == 3
    np.testing.assert_allclose(twice.error_RK.sum(axis=0), 2 * own[0] + own[1])
    once = draw_subjects(population, np.array([1]))
    np.testing.assert_array_equal(
        scores(draw_subjects(population, np.array([1, 1])), min_scored=1).r2_CK,
        scores(once, min_scored=1).r2_CK,
    )
