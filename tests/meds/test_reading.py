import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cvmae.meds.dataset import open_dataset, require_splits
from cvmae.meds.measurements import RowCounts
from cvmae.meds.reading import read_unit
from cvmae.meds.splits import SPLITS, load_splits
from cvmae.meds.subjects import refuse_shared_subjects, scan_subjects
from cvmae.meds.units import plan_units

CODES = ["LAB//A", "LAB//B", "LAB//C", "VITAL//X", "MEDS_BIRTH", "LAB//A//mg"]
WANTED = {"LAB//A": 0, "LAB//B": 1, "LAB//C": 2, "LAB//A//mg": 0}  # two codes share an index


def lookup(codes):
    return np.array([WANTED.get(code, -1) for code in codes], np.int32)


def random_rows(rng, subjects):
    """Rows in MEDS order, with every kind of row that is not a measurement."""
    rows = []
    for subject in subjects:
        # Up to 60 rows against row groups of 16: many subjects run over one edge or several.
        num_rows = int(rng.integers(1, 60))
        num_static = int(rng.integers(0, 3))
        times = np.sort(rng.integers(-(10**6), 10**6, num_rows)) * 1000  # whole milliseconds
        kinds = rng.integers(0, 10, num_rows)  # of value: 0 to 2 are not numbers
        codes = rng.integers(0, len(CODES), num_rows)
        for place, (time, kind, code) in enumerate(zip(times, kinds, codes, strict=True)):
            value = {0: None, 1: math.nan, 2: math.inf}.get(kind, float(kind) / 3)
            when = None if place < num_static else int(time)
            rows.append((subject, when, CODES[code], value))
    return rows


def naive(rows, members):
    """What `read_unit` must give, one row at a time."""
    kept, counts = [], dict.fromkeys(RowCounts.__dataclass_fields__, 0)
    for subject, time, code, value in rows:
        if subject not in members:
            continue
        counts["num_rows"] += 1
        if code not in WANTED:
            continue
        counts["num_matching"] += 1
        if value is None:
            counts["num_null_value"] += 1
        elif time is None:
            counts["num_null_time"] += 1
        elif not math.isfinite(value):
            counts["num_non_finite"] += 1
        else:
            counts["num_measurements"] += 1
            kept.append((subject, WANTED[code], time, np.float32(value)))
    return kept, RowCounts(**counts)


def read_all(root, unit_rows, split):
    """Read a split through all units, as rows and summed counts."""
    rows, counts = [], RowCounts(**dict.fromkeys(RowCounts.__dataclass_fields__, 0))
    dataset = open_dataset(root)
    for unit in plan_units(dataset, unit_rows):
        found, more = read_unit(dataset, unit, lookup, split)
        lengths = np.diff(found.offsets_S)
        assert (lengths > 0).all()
        assert (np.diff(found.subject_id_S) > 0).all()
        subject_N = np.repeat(found.subject_id_S, lengths)
        columns = (subject_N, found.code_index_N, found.time_us_N, found.numeric_value_N)
        rows += list(zip(*(column.tolist() for column in columns), strict=True))
        counts = RowCounts(**{k: getattr(counts, k) + v for k, v in vars(more).items()})
    return rows, counts


@pytest.fixture
def fifty(rng, write_meds):
    """Rows, splits and root of 50 subjects in three shards, row groups of 16 rows; 5 unsplit."""
    subjects = np.sort(rng.choice(10**6, 50, replace=False)).tolist()
    shards = {
        "a.parquet": random_rows(rng, subjects[:25]),
        "deep/er/b.parquet": random_rows(rng, subjects[25:30]),
        "held_out/c.parquet": random_rows(rng, subjects[30:]),  # a folder's name means nothing
    }
    splits = {subject: str(rng.choice(SPLITS)) for subject in subjects[:-5]}
    root = write_meds(shards, splits, row_group_size=16)
    return [row for rows in shards.values() for row in rows], splits, root


@pytest.mark.parametrize("unit_rows", [1, 40, 500, 10**6])
@pytest.mark.parametrize("split", SPLITS)
def test_reading_equals_a_loop_over_rows(fifty, unit_rows, split):
    rows, splits, root = fifty
    members = {subject for subject, name in splits.items() if name == split}
    expected, expected_counts = naive(rows, members)
    found, counts = read_all(root, unit_rows, split)
    assert found == [(s, c, t, float(v)) for s, c, t, v in expected]
    assert counts == expected_counts


@pytest.mark.parametrize("unit_rows", [1, 40, 500, 10**6])
def test_every_subject_with_rows_is_in_exactly_one_unit(fifty, unit_rows):
    rows, _, root = fifty
    units = plan_units(open_dataset(root), unit_rows)
    subjects = [scan_subjects(root, unit) for unit in units]
    assert all(len(array) > 0 for array in subjects)
    assert np.concatenate(subjects).tolist() == sorted({row[0] for row in rows})
    assert sum(unit.num_rows for unit in units) == len(rows)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("time", pa.timestamp("ns")),
        ("time", pa.timestamp("ms")),
        ("code", pa.large_string()),
        ("code", pa.dictionary(pa.int32(), pa.string())),
        ("code", pa.dictionary(pa.int8(), pa.large_string())),
        ("numeric_value", pa.float64()),
    ],
)
def test_columns_of_a_related_type_read_alike(fifty, write_meds, column, kind):
    _, splits, root = fifty
    shards = {}
    for shard in open_dataset(root).shards:
        table = pq.read_table(Path(root) / shard.path)
        place = table.column_names.index(column)
        changed = table.set_column(place, column, table.column(column).cast(kind))
        shards[shard.path.removeprefix("data/")] = changed
    other = write_meds(shards, splits, name="other", row_group_size=16)
    assert read_all(other, 100, "train") == read_all(root, 100, "train")


@pytest.mark.parametrize(
    "options",
    [
        {"write_statistics": False},
        {"use_dictionary": False},
        {"dictionary_pagesize_limit": 16, "data_page_size": 64},  # changes encoding half-way
        {"row_group_size": 7},
        {"compression": "snappy", "data_page_version": "2.0"},
    ],
)
def test_how_a_shard_was_written_does_not_matter(fifty, write_meds, options):
    _, splits, root = fifty
    shards = {
        shard.path.removeprefix("data/"): pq.read_table(Path(root) / shard.path)
        for shard in open_dataset(root).shards
    }
    other = write_meds(shards, splits, name="other", **options)
    assert read_all(other, 100, "train") == read_all(root, 100, "train")


def test_extra_columns_before_the_required_ones_do_no_harm(fifty, write_meds):
    _, splits, root = fifty
    shards = {}
    for shard in open_dataset(root).shards:
        table = pq.read_table(Path(root) / shard.path)
        # A struct has several leaves, which shift the statistics of the columns behind it.
        extra = pa.array([{"x": 1, "y": [2.0]}] * len(table))
        shards[shard.path.removeprefix("data/")] = table.add_column(0, "extra", extra)
    other = write_meds(shards, splits, name="other", row_group_size=16)
    assert read_all(other, 100, "train") == read_all(root, 100, "train")


def test_small_shards_share_a_unit_and_large_ones_are_cut(write_meds):
    small = {f"{i}.parquet": [(i, t, "LAB//A", 1.0) for t in range(10)] for i in range(6)}
    large = {"z.parquet": [(100 + t // 5, t, "LAB//A", 1.0) for t in range(100)]}
    root = write_meds(small | large, {1: "train"}, row_group_size=10)
    units = plan_units(open_dataset(root), 30)
    assert [unit.num_rows for unit in units] == [30, 30, 30, 30, 30, 10]
    assert [len(unit.pieces) for unit in units] == [3, 3, 1, 1, 1, 1]


def test_empty_shards_and_row_groups_are_passed_over(write_meds):
    rows = [(1, 0, "LAB//A", 1.0), (2, 0, "LAB//A", 2.0)]
    root = write_meds({"a.parquet": [], "c.parquet": rows}, {1: "train", 2: "train"})
    path = Path(root) / "data" / "b.parquet"
    table = pq.read_table(Path(root) / "data" / "c.parquet")
    table = table.set_column(0, "subject_id", pa.array([3, 4]))
    with pq.ParquetWriter(path, table.schema) as writer:
        for part in (table.slice(0, 0), table.slice(0, 1), table.slice(0, 0), table.slice(1)):
            writer.write_table(part)
    units = plan_units(open_dataset(root), 1)
    assert [scan_subjects(root, unit).tolist() for unit in units] == [[3], [4], [1, 2]]


def test_the_dictionary_of_a_row_group_is_looked_up_once(fifty):
    _, _, root = fifty
    seen = []

    def watching(codes):
        seen.append(codes)
        return lookup(codes)

    dataset = open_dataset(root)
    (unit,) = plan_units(dataset, 10**9)
    read_unit(dataset, unit, watching, "train")
    row_groups = sum(piece.last_row_group - piece.first_row_group + 1 for piece in unit.pieces)
    assert 0 < len(seen) <= row_groups
    assert all(len(set(codes)) == len(codes) for codes in seen)


def test_codes_are_not_looked_at_where_no_subject_is_in_the_split(write_meds):
    root = write_meds({"a.parquet": [(1, 0, "LAB//A", 1.0)]}, {1: "train", 2: "tuning"})
    dataset = open_dataset(root)
    (unit,) = plan_units(dataset, 10)

    def refuse(codes):
        raise AssertionError("codes were read")

    measurements, counts = read_unit(dataset, unit, refuse, "tuning")
    assert measurements.offsets_S.tolist() == [0]
    assert set(vars(counts).values()) == {0}


def test_subjects_of_other_splits_and_of_none_are_in_no_split(write_meds):
    rows = [(subject, 0, "LAB//A", float(subject)) for subject in (1, 2, 3)]
    root = write_meds({"a.parquet": rows}, {3: "train", 1: "external"})
    members = {split: member_S.tolist() for split, member_S in load_splits(root).items()}
    assert members == {"train": [3], "tuning": [], "held_out": []}
    assert [len(read_all(root, 10, split)[0]) for split in SPLITS] == [1, 0, 0]
    assert open_dataset(root).num_subjects == {"train": 1, "tuning": 0, "held_out": 0}


def test_a_copy_has_the_same_fingerprint_and_a_changed_data_set_another(fifty, tmp_path):
    _, splits, root = fifty
    original = open_dataset(root).fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    assert open_dataset(str(copy)).fingerprint == original

    table = pq.read_table(copy / "data" / "a.parquet")
    pq.write_table(table.slice(0, len(table) - 1), copy / "data" / "a.parquet")
    fewer_rows = open_dataset(str(copy)).fingerprint
    assert fewer_rows["shards_sha256"] != original["shards_sha256"]
    assert fewer_rows["splits_sha256"] == original["splits_sha256"]

    path = copy / "metadata" / "subject_splits.parquet"
    moved = ["train" if name == "tuning" else name for name in splits.values()]
    pq.write_table(pq.read_table(path).set_column(1, "split", pa.array(moved)), path)
    assert open_dataset(str(copy)).fingerprint["splits_sha256"] != original["splits_sha256"]


def test_a_uri_is_as_good_as_a_path(fifty):
    _, _, root = fifty
    assert read_all(f"file://{root}", 100, "train") == read_all(root, 100, "train")


def test_units_travel_through_pickle_and_depend_on_footers_only(fifty):
    import pickle

    _, _, root = fifty
    units = plan_units(open_dataset(root), 100)
    assert pickle.loads(pickle.dumps(units)) == plan_units(open_dataset(root), 100)
    elsewhere = replace(open_dataset(root), root="/somewhere/else")
    assert plan_units(elsewhere, 100) == units


def test_physionet2012_has_its_known_measurements(real_data):
    root = str(real_data / "physionet2012")
    dataset = open_dataset(root)
    require_splits(dataset, ["train"])
    assert dataset.num_subjects == {"train": 9600, "tuning": 1200, "held_out": 1200}
    units = plan_units(dataset, 250_000)
    refuse_shared_subjects(root, units, [scan_subjects(root, unit) for unit in units])

    def labs(codes):
        return np.array([0 if code.startswith("LAB//") else -1 for code in codes], np.int32)

    counts = [read_unit(dataset, unit, labs, split)[1] for split in SPLITS for unit in units]
    # Both totals stand in the data's own README.
    assert sum(count.num_rows for count in counts) == 5_281_098
    assert sum(count.num_measurements for count in counts) == 738_871


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("physionet2012", "^LAB//pH//"), ("mimic4_demo_labs", "^LAB//50"), ("mimic4_demo_full", ".")],
)
def test_a_real_shard_equals_a_plain_arrow_filter(real_data, name, pattern):
    root = str(real_data / name)
    dataset = open_dataset(root)
    shard = next(shard for shard in dataset.shards if "/tuning/0." in shard.path)
    unit = plan_units(replace(dataset, shards=(shard,)), 10**9)[0]
    found, _ = read_unit(
        dataset,
        unit,
        lambda codes: np.asarray(pc.match_substring_regex(pa.array(codes), pattern)) - np.int32(1),
        "tuning",
    )
    table = pq.read_table(Path(root) / shard.path)
    keep = pc.and_(
        pc.match_substring_regex(table["code"], pattern), pc.is_finite(table["numeric_value"])
    )
    table = table.filter(pc.and_(keep, pc.is_valid(table["time"])))  # a null in keep drops too
    assert np.repeat(found.subject_id_S, np.diff(found.offsets_S)).tolist() == (
        table["subject_id"].to_pylist()
    )
    np.testing.assert_array_equal(found.numeric_value_N, table["numeric_value"].to_numpy())
    np.testing.assert_array_equal(found.time_us_N, table["time"].cast(pa.int64()).to_numpy())
    assert len(found.subject_id_S) > 0
