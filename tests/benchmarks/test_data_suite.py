"""The suite `data`, tiny: every part gives its figures, and its exactness counters count."""

import json
import runpy
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.benchmark import SUITES, benchmark
from benchmarks.data.code_statistics import exact_variance, merge_differences
from benchmarks.data.streaming import balance, count_unmatched
from benchmarks.data.suite import PARTS, run_data
from benchmarks.epochs import prepare
from benchmarks.settings import BenchmarkConfig
from cvmae.command_line import run_job
from cvmae.meds.dataset import open_dataset
from cvmae.meds.measurements import RowCounts
from cvmae.meds.reading import read_unit
from cvmae.plan.inputs import INPUTS
from cvmae.statistics.passes import first_pass

ROOT = Path(__file__).resolve().parents[2]
NUM_ROWS = 40_000
FLOOR = "the read with codes as dictionaries"
# Names of the rows that have a goal, part by part.
GOALS = {
    "streaming": {
        "streaming: over the read with codes as dictionaries, CPU": 1.4,
        "masking: share of streaming, CPU": 0.20,
        "masking: sequences with another count than asked for": 0,
    },
    "balance": {
        "balance: synthetic hospital, default units": 0.97,
        "balance: synthetic hospital, small units": 0.97,
        "balance: physionet2012": 0.97,
    },
    "statistics": {
        f"statistics: pass 1 with its reading, over {FLOOR}, CPU": 1.4,
        f"statistics: pass 2 with its reading, over {FLOOR}, CPU": 1.4,
        f"statistics: pass 1, arithmetic alone, over {FLOOR}, CPU": 0.4,
        f"statistics: pass 2, arithmetic alone, over {FLOOR}, CPU": 0.4,
        "statistics: relative error of a variance": 1e-12,
        "statistics: integers changed by the order of merging": 0,
        "statistics: largest change of a float by the order of merging": 1,
    },
    "shards": {
        "shards: that ratio over the raw read's own": 1.0,
        "shards: units, many over few": 1.1,
    },
    "ray": {"ray: steady epochs over the same in process, CPU": 1.3},
    "memory": {
        "memory: in process, growth with tenfold data": 1.10,
        "memory: driver and rank, growth with tenfold data": 1.10,
        "memory: largest data worker, growth with tenfold data": 1.10,
        "memory: all of Ray's processes, growth with tenfold data": 1.10,
    },
    "embed": {
        "embed: speed of a pool of two actors, its start included, over one process, wall": 0.7,
        "embed: numbers that the pool changes": 0,
    },
}
# What the plan's inputs begin with.
PREFIXES = {part: f"{part}:" for part in GOALS} | {"streaming": "hospital:"}
ON_RAY = [pytest.mark.ray, pytest.mark.survival]


@pytest.mark.parametrize(
    "part",
    [pytest.param(p, marks=ON_RAY if p in ("ray", "memory", "embed") else ()) for p in PARTS],
)
def test_a_part_gives_its_goals_and_positive_figures(part, small_hospital, folder, monkeypatch):
    monkeypatch.delenv("CVMAE_REAL_DATA", raising=False)
    rows = list(PARTS[part](folder, small_hospital, NUM_ROWS, 1))
    assert {row.name: row.goal for row in rows if row.goal is not None} == GOALS[part]
    values = {row.name: row.value for row in rows}
    assert len(values) == len(rows), "two rows of one name"
    assert all(value is None or value >= 0 for value in values.values() if part != "ray")
    needed = {wanted.row for wanted in INPUTS.values() if wanted.row.startswith(PREFIXES[part])}
    assert needed <= set(values), "the plan starts from rows that are not there"
    exact = [row for row in rows if row.goal == 0 or row.goal == 1e-12]
    assert [row.name for row in exact if not row.met] == []


@pytest.mark.real
def test_balance_is_measured_on_physionet2012_where_it_is(real_data, small_hospital, folder):
    rows = {row.name: row for row in PARTS["balance"](folder, small_hospital, NUM_ROWS, 1)}
    assert rows["balance: physionet2012"].met


def test_the_job_prints_a_table_and_writes_the_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.clock.logger.info", lambda *_: None)
    flags = f"--suite data --only statistics --num_rows 10000 --rounds 1 --output {tmp_path}/b.json"
    monkeypatch.setattr(sys, "argv", ["jobs/benchmark.py", *flags.split()])
    runpy.run_path(str(ROOT / "jobs" / "benchmark.py"), run_name="__main__")
    shown = capsys.readouterr().out
    written = json.loads((tmp_path / "b.json").read_text())
    assert {"suite", "name", "value", "goal", "met"} <= set(written[0])
    assert {entry["suite"] for entry in written} == {"machine", "data"}
    for entry in written:
        if entry["suite"] == "data":
            assert entry["name"] in shown


def test_data_are_kept_in_the_folder_that_is_named_and_nowhere_else(tmp_path):
    config = BenchmarkConfig(root=str(tmp_path), only=("balance",), num_rows=10_000, rounds=1)
    assert len(list(run_data(config))) == 3
    kept = {path.name for path in tmp_path.iterdir()}
    assert "hospital_10000_131072" in kept
    list(run_data(config))
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--only nonsense",
            r"only='nonsense' is no part of the suite data: give some of streaming",
        ),
        ("--num_rows 5", "num_rows=5 is not allowed: give at least 10000"),
    ],
)
def test_a_wrong_setting_ends_in_one_line_before_anything_is_written(flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_job(benchmark, flags.split(), tree=BenchmarkConfig)
    shown = " ".join(f"{stopped.value} {capsys.readouterr()}".split())
    assert message in shown


def test_a_sequence_with_one_value_more_or_less_hidden_is_counted():
    lengths, wanted = np.array([4, 8, 8, 3]), np.array([1, 2, 2, 1])
    pairs = np.stack([lengths, wanted])
    assert count_unmatched(pairs[:, ::-1], pairs) == 0
    for place in range(4):
        tampered = pairs.copy()
        tampered[1, place] += 1
        assert count_unmatched(tampered, pairs) == 1
    assert count_unmatched(pairs[:, 1:], pairs) == 1
    assert count_unmatched(np.concatenate([pairs, pairs], axis=1), pairs) == 4


def test_an_epoch_of_other_measurements_than_the_index_says_is_not_timed(small_hospital):
    prepared = prepare(small_hospital)
    assert prepared.stream(3) == prepared.num_measurements
    index = prepared.fitted.unit_index
    fewer = {split: counts - 1 for split, counts in index.num_measurements.items()}
    wrong = replace(index, num_measurements=fewer)
    prepared = replace(prepared, fitted=replace(prepared.fitted, unit_index=wrong))
    with pytest.raises(RuntimeError, match="the unit index says"):
        prepared.stream(3)


def test_the_raw_read_covers_the_shards_of_train_and_no_other(small_hospital):
    prepared = prepare(small_hospital)
    assert prepared.train_shards == tuple(f"data/train/{number}.parquet" for number in range(10))
    assert prepared.num_train_rows < prepared.num_rows


def test_balance_weighs_steps_by_their_length():
    assert balance(np.array([[5, 5, 5]])) == 1
    assert balance(np.array([[100, 100], [0, 1]])) == pytest.approx(100.5 / 101)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_the_exact_variance_is_that_of_fractions(values):
    fractions = [Fraction(value) for value in values]
    mean = sum(fractions) / len(fractions)
    expected = sum((value - mean) ** 2 for value in fractions) / len(fractions)
    assert exact_variance(np.array(values, np.float32)) == expected


def test_merging_differences_are_seen_in_integers_and_in_floats(small_hospital):
    prepared = prepare(small_hospital, unit_rows=2_000)
    statistics = prepared.fitted.statistics
    nothing = RowCounts(
        num_rows=0,
        num_matching=0,
        num_null_value=0,
        num_null_time=0,
        num_non_finite=0,
        num_measurements=0,
    )
    parts = [
        first_pass(
            read_unit(open_dataset(small_hospital), unit, statistics.lookup, "train")[0],
            nothing,
            statistics.codes,
        )
        for unit in prepared.plan.units[:4]
    ]
    assert merge_differences(parts)[0] == 0
    # A part that merges differently from the left and from the right.
    assert merge_differences([LeftKeeper(part) for part in parts])[0] > 0
    assert merge_differences([LeftKeeper(part) for part in parts])[1] > 1


class LeftKeeper:
    """A pass whose merge forgets what comes second."""

    def __init__(self, part):
        self.moments, self.num_duplicates = part.moments, 0

    def merge(self, other):
        return self


def test_a_file_that_cannot_be_kept_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(SUITES, "data", lambda config: pytest.fail("measuring has begun"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        benchmark(BenchmarkConfig(output=str(tmp_path / "file" / "b.json")))
    copy = tmp_path / "working_dir_files" / "_ray_pkg_1234"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(ValueError, match=r"output=b\.json is relative, and this job runs in Ray's"):
        benchmark(BenchmarkConfig(output="b.json"))
