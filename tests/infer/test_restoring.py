"""Rows that are asked for, restored as the evaluation restores what it hides."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from cvmae.batches.cells import make_cell
from cvmae.batches.columns import has_twin, uniform_column
from cvmae.batches.evaluation import column_batches
from cvmae.config import override
from cvmae.evaluate.models import predict
from cvmae.infer.asked import Asked
from cvmae.infer.frames import read_measurements
from cvmae.infer.placing import is_measured, place
from cvmae.infer.restoring import refuse_imputing, restore
from cvmae.meds.dataset import open_dataset
from cvmae.meds.reading import read_unit
from cvmae.meds.units import plan_units
from tests.infer.rows import HOUR, asking, measured


def expected_of(model, rows, asked):
    """What a model expects of rows, from all around them."""
    return restore(model, rows, asked, "", past_only=False)


@pytest.fixture(scope="module")
def unit(hospital, loaded):
    """Measurements of several subjects, none of which has a twin."""
    dataset = open_dataset(hospital)
    (whole,) = plan_units(dataset, 10**9)
    rows, _ = read_unit(dataset, whole, loaded.fitted.statistics.lookup, "train")
    assert not has_twin(rows).any()
    return rows


@pytest.mark.parametrize("encoder_input", ["visible_only", "masked_value"])
def test_values_are_those_that_the_evaluation_restores(unit, model_of, hospital, encoder_input):
    model = model_of(hospital, **{"model.encoder_input": encoder_input})
    statistics, length = model.fitted.statistics, model.config.data.sequence_length
    asked, expected = [], []
    for batch in column_batches(
        unit, statistics, uniform_column(0.25), sequence_length=length, seed=7
    ):
        hidden = batch.batch.hidden_M.numpy()
        lengths = batch.batch.num_visible_B + batch.batch.num_hidden_B
        asked.append(
            Asked(
                subject_id_L=np.repeat(batch.subject_id_B, lengths)[hidden],
                time_us_L=batch.time_us_N[hidden],
                code_L=batch.code_index_N[hidden].astype(np.int64),
            )
        )
        expected.append(predict(batch, loaded=model, reference=statistics, device="cpu"))
    names = ("subject_id_L", "time_us_L", "code_L")
    whole = Asked(**{n: np.concatenate([getattr(a, n) for a in asked]) for n in names})
    assert np.diff(unit.offsets_S).max() > 2 * length  # several windows of a subject
    order = np.random.default_rng(0).permutation(whole.num_rows)
    found = expected_of(model, unit, whole.take(order))
    # Batches are cut elsewhere, which sums in another order.
    np.testing.assert_allclose(found, np.concatenate(expected)[order], atol=2e-5)
    assert found.std() > 0.01


def test_what_was_measured_and_is_asked_for_is_not_seen(unit, loaded):
    asked = asking((int(unit.subject_id_S[0]), 0, int(unit.code_index_N[3])))
    asked = replace(asked, time_us_L=unit.time_us_N[3:4])
    changed = unit.numeric_value_N.copy()
    changed[3] *= 3
    other = replace(unit, numeric_value_N=changed)
    assert is_measured(unit, asked).tolist() == [True]
    assert expected_of(loaded, unit, asked) == expected_of(loaded, other, asked)
    changed[4] *= 3
    assert expected_of(loaded, unit, asked) != expected_of(loaded, other, asked)


def test_what_else_is_asked_for_changes_nothing(unit, loaded):
    """A whole grid of codes and hours shows the encoder no less than one row does.

    It begins before the first measurement and ends long after the last one.
    """
    subject, begin = int(unit.subject_id_S[0]), int(unit.time_us_N[0]) // HOUR + 1
    hours = [-1_000_000, *range(-5, 60), 1_000_000]
    grid = asking(*((subject, begin + h, c) for h in hours for c in range(8)))
    grid = grid.take(~is_measured(unit, grid))
    together = expected_of(loaded, unit, grid)
    chosen = np.arange(0, grid.num_rows, 29)
    alone = [expected_of(loaded, unit, grid.take(np.array([row])))[0] for row in chosen]
    np.testing.assert_allclose(together[chosen], alone, atol=2e-5)


def test_a_window_is_seen_as_in_training_whatever_is_asked_for_before_it(loaded):
    """Hours count from its first measurement; only a row before that one is where they begin."""
    rows = measured(*((1, hour, hour % 3, 1.0 + hour) for hour in (0, 1, 2, 4)))
    asked = asking((1, 3, 1), (1, 0, 0), (1, -1, 1), (1, -613_000, 1))
    together = expected_of(loaded, rows, asked)
    hidden = asked.take(np.array([1]))  # which is not seen, and yet is what hours count from
    for row in (0, 2, 3):
        pair = expected_of(
            loaded, rows, asking((1, 0, 0), (1, int(asked.time_us_L[row]) // HOUR, 1))
        )
        np.testing.assert_allclose(together[[1, row]], pair, atol=2e-5)
    np.testing.assert_allclose(together[1], expected_of(loaded, rows, hidden), atol=2e-5)
    # As if the row had been measured, and hidden.
    other = measured((1, -1, 1, 9.0), *((1, h, h % 3, 1.0 + h) for h in (0, 1, 2, 4)))
    expected = expected_of(loaded, other, asking((1, -1, 1), (1, 0, 0)))
    np.testing.assert_allclose(together[2], expected[0], atol=2e-5)


def test_no_more_than_a_window_is_put_beside_a_window(unit, loaded, monkeypatch):
    """However much is asked for at one time or at many, also beside what was measured."""
    length, lengths = loaded.config.data.sequence_length, []

    def spied(rows, windows, *others):
        lengths.extend(windows.length_W.tolist())
        return make_cell(rows, windows, *others)

    monkeypatch.setattr("cvmae.infer.restoring.make_cell", spied)
    subject, begin = int(unit.subject_id_S[0]), int(unit.time_us_N[0]) // HOUR + 1
    hours = [*[-3] * 20, *range(300)]
    grid = asking(*((subject, begin + h, c) for h in hours for c in range(8)))
    own = Asked(
        subject_id_L=np.full(3, subject),
        time_us_L=unit.time_us_N[3:6],
        code_L=unit.code_index_N[3:6].astype(np.int64),
    )
    names = ("subject_id_L", "time_us_L", "code_L")
    whole = Asked(**{n: np.concatenate([getattr(grid, n), getattr(own, n)]) for n in names})
    together = expected_of(loaded, unit, whole)
    assert max(lengths) <= 2 * length
    few = [whole.take(np.append(row, np.arange(-3, 0))) for row in range(0, grid.num_rows, 97)]
    alone = np.stack([expected_of(loaded, unit, one) for one in few])
    np.testing.assert_allclose(alone[:, 0], together[0:-3:97], atol=2e-5)
    np.testing.assert_allclose(alone[:, 1:], np.tile(together[-3:], (len(few), 1)), atol=2e-5)


def passes_of(placed):
    """The hours of each pass, those that it restores, and which rows these are."""
    (passes,) = placed.in_batches(10**6)
    row_N = np.full(len(passes.hidden_N), -1)
    row_N[passes.hidden_N] = passes.row_M
    hours = passes.rows.time_us_N // HOUR
    ends = np.cumsum(passes.windows.length_W)[:-1]
    parts = list(zip(np.split(hours, ends), np.split(row_N >= 0, ends), strict=True))
    restored = [own[chosen].tolist() for own, chosen in parts]
    return [own.tolist() for own, _ in parts], restored, row_N[row_N >= 0]


def test_rows_come_into_the_window_that_is_nearest_in_time():
    rows = measured(*((1, hour, 0, 1.0) for hour in (0, 1, 2, 3, 100, 101, 102, 103)))
    rows_asked = asking(
        (1, -50, 1), (1, 1, 1), (1, 2, 0), (1, 40, 1), (1, 60, 1), (1, 999, 1), (2, 5, 1)
    )
    placed = place(rows, rows_asked, 4)
    hours, restored, rows_restored = passes_of(placed)
    # What is from before a window comes into a pass of its own, of each time.
    assert hours == [
        [0, 1, 1, 2, 3, 40],
        [-50, 0, 1, 2, 3],
        [100, 101, 102, 103, 999],
        [60, 100, 101, 102, 103],
    ]
    # What was measured is restored where hours count from the first measurement.
    assert restored == [[1, 2, 40], [-50], [999], [60]]
    assert placed.row_L[-1] == -1
    assert sorted(rows_restored) == sorted(placed.row_L[:-1])
    assert placed.time_us_R[placed.row_L[:-1]].tolist() == rows_asked.time_us_L[:-1].tolist()


def test_rows_of_one_earlier_time_share_a_pass_and_measured_ones_need_none_beside_them():
    rows = measured(*((1, hour, 0, 1.0) for hour in (0, 1, 2)))
    early = asking(*((1, hour, code) for hour in (-9, -8) for code in range(5)))
    placed = place(rows, early, 4)
    assert placed.num_beside_P.tolist() == [4, 1, 4, 1]
    hours, restored, _ = passes_of(place(rows, asking((1, 1, 0), (1, -9, 1)), 4))
    assert hours == [[0, 1, 2], [-9, 0, 1, 2]]
    assert restored == [[1], [-9]]


def test_a_window_of_which_nothing_may_be_seen_is_passed_over():
    rows = measured(*((1, hour, 0, 1.0) for hour in range(8)), (2, 0, 0, 1.0))
    whole = asking(*((1, hour, 0) for hour in range(4)), (2, 0, 0), (2, 0, 1))
    placed = place(rows, whole, 4)
    # Of subject 1 the second window; subject 2 has nothing but what is asked for.
    hours, restored, _ = passes_of(placed)
    assert hours == [[hour, 4, 5, 6, 7] for hour in range(4)]
    assert restored == [[hour] for hour in range(4)]
    assert (placed.row_L >= 0).tolist() == [True] * 4 + [False] * 2


def test_a_single_measurement_is_enough_and_twins_are_hidden_together(loaded):
    rows = measured((1, 0, 0, 1.0), (2, 0, 0, 5.0), (2, 0, 0, 7.0), (2, 1, 1, 1.0))
    found = expected_of(loaded, rows, asking((1, 3, 1), (2, 0, 0), (3, 0, 0)))
    assert np.isfinite(found).tolist() == [True, True, False]
    other = measured((1, 0, 0, 1.0), (2, 0, 0, 5.0), (2, 0, 0, 99.0), (2, 1, 1, 1.0))
    assert found[1] == expected_of(loaded, other, asking((2, 0, 0)))[0]


def test_models_that_cannot_be_asked_are_refused(loaded, model_of, hospital):
    whole = model_of(hospital, **{"mask.target": "measurement"})
    with pytest.raises(ValueError, match=r"trained with mask\.target=measurement"):
        refuse_imputing(whole)
    tuned = replace(loaded, config=override(loaded.config, {"finetune.checkpoint": "runs/x"}))
    with pytest.raises(ValueError, match="was fine-tuned"):
        refuse_imputing(tuned)


def test_measurements_of_a_frame_do(loaded):
    codes = loaded.fitted.statistics.codes
    table = pa.table(
        {
            "subject_id": [5, 5],
            "time": pa.array([0, HOUR], pa.timestamp("us")),
            "code": [codes[0], codes[1]],
            "numeric_value": [1.0, 2.0],
        }
    )
    rows = read_measurements(table, loaded.fitted.statistics)
    assert np.isfinite(expected_of(loaded, rows, asking((5, 0, 1)))).all()
