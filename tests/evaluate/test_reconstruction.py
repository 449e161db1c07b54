from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import r2_score

from cvmae.batches.batch import make_batch
from cvmae.batches.evaluation import EvaluationBatch
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.reconstruction import Sums, add_batches, average_runs, merge, scores
from tests.evaluate.made_sums import sums_of

NUM_CODES = 4


def make_evaluation_batch(rng, subjects, *, length=30, first_subject=1000, twins=0.0):
    """Sequences of one length whose standardised values differ by code in mean and spread."""
    total = length * len(subjects)
    code = rng.integers(0, NUM_CODES, total).astype(np.int32)
    value = (rng.normal(size=total) * (1 + code) + 0.3 * code).astype(np.float32)
    minutes = np.tile(np.arange(length) * 60, len(subjects))
    hidden = rng.random(total) < 0.3
    return EvaluationBatch(
        batch=make_batch(
            lengths_B=np.full(len(subjects), length),
            code_index_N=code,
            minutes_N=minutes,
            value_N=value,
            hidden_N=hidden,
        ),
        subject_id_B=first_subject + np.array(subjects),
        code_index_N=code,
        numeric_value_N=value,
        time_us_N=minutes.astype(np.int64) * 60_000_000,
        scored_M=rng.random(int(hidden.sum())) >= twins,
    )


def hidden_of(batch):
    place = batch.batch.hidden_M.numpy()
    return batch.code_index_N[place], batch.batch.value_N.numpy()[place].astype(np.float64)


def predict_half(batch):
    return 0.5 * hidden_of(batch)[1]


def predict_truth(batch):
    return hidden_of(batch)[1]


def predict_constant(batch):
    return np.full(len(batch.scored_M), 0.25)


def assert_same_sums(one, other):
    assert one.subject_id_S is other.subject_id_S is None
    for name, value in vars(one).items():
        if value is None:
            continue
        np.testing.assert_allclose(value, getattr(other, name), rtol=1e-12, err_msg=name)


def test_classical_r2_of_every_code_equals_scikit_learns(rng):
    batch = make_evaluation_batch(rng, range(20))
    found = scores(add_batches([batch], [predict_half, predict_constant], NUM_CODES), min_scored=2)
    code, target = hidden_of(batch)
    for index in range(NUM_CODES):
        own = target[code == index]
        # Sums of squares about 0 lose a digit or two against a two-pass sum.
        assert found.classical_CK[index, 0] == pytest.approx(r2_score(own, 0.5 * own), abs=1e-9)
        assert found.classical_CK[index, 1] == pytest.approx(
            r2_score(own, np.full(len(own), 0.25)), abs=1e-9
        )
        # About the mean on train, which is 0: half of each value is missed.
        assert found.r2_CK[index, 0] == pytest.approx(0.75)
        assert found.mean_absolute_error_CK[index, 0] == pytest.approx(np.abs(0.5 * own).mean())
    spread = sum(((target[code == c] - target[code == c].mean()) ** 2).sum() for c in range(4))
    missed = 1 - ((0.5 * target) ** 2).sum() / spread
    assert found.classical_pooled_K[0] == pytest.approx(missed, abs=1e-9)


def test_the_code_mean_scores_exactly_0_pooled_macro_and_for_every_code(rng):
    batches = [make_evaluation_batch(rng, [first, first + 1]) for first in range(0, 80, 2)]
    sums = merge(add_batches([batch], [predict_half], NUM_CODES) for batch in batches)
    averaged, names = average_runs(sums, ["cv", *BASELINES])
    mean = names.index("code mean")
    found = scores(averaged, min_scored=2)
    assert (found.pooled_K[mean], found.macro_K[mean], found.median_K[mean]) == (0, 0, 0)
    assert found.r2_CK[:, mean].tolist() == [0] * NUM_CODES
    assert found.classical_pooled_K[mean] < 0  # it knows nothing of the scored values' own mean


def test_a_perfect_prediction_has_an_r2_of_one_pooled_and_per_code(rng):
    batch = make_evaluation_batch(rng, range(5))
    found = scores(add_batches([batch], [predict_truth], NUM_CODES), min_scored=2)
    assert found.pooled_K[0] == 1.0
    np.testing.assert_array_equal(found.r2_CK[:, 0], 1.0)


def test_a_hidden_value_with_a_twin_is_counted_and_not_scored(rng):
    batch = make_evaluation_batch(rng, range(20), twins=0.2)
    sums = add_batches([batch], [predict_half], NUM_CODES)
    num_twins = int((~batch.scored_M).sum())
    assert num_twins > 0
    assert sums.num_twins == num_twins
    assert sums.count_R.sum() == sums.num_hidden - num_twins
    code, target = hidden_of(batch)
    left = batch.scored_M & (code == 0)
    found = scores(sums, min_scored=2)
    expected = r2_score(target[left], 0.5 * target[left])
    assert found.classical_CK[0, 0] == pytest.approx(expected, abs=1e-9)


def test_a_subject_that_spans_batches_is_summed_once(rng):
    batches = [make_evaluation_batch(rng, [0, 1]), make_evaluation_batch(rng, [1, 2])]
    sums = add_batches(batches, [predict_half], NUM_CODES)
    assert sums.num_subjects == 3
    assert sums.num_sequences == 4
    pairs = sums.subject_R * NUM_CODES + sums.code_R
    assert len(np.unique(pairs)) == len(pairs)


def test_units_merge_to_the_sums_of_all_their_batches(rng):
    first, second = make_evaluation_batch(rng, [0, 1]), make_evaluation_batch(rng, [2, 3])
    together = merge([add_batches([first, second], [predict_half], NUM_CODES)])
    apart = merge(add_batches([batch], [predict_half], NUM_CODES) for batch in (first, second))
    assert_same_sums(apart, together)


def test_subjects_are_numbered_by_their_id_whatever_unit_they_came_in(rng):
    batches = [make_evaluation_batch(rng, [subject]) for subject in range(6)]
    whole = merge([add_batches(batches, [predict_half], NUM_CODES)])
    for cut in [[4, 1, 5], [2], [0, 3]], [[5], [0, 3], [1, 2, 4]], [[3, 4, 5], [0, 1, 2]]:
        units = [[batches[subject] for subject in unit] for unit in cut]
        sums = merge(add_batches(unit, [predict_half], NUM_CODES) for unit in units)
        assert sums.subject_R.tolist() == whole.subject_R.tolist()
        assert sums.error_RK.tolist() == whole.error_RK.tolist()


def test_sums_name_no_subject(rng):
    batch = make_evaluation_batch(rng, range(3), first_subject=77_000_000)
    unit = add_batches([batch], [predict_half], NUM_CODES)
    sums = merge([unit])
    assert sums.subject_id_S is None
    assert max(np.max(value) for value in vars(sums).values() if value is not None) < 77_000_000
    assert "7700000" not in repr(unit)  # a unit's know them, to be numbered by, and never show them


def test_seeds_of_a_name_enter_by_the_mean_of_their_r2(rng):
    batch = make_evaluation_batch(rng, range(10))
    sums = add_batches([batch], [predict_half, predict_constant, predict_truth], NUM_CODES)
    averaged, names = average_runs(sums, ["cv", "random", "cv", *BASELINES])
    assert names == ("cv", "random", *BASELINES)
    one, mean = scores(sums, min_scored=2), scores(averaged, min_scored=2)
    np.testing.assert_allclose(mean.r2_CK[:, 0], one.r2_CK[:, [0, 2]].mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(mean.r2_CK[:, 1:], one.r2_CK[:, [1, 3, 4, 5]], rtol=1e-12)


def test_a_rare_code_enters_pooled_but_not_macro(rng):
    batch = make_evaluation_batch(rng, range(40))
    sums = add_batches([batch], [predict_half], NUM_CODES)
    counts = scores(sums, min_scored=2).count_C
    found = scores(sums, min_scored=int(counts.max()))
    assert found.counted_C.sum() == (counts == counts.max()).sum() < NUM_CODES
    assert found.pooled_K[0] == scores(sums, min_scored=2).pooled_K[0]
    assert found.macro_K[0] == pytest.approx(found.r2_CK[found.counted_C, 0].mean())
    rare = f"fewer than {counts.max()} scored values"
    assert sorted(set(found.left_out_C)) == ["", rare]


def test_codes_of_few_subjects_or_without_a_spread_are_left_out_and_say_why(rng):
    batches = [make_evaluation_batch(rng, range(first, first + 10)) for first in range(0, 40, 10)]
    sums = merge(add_batches([batch], [predict_half], NUM_CODES) for batch in batches)
    few_R = (sums.code_R == 0) & (sums.subject_R >= 29)
    flat_R = sums.code_R == 1
    changed = {
        "subject_R": np.where(few_R, 28, sums.subject_R),  # as if one subject had them all
        "square_R": np.where(flat_R, 9 * sums.count_R, sums.square_R),
        "sum_R": np.where(flat_R, 3 * sums.count_R, sums.sum_R),
    }
    pairs = {**vars(sums), **changed}
    keep = ~few_R
    for name in ("subject_R", "code_R", "count_R", "sum_R", "square_R", "error_RK"):
        pairs[name] = pairs[name][keep]
    found = scores(Sums(**pairs), min_scored=2)
    assert found.left_out_C == (
        "fewer than 30 subjects",
        "less than 0.1 train deviations of spread",
        "",
        "",
    )
    np.testing.assert_allclose(found.macro_K, found.r2_CK[2:].mean(axis=0))
    assert np.isfinite(found.r2_CK[1, 0])  # it is still scored


def test_one_lab_that_is_far_off_does_not_decide_the_median(rng):
    square = np.ones((40, 5))
    error = np.full((40, 5, 1), 0.4)
    error[:, 2] = 43.0  # a lab at R2 -42
    sums = replace(sums_of(square, error), count_R=np.full(200, 10.0))
    found = scores(sums, min_scored=2)
    assert found.median_K[0] == pytest.approx(0.6)
    assert found.macro_K[0] == pytest.approx(0.8 * 0.6 - 42 / 5)


def test_a_unit_without_a_subject_of_the_split_adds_nothing(rng):
    empty = add_batches([], [predict_half], NUM_CODES)
    some = add_batches([make_evaluation_batch(rng, range(3))], [predict_half], NUM_CODES)
    assert_same_sums(merge([empty, some, empty]), merge([some]))
