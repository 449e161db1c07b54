"""Odd input that pretraining takes: it is counted, with file and row, and does no harm."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cvmae.batches.bricks import stream_bricks
from cvmae.batches.policies import mask_weights
from cvmae.settings import MOST_CODES, MaskConfig
from cvmae.train.streams import make_plan
from tests.prepared import training_data
from tests.validate.broken_sets import (
    FIVE,
    FOUR,
    ONE,
    REST,
    SOUND,
    THREE,
    TRAIN,
    VALUE,
    VALUES,
    accepted,
    change,
    config_of,
    refusal,
    rows_of,
    whole,
    with_column,
)

NEW = THREE + 10  # a subject for odd rows


def microseconds(year: int) -> int:
    return int(np.datetime64(f"{year:04}-07-01", "us").astype(np.int64))


def the_finding(validation, what):
    (found,) = [found for found in validation.findings if what in found.what]
    return found


def odd_rows(*rows):
    """Return shards and splits with rows of one more subject of train, behind the others."""
    own = [(NEW, *row) for row in rows]
    return whole({"a.parquet": [*SOUND, *own]}, {**TRAIN, NEW: "train"})


@pytest.mark.parametrize(
    ("rows", "what", "found_rows"),
    [
        ([(1, "LAB//A", math.nan), (2, "LAB//A", math.nan)], "not a number (NaN)", (9, 10)),
        ([(1, "LAB//A", math.inf), (2, "LAB//A", -math.inf)], "infinite", (9, 10)),
        ([(1, "LAB//A", None), (2, "DRUG", None)], "has no value", (9,)),
        ([(microseconds(1), "LAB//A", VALUE)], "before 1900 or after 2300", (9,)),
        ([(0, "LAB//A", VALUE), (microseconds(9999), "LAB//A", VALUE)], "before 1900 or", (10,)),
        ([(1, "", None), (2, "LAB//51498// ", VALUE)], "blank", (9, 10)),
        ([(1, "LAB//µmol", VALUE), (2, "检验", VALUE)], "beyond ASCII", (9, 10)),
    ],
    ids=["NaN", "infinite", "null", "year 1", "year 9999", "blank", "non-ASCII"],
)
@pytest.mark.parametrize("unit_rows", [1, 10**6])
@pytest.mark.parametrize("row_group_size", [2, 100])
def test_odd_rows_are_counted_with_file_and_row(
    write_meds, rows, what, found_rows, unit_rows, row_group_size
):
    root = write_meds(*odd_rows(*rows), row_group_size=row_group_size)
    _, validation = accepted(root, unit_rows=unit_rows)
    found = the_finding(validation, what)
    assert (found.level, found.file) == ("counted", "data/a.parquet")
    assert (found.rows, found.count) == (found_rows, len(found_rows))


def test_rows_of_other_codes_are_odd_only_for_their_code(write_meds):
    other = [(microseconds(1), "DRUG", math.nan), (2, "DRUG", math.inf), (3, "DRUG", None)]
    _, validation = accepted(write_meds(*odd_rows(*other)))
    assert {found.what for found in validation.findings} == {"has no time, though its code matches"}


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, None])
def test_a_value_that_is_none_leaves_the_statistics_alone(write_meds, odd):
    same = accepted(write_meds(*whole({"a.parquet": SOUND}, TRAIN), name="sound"))[0].statistics
    fitted, _ = accepted(write_meds(*odd_rows((1, "LAB//A", odd))))
    assert fitted.statistics.differences(same) == []


def test_a_float64_beyond_float32_counts_as_infinite(write_meds):
    root = write_meds(*whole({"a.parquet": SOUND}, TRAIN))
    values = pa.array([VALUES[0], *VALUES, VALUES[1], 1e300, VALUES[0], *VALUES, VALUES[0]])
    change(f"{root}/data/a.parquet", with_column("numeric_value", values))
    found = the_finding(accepted(root)[1], "too large for float32")
    assert (found.rows, found.count) == ((4,), 1)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("time", pa.timestamp("ns")),
        ("time", pa.timestamp("ms")),
        ("time", pa.timestamp("s")),
        ("numeric_value", pa.float64()),
        ("code", pa.large_string()),
        ("code", pa.dictionary(pa.int32(), pa.string())),
    ],
    ids=str,
)
def test_columns_of_a_related_type_are_aligned(write_meds, column, kind):
    second = 1_000_000
    rows = [(s, time and time * second, code, v) for s, time, code, v in SOUND]
    root = write_meds(*whole({"a.parquet": rows}, TRAIN))
    before = accepted(root)[0]
    change(f"{root}/data/a.parquet", with_column(column, lambda values: values.cast(kind)))
    after = accepted(root)[0]
    assert after.statistics.differences(before.statistics) == []
    assert after.report == before.report


def test_years_1_and_9999_of_one_subject_neither_overflow_nor_wrap(write_meds):
    years = [(microseconds(year), "LAB//A", VALUE) for year in (1, 1970, 2200, 5000, 9999)]
    root = write_meds(*odd_rows(*years))
    config = config_of(root)
    plan = make_plan(config, training_data(config))
    bricks = list(stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=0))
    (minutes,) = [
        part
        for brick in bricks
        for part in np.split(brick.minutes_N, np.cumsum(brick.length_W)[:-1])
        if len(part) == len(years)
    ]
    # 4,083 years of minutes fit into 32 bits; what lies farther away counts as that far.
    per_year = 365.2425 * 24 * 60
    assert minutes[:3] / per_year == pytest.approx([0, 1969, 2199], abs=0.01)
    assert minutes[3:].tolist() == [2**31 - 1] * 2


@pytest.mark.parametrize("unit_rows", [1, 10**6])
def test_repeated_measurements_are_counted(write_meds, unit_rows):
    rows = [(1, "LAB//A", VALUES[0]), (1, "LAB//A", VALUES[1]), (1, "LAB//B", VALUE)]
    found = the_finding(accepted(write_meds(*odd_rows(*rows)), unit_rows=unit_rows)[1], "repeat")
    assert (found.file, found.count) == ("data/a.parquet", 1)


def test_a_shard_without_rows_is_counted(write_meds):
    root = write_meds(*whole({"a.parquet": SOUND, "b.parquet": []}, TRAIN))
    found = the_finding(accepted(root)[1], "has no rows")
    assert (found.level, found.file) == ("counted", "data/b.parquet")


def test_subjects_that_are_in_no_split_are_counted_and_not_used(write_meds):
    rows = [*SOUND, *rows_of(NEW, NEW + 1)]
    root = write_meds(*whole({"a.parquet": rows}, {**TRAIN, NEW: "validation"}))
    fitted, validation = accepted(root)
    found = the_finding(validation, "subjects in no split")
    assert (found.file, found.count) == ("data/a.parquet", 2)
    assert validation.num_subjects == {"train": 3, "tuning": 1, "held_out": 1, "no split": 2}
    assert fitted.statistics.num_values.tolist() == [6]
    unknown = the_finding(validation, "splits that MEDS does not know: 'validation'")
    assert (unknown.file, unknown.count) == ("metadata/subject_splits.parquet", 1)


def test_disorder_among_subjects_in_no_split_is_counted_since_nobody_reads_them(write_meds):
    rows = [*SOUND, (NEW, 5, "LAB//A", VALUE), (NEW, 4, "LAB//A", VALUE)]
    root = write_meds(*whole({"a.parquet": rows}, TRAIN), row_group_size=9)
    found = the_finding(accepted(root)[1], "is earlier than the row before it")
    assert (found.level, found.rows) == ("counted", (10,))


def test_listed_subjects_and_splits_without_rows_are_counted(write_meds):
    root = write_meds({"a.parquet": rows_of(*TRAIN, FOUR)}, {**TRAIN, **REST, NEW: "train"})
    validation = accepted(root)[1]
    assert the_finding(validation, "lists subjects in train that have no rows").count == 1
    assert the_finding(validation, "split held_out has no rows").level == "counted"


def test_subjects_without_any_measurement_are_accepted(write_meds):
    rows = [*SOUND, (NEW, None, "GENDER//F", None), (NEW, 1, "DRUG", 1.0)]
    root = write_meds(*whole({"a.parquet": rows}, {**TRAIN, NEW: "train"}))
    counts = accepted(root)[0].report["splits"]["train"]
    assert (counts["num_listed"], counts["num_subjects"]) == (4, 3)


def test_one_subject_in_train_and_one_in_tuning_are_enough(write_meds):
    root = write_meds({"a.parquet": rows_of(ONE, FOUR)}, {ONE: "train", FOUR: "tuning"})
    index = accepted(root)[0].unit_index
    assert {split: int(index.num_sequences[split].sum()) for split in index.num_sequences} == {
        "train": 1,
        "tuning": 1,
        "held_out": 0,
    }


def test_constant_and_rare_codes_are_counted_and_left_out(write_meds):
    rows = [
        (subject, time, code, value)
        for subject in TRAIN
        for time, code, value in (
            (1, "LAB//A", VALUES[0]),
            (2, "LAB//A", VALUES[1]),
            (2, "LAB//FLAT", VALUE),
        )
    ]
    rows += [(THREE, 3, "LAB//RARE", VALUE)]
    fitted, validation = accepted(write_meds(*whole({"a.parquet": rows}, TRAIN)), min_count=3)
    assert fitted.statistics.codes == ("LAB//A",)
    assert "'LAB//FLAT'" in the_finding(validation, "all values on train are equal").what
    assert "'LAB//RARE'" in the_finding(validation, "too few values on train").what


def test_codes_that_are_left_out_are_named_in_words_where_the_data_set_has_them(write_meds):
    rows = [*SOUND, (THREE, 3, "LAB//RARE", VALUE)]
    root = write_meds(*whole({"a.parquet": rows}, TRAIN))
    table = pa.table({"code": ["LAB//RARE"], "description": ["Copper, Blood"]})
    pq.write_table(table, f"{root}/metadata/codes.parquet")
    found = the_finding(accepted(root)[1], "too few values on train")
    assert "'LAB//RARE' (Copper, Blood)" in found.what


@pytest.mark.parametrize(
    "values", [(-3.0, -1.0), (-2.0, 2.0), (0.0, 1e-30)], ids=["negative", "zero", "tiny"]
)
def test_negative_and_zero_means_give_finite_weights(write_meds, values):
    rows = [(s, t, c, values[t % 2] if c == "LAB//ODD" else v) for s, t, c, v in both_codes()]
    fitted, validation = accepted(write_meds(*whole({"a.parquet": rows}, TRAIN)))
    weight_C = mask_weights(fitted.statistics, MaskConfig(policy="cv"))
    assert np.isfinite(weight_C).all()
    assert (weight_C > 0).all()
    flagged = [found for found in validation.findings if "natural zero" in found.what]
    assert len(flagged) == (values == (-2.0, 2.0))


def both_codes():
    codes = ("LAB//A", "LAB//ODD")
    return [(s, t, code, VALUES[t % 2]) for s in TRAIN for t in (1, 2, 3, 4) for code in codes]


def test_blank_and_non_ascii_codes_are_codes_like_others(write_meds):
    codes = ("LAB//51498// ", "LAB//µmol/L", "LAB//检验", "LAB//\t")
    rows = [(s, t, code, VALUES[t % 2]) for s in TRAIN for t in (1, 2) for code in codes]
    fitted, _ = accepted(
        write_meds(*whole({"a.parquet": [*rows, *rows_of(NEW)]}, {**TRAIN, NEW: "train"}))
    )
    assert set(codes) < set(fitted.statistics.codes)


def test_ten_thousand_codes_can_be_the_vocabulary(write_meds):
    num_codes = 10_000
    code = np.tile(["LAB//A", *(f"LAB//{number}" for number in range(1, num_codes))], 2)
    columns = {
        "subject_id": np.full(2 * num_codes, ONE),
        "time": pa.array(np.arange(2 * num_codes) * 60_000_000, pa.timestamp("us")),
        "code": code,
        "numeric_value": pa.array(np.arange(2.0 * num_codes), pa.float32()),
    }
    root = write_meds(*whole({"a.parquet": pa.table(columns)}, {ONE: "train"}))
    fitted, _ = accepted(root, num_codes=MOST_CODES)
    assert fitted.statistics.num_codes == num_codes
    config = config_of(root, num_codes=MOST_CODES)
    plan = make_plan(config, training_data(config))
    bricks = list(stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=0))
    seen = np.concatenate([brick.code_index_N for brick in bricks])
    np.testing.assert_array_equal(np.bincount(seen, minlength=num_codes), 2)


# --- columns without values: numeric_value is optional in MEDS 0.4


@pytest.mark.parametrize("how", ["absent", "null type", "all null"])
def test_a_shard_without_values_beside_one_with_them(write_meds, how):
    odd = [(NEW, 1, "LAB//A", None), (NEW, 2, "LAB//A", None)]
    root = write_meds(*whole({"a.parquet": SOUND, "b.parquet": odd}, {**TRAIN, NEW: "train"}))
    expected, _ = accepted(root)
    change(f"{root}/data/b.parquet", without_values(how))
    fitted, validation = accepted(root)
    assert fitted.statistics.differences(expected.statistics) == []
    assert fitted.report == expected.report
    found = [f for f in validation.findings if f.file == "data/b.parquet"]
    said = ("has no value, though its code matches", (0, 1))
    if how == "absent":  # it is the file that lacks something, not a row
        said = ("has no column 'numeric_value', though codes in it match", ())
    assert [(f.what, f.rows, f.count) for f in found] == [(*said, 2)]


@pytest.mark.parametrize("how", ["absent", "all null"])
def test_a_split_whose_rows_have_no_value_is_said(write_meds, how):
    shards, splits = whole({"a.parquet": SOUND}, TRAIN)
    shards = {**shards, "z.parquet": rows_of(FOUR), "h.parquet": rows_of(FIVE)}
    root = write_meds(shards, splits)
    said = "no subject of held_out has two measurements"
    assert not [f for f in accepted(root)[1].findings if said in f.what]
    change(f"{root}/data/h.parquet", without_values(how))
    found = the_finding(accepted(root)[1], said)
    assert (found.level, found.file) == ("counted", "")
    assert "numeric_value" in found.remedy
    change(f"{root}/data/z.parquet", without_values(how))
    assert "no subject of tuning has two measurements" in refusal(root)


@pytest.mark.parametrize("how", ["absent", "null type", "all null"])
def test_a_data_set_without_any_value_is_refused(write_meds, how):
    root = write_meds(*whole({"a.parquet": SOUND}, TRAIN))
    for name in ("a", "z"):
        change(f"{root}/data/{name}.parquet", without_values(how))
    message = refusal(root)
    if how == "absent":
        assert "has no column 'numeric_value' in its 2 shards; MEDS allows that" in message
        assert "data.code_pattern" not in message
    else:
        assert "data.code_pattern" in message
        assert "on train has a value: write what was measured" in message


def test_a_shard_whose_times_are_of_the_null_type_has_static_rows_only(write_meds):
    static = [(NEW, None, "LAB//A", VALUE), (NEW, None, "GENDER//F", None)]
    root = write_meds(*whole({"a.parquet": SOUND, "b.parquet": static}, {**TRAIN, NEW: "train"}))
    expected, _ = accepted(root)
    change(f"{root}/data/b.parquet", with_column("time", pa.nulls(2)))
    fitted, validation = accepted(root)
    assert fitted.statistics.differences(expected.statistics) == []
    found = [f for f in validation.findings if f.file == "data/b.parquet"]
    assert [(f.what, f.rows) for f in found] == [("has no time, though its code matches", (0,))]


def without_values(how):
    if how == "absent":
        return lambda table: table.drop_columns(["numeric_value"])
    kind = pa.null() if how == "null type" else pa.float32()
    return lambda table: with_column("numeric_value", pa.nulls(table.num_rows, kind))(table)
