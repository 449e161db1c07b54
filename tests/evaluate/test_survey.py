"""A look at the data: targets within the limit, and codes that are copies of each other."""

from dataclasses import replace

import numpy as np
import pytest

from cvmae.batches.columns import choose_targets
from cvmae.evaluate.survey import (
    LEAST_SUBJECTS,
    Survey,
    draw_limit,
    merge_surveys,
    near_copies,
    shared_times,
)
from cvmae.meds.dataset import open_dataset
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_unit
from cvmae.meds.units import plan_units
from tests.prepared import fit

PT, INR, OPPOSITE, ELSEWHERE, NOISE = range(5)
CODES = ["PT", "INR", "opposite", "elsewhere", "noise"]


def clotting(rng, num_subjects=40, times=10, first_subject=0):
    """PT and INR in one rank, a code that runs opposite, PT once more an hour later, and noise."""
    pt = 12 + 3 * rng.gamma(2.0, size=(num_subjects, times))
    columns = [pt, 0.09 * pt**1.1, -pt, pt, rng.normal(size=pt.shape)]
    time = 24 * np.arange(times)[:, None] + np.array([0, 0, 0, 1, 0])
    order = np.argsort(time.ravel(), kind="stable")
    value = np.stack(columns, axis=2).reshape(num_subjects, -1)[:, order]
    code = np.tile(np.arange(5), times)[order]
    return Measurements(
        subject_id_S=first_subject + np.arange(num_subjects),
        offsets_S=5 * times * np.arange(num_subjects + 1),
        code_index_N=np.tile(code, num_subjects).astype(np.int32),
        time_us_N=np.tile(np.sort(time.ravel(), kind="stable") * 3_600_000_000, num_subjects),
        numeric_value_N=value.ravel().astype(np.float32),
    )


def look(measurements, seed=1):
    draw_T = choose_targets(measurements, seed=seed).draw_T
    return shared_times(measurements, draw_T, seed)


def test_codes_that_agree_in_rank_at_the_same_times_are_near_copies(rng):
    found = near_copies(look(clotting(rng)), CODES)
    assert {(pair.first, pair.second) for pair in found.pairs} == {
        ("PT", "INR"),
        ("PT", "opposite"),
        ("INR", "opposite"),
    }
    signs = {(p.first, p.second): round(p.spearman) for p in found.pairs}
    assert signs == {("PT", "INR"): 1, ("PT", "opposite"): -1, ("INR", "opposite"): -1}
    assert {(pair.num_times, pair.num_subjects) for pair in found.pairs} == {(400, 40)}
    assert found.num_judged == 6  # `elsewhere` shares no time with the others


def test_a_pair_of_few_subjects_is_not_judged(rng):
    few = clotting(rng, num_subjects=LEAST_SUBJECTS - 1, times=50)
    assert near_copies(look(few), CODES).num_judged == 0
    enough = clotting(rng, num_subjects=LEAST_SUBJECTS, times=50)
    assert near_copies(look(enough), CODES).num_judged == 6


def test_a_pair_of_few_times_is_not_judged(rng):
    assert near_copies(look(clotting(rng, times=2)), CODES).num_judged == 0


def test_units_together_show_what_they_show_as_one(rng):
    whole = clotting(rng, num_subjects=30)
    first = 50  # rows: a unit of one subject, so that both begin with the same number
    parts = [
        Measurements(
            subject_id_S=whole.subject_id_S[subjects],
            offsets_S=offsets,
            code_index_N=whole.code_index_N[rows],
            time_us_N=whole.time_us_N[rows],
            numeric_value_N=whole.numeric_value_N[rows],
        )
        for subjects, rows, offsets in (
            (slice(None, 1), slice(None, first), whole.offsets_S[:2]),
            (slice(1, None), slice(first, None), whole.offsets_S[:-1]),
        )
    ]
    one, merged = look(whole), merge_surveys(look(part) for part in parts)
    assert near_copies(merged, CODES) == near_copies(one, CODES)
    np.testing.assert_array_equal(np.sort(merged.draw_T), np.sort(one.draw_T))


def test_twins_enter_no_pair(rng):
    m = clotting(rng)
    m.code_index_N[m.code_index_N == INR] = PT  # PT twice at each time
    found = near_copies(look(m), CODES)
    assert {pair.first for pair in found.pairs} == set()


@pytest.mark.parametrize("most", [0, 1, 7, 149])
def test_a_limit_lets_exactly_so_many_targets_through(rng, most):
    targets = choose_targets(clotting(rng, num_subjects=30), seed=4)
    parts = [np.sort(d)[: most + 1] for d in np.array_split(targets.draw_T, 4)]
    survey = merge_surveys(unit_of(part) for part in parts)
    assert len(targets.index_T) == 150
    assert len(targets.below(draw_limit(survey, most))) == most


def test_where_there_are_no_more_targets_all_are_taken(rng):
    targets = choose_targets(clotting(rng, num_subjects=30), seed=4)
    assert draw_limit(unit_of(targets.draw_T), 150) == 1.0


def test_data_without_a_unit_are_refused():
    with pytest.raises(ValueError, match="has no unit"):
        merge_surveys([])


def unit_of(draw_T):
    none = np.zeros(0, np.int64)
    return Survey(
        draw_T=draw_T,
        draw_D=np.zeros(0),
        subject_D=none,
        time_E=none,
        code_E=none,
        numeric_value_E=np.zeros(0, np.float32),
    )


@pytest.mark.real
def test_inr_and_pt_are_found_in_real_data(real_data, tiny):
    root = str(real_data / "mimic4_demo_labs")
    config = replace(tiny, data=replace(tiny.data, root=root, num_codes=100, min_count=25))
    dataset, statistics = open_dataset(root), fit(config).statistics
    parts = [
        look(read_unit(dataset.source, unit, statistics.lookup, "train")[0])
        for unit in plan_units(dataset, 250_000)
    ]
    found = near_copies(merge_surveys(parts), statistics.codes)
    inr_and_pt = {"51237", "51274"}
    ids = [{code.split("//")[-2] for code in (pair.first, pair.second)} for pair in found.pairs]
    assert inr_and_pt in ids
    assert found.num_judged > 500
