"""Values restored from what was known at their time, with intervals of the same kind."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cvmae
from cvmae.checkpoint import load_model
from cvmae.config import override
from cvmae.infer.asked import Asked
from cvmae.infer.export import export
from cvmae.infer.hidden import restore_hidden
from cvmae.infer.impute_set import impute
from cvmae.infer.placing import place_after_past
from cvmae.infer.restoring import restore
from cvmae.meds.dataset import open_dataset
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_unit
from cvmae.meds.units import plan_units
from cvmae.statistics.residuals import Residuals
from tests.infer.rows import HOUR, asking, measured, report_of, rows_of


@pytest.fixture(scope="module")
def unit(hospital, loaded):
    """Measurements of several subjects."""
    dataset = open_dataset(hospital)
    (whole,) = plan_units(dataset, 10**9)
    rows, _ = read_unit(dataset, whole, loaded.fitted.statistics.lookup, "train")
    return rows


def expected_of(model, rows, asked):
    return restore(model, rows, asked, "", past_only=True)


def until(rows, subject, time_us, without):
    """A subject's measurements at or before a time, but for some."""
    kept = np.repeat(rows.subject_id_S, np.diff(rows.offsets_S)) == subject
    kept &= (rows.time_us_N <= time_us) & ~without
    return Measurements(
        subject_id_S=np.array([subject]),
        offsets_S=np.array([0, kept.sum()]),
        code_index_N=rows.code_index_N[kept],
        time_us_N=rows.time_us_N[kept],
        numeric_value_N=rows.numeric_value_N[kept],
    )


def test_a_value_is_that_of_a_record_which_ends_at_its_time(unit, loaded):
    """Rows that were measured and rows that were not, over several windows of subjects."""
    rng = np.random.default_rng(1)
    assert np.diff(unit.offsets_S).max() > 2 * loaded.config.data.sequence_length
    hidden = rng.random(len(unit.time_us_N)) < 0.2
    hidden[unit.offsets_S[:-1]] = True
    own = Asked.of(unit).take(hidden)
    other = replace(own, time_us_L=own.time_us_L + HOUR // 3)
    names = ("subject_id_L", "time_us_L", "code_L")
    asked = Asked(**{n: np.concatenate([getattr(own, n), getattr(other, n)]) for n in names})
    found = expected_of(loaded, unit, asked)
    assert 0 < np.isnan(found).sum() < 0.2 * asked.num_rows
    for row in rng.permutation(asked.num_rows)[:40]:
        one = asked.take(np.array([row]))
        record = until(unit, one.subject_id_L[0], one.time_us_L[0], hidden)
        alone = restore(loaded, record, one, "", past_only=True)
        np.testing.assert_allclose(found[row], alone[0], atol=2e-5)
        if len(record.time_us_N) and len(record.time_us_N) <= loaded.config.data.sequence_length:
            # As if the record were whole: of one window, nothing later is there to be seen.
            whole = restore(loaded, record, one, "", past_only=False)
            np.testing.assert_allclose(found[row], whole[0], atol=2e-5)


def test_nothing_later_is_seen_and_what_is_of_the_same_time_is(loaded):
    rows = measured(*((1, hour, hour % 3, 1.0 + hour) for hour in range(6)))
    asked = asking((1, 4, 0), (1, 4, 2))
    first = expected_of(loaded, rows, asked)
    for place, is_seen in ((5, False), (4, True), (0, True)):
        changed = rows.numeric_value_N.copy()
        changed[place] *= 2
        other = expected_of(loaded, replace(rows, numeric_value_N=changed), asked)
        assert ((first != other) == is_seen).all()
    around = restore(loaded, rows, asked, "", past_only=False)
    assert (first != around).all()


def test_rows_before_any_measurement_that_may_be_seen_have_no_value(loaded):
    rows = measured((1, 0, 0, 1.0), (1, 1, 1, 2.0), (2, 5, 0, 1.0))
    asked = asking((1, -1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 5, 1), (3, 5, 1))
    # What is asked for is not seen: of the first hour nothing else is there.
    assert np.isnan(expected_of(loaded, rows, asked)).tolist() == [
        *[True, True, True],
        *[False, False, True],
    ]


def test_a_pass_is_of_one_time_and_of_no_more_rows_than_a_window():
    rows = measured(*((1, hour, 0, 1.0) for hour in range(10)))
    asked = asking(*((1, hour, code) for hour in (9, 3) for code in range(1, 6)), (1, 20, 1))
    placed = place_after_past(rows, asked, 4)
    assert placed.num_beside_P.tolist() == [4, 1, 4, 1, 1]
    assert placed.windows.length_W.tolist() == [4] * 5
    (passes,) = placed.in_batches(10**6)
    hours = np.split(passes.rows.time_us_N // HOUR, np.cumsum(passes.windows.length_W)[:-1])
    assert [own.tolist() for own in hours] == [
        [0, 1, 2, 3, 3, 3, 3, 3],
        [0, 1, 2, 3, 3],
        [6, 7, 8, 9, 9, 9, 9, 9],
        [6, 7, 8, 9, 9],
        [6, 7, 8, 9, 20],
    ]
    assert placed.time_us_R[placed.row_L].tolist() == asked.time_us_L.tolist()
    assert placed.code_R[placed.row_L].tolist() == asked.code_L.tolist()


def test_residuals_are_of_values_restored_in_the_same_way(many):
    model, dataset = load_model(many.output_dir), open_dataset(many.data.root)
    (whole,) = plan_units(dataset, 10**9)
    rows, _ = read_unit(dataset, whole, model.fitted.statistics.lookup, "tuning")
    both = [
        restore_hidden(model, rows, override(many, {"infer.past_only": past_only}))
        for past_only in (True, False)
    ]
    keys = [
        list(zip(own.subject_id_Q, own.time_us_Q, own.code_Q, own.value_Q, strict=True))
        for own in both
    ]
    assert set(keys[0]) < set(keys[1])  # the same are hidden; of some nothing was known before
    assert len(keys[0]) > 0.9 * len(keys[1])
    record = keys[0][500]
    (place,) = [n for n, key in enumerate(keys[1]) if key == record]
    assert both[0].expected_Q[500] != both[1].expected_Q[place]


def test_a_job_says_so_and_a_model_with_residuals_of_the_other_kind_is_measured_anew(
    many, tmp_path, caplog
):
    around, past = (str(tmp_path / name) for name in ("around", "past"))
    given = {"infer.checkpoint": many.output_dir, "infer.level": 0.8}
    export(override(many, given | {"output_dir": around}))
    said = export(override(many, given | {"output_dir": past, "infer.past_only": True}))
    assert "imputes from rows at or before their time only has intervals of 0.8" in said
    assert load_model(past).residuals.past_only
    assert not load_model(around).residuals.past_only
    given |= {"infer.past_only": True}
    for model, source in ((around, "tuning"), (past, "the model")):
        out = str(tmp_path / f"by_{source}")
        printed = impute(override(many, given | {"infer.checkpoint": model, "output_dir": out}))
        assert f"by residuals of {source}" in printed
        assert "Seen were rows at or before their time only" in printed
        assert report_of(out)["past_only"] is True
        assert report_of(out)["held_out"]["coverage"] == pytest.approx(0.8, abs=0.06)
        used = Residuals.read(Path(out, "residuals.parquet"))
        assert np.array_equal(used.low_C, load_model(past).residuals.low_C)
    rows = rows_of(many.data.root)
    own = cvmae.load(past).impute(rows, past_only=True)
    parts = [pq.read_table(p) for p in sorted(Path(out, "imputed").glob("*.parquet"))]
    table = pa.concat_tables([part.replace_schema_metadata(None) for part in parts])
    keys = [(name, "ascending") for name in ("subject_id", "time", "code")]
    for name in ("numeric_value", "interval_high"):
        one, other = own[name], table.sort_by(keys)[name]
        assert 0 < one.null_count == other.null_count
        np.testing.assert_allclose(one.to_numpy(), other.to_numpy(), rtol=1e-4)
    with caplog.at_level(logging.WARNING, logger="cvmae"):
        found = cvmae.load(past).impute(rows)
    assert found["interval_low"].null_count == found.num_rows
    assert "residuals of the other way of restoring; export it" in caplog.text
    assert "--infer.past_only False" in caplog.text
    changes = {"infer.past_only": False, "infer.checkpoint": past, "resume": out, "output_dir": out}
    with pytest.raises(ValueError, match=r"made with another infer\.past_only: give"):
        impute(override(many, given | changes))
