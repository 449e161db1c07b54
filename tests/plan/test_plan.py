"""The plan: its arithmetic, where inputs come from, what ends first."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.rows import Row, machine_rows, write_rows
from cvmae.command_line import run_job
from cvmae.plan.cluster import cluster_lines
from cvmae.plan.inputs import INPUTS, read_measured, resolve_inputs
from cvmae.plan.plan import plan
from cvmae.plan.settings import PlanConfig
from cvmae.plan.size import known_size, size_of

GIVEN = {
    "gpu_speed": 1e6,
    "node_network": 1e9,
    "gpu_cores": 4,
    "rows_a_measurement": 2,
    "bytes_a_row": 5,
    "ray_cpu": 200e-9,
    "ray_brick": 1e5,
    "brick_cpu": 10e-3,
    "first_brick": 0.5,
    "worker_bytes": 2**28,
    "pass_1": 30e-9,
    "pass_2": 20e-9,
    "unit_cpu": 24e-3,
    "footer": 1e-4,
}


def lines_of(num_measurements=1.024e9, num_gpus=16, planning=0.1, **changes):
    given = GIVEN | changes
    size = known_size(num_measurements, given["rows_a_measurement"])
    return {line.name: line for line in cluster_lines(given, planning, size, num_gpus)}


def printed(**settings):
    """Return what is printed, as a dictionary: name -> (value and unit, why)."""
    cells = [re.split(r"  +", line) for line in plan(PlanConfig(**settings)).splitlines()]
    return {row[0]: (row[1], row[2]) for row in cells if len(row) == 3}


def test_the_arithmetic_of_the_plan():
    lines = lines_of()
    values = {name: line.value for name, line in lines.items()}
    assert values["rows"] == 2.048e9
    assert values["storage"] == pytest.approx(10.24)
    assert values["units"] == 8192
    # 8192 units / (16 lanes x 8 units) = 64 supersteps of 16 bricks.
    assert values["bricks an epoch"] == 1024
    assert values["measurements a brick"] == 1e6
    assert values["an epoch, GPUs never waiting"] == pytest.approx(64)
    assert values["bricks a second and rank"] == pytest.approx(1)
    # 200 ns a measurement hold 10 ms / 100,000 of a brick's fixed cost: 100 ns are left.
    assert values["cores for data"] == pytest.approx(16e6 * 100e-9 + 16 * 10e-3)
    assert values["cores for data a GPU"] == pytest.approx(0.11)
    assert values["from storage"] == pytest.approx(0.16)
    assert values["bricks between nodes"] == pytest.approx(0.176)
    assert values["network of a node"] == pytest.approx((0.16 + 0.176) / 2)
    passes = 2.048e9 * 50e-9 + 2 * 8192 * 24e-3
    assert values["statistics, once"] == pytest.approx(passes / 3600)
    assert values["opening files, once"] == pytest.approx(1)
    assert values["waiting for the first bricks of an epoch"] == pytest.approx(0.5 / 64.5)
    assert values["100 epochs"] == pytest.approx(100 * 64.5 / 3600)
    assert values["start of an epoch carries"] == pytest.approx(204.8)
    assert values["lanes of their own carries"] == 1024
    assert values["measurements of train"] == 1.024e9
    assert values["order of an epoch, each rank"] == 0.1
    assert [name for name, line in lines.items() if not line.why] == []


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, "start of an epoch"),
        ({"first_brick": 0.01, "planning": 0.0, "ray_cpu": 101e-9}, "lanes of their own"),
        ({"gpu_cores": 0.1}, "cores beside a GPU"),
        ({"node_network": 1e8}, "network of a node"),
        ({"gpu_speed": 4e8, "gpu_cores": 1e3, "node_network": 1e12}, "a rank's thread"),
    ],
)
def test_what_ends_first_is_named(changes, first):
    lines = lines_of(**changes)
    assert lines["ends first"].value == first
    carried = lines[f"{first} carries"].value
    assert lines["ends first"].why.startswith("beyond" if carried >= 16 else "below")


def test_more_gpus_than_lanes_of_their_own_share_one_superstep():
    lines = lines_of(num_measurements=2e6, num_gpus=16)
    assert lines["units"].value == 16
    assert lines["bricks an epoch"].value == 16
    assert lines["bricks an epoch"].why.startswith("1 superstep, whose units all 16 lanes share")


def test_the_page_on_scaling_shows_what_is_printed():
    page = Path(__file__).parents[2].joinpath("docs/scaling.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\| what \| figure \|\n\|---\|---\|\n((?:\|.*\n)+)", page)
    rows = dict(re.findall(r"\| (.*) \| (.*) \|", table))
    found = printed(num_measurements=1e9, num_gpus=64)
    assert rows == {name: found[name][0] for name in rows}
    assert len(rows) > 5


@pytest.mark.parametrize("num_measurements", [1, 1e6, 1.8e6])
def test_data_with_fewer_units_than_lanes_are_said_to_be_too_small(num_measurements):
    lines = lines_of(num_measurements=num_measurements, num_gpus=16)
    assert lines["units a lane"].value < 1
    assert "too little to share out; train in one process" in lines["units a lane"].why
    assert "statistics, once" in lines
    assert "cores for data" not in lines
    assert "ends first" not in lines


def test_an_input_is_what_was_measured_in_its_own_unit_or_else_says_where_it_comes_from():
    values, sources = resolve_inputs({INPUTS["brick_cpu"].row: 12.0}, "measured, b.json")
    assert values["brick_cpu"] == pytest.approx(12e-3)
    assert sources["brick_cpu"] == "measured, b.json"
    assert values["ray_cpu"] == INPUTS["ray_cpu"].otherwise
    assert sources["gpu_speed"].startswith("measured on an H100, 2026-")


def test_every_rate_that_is_not_measured_here_is_dated_or_called_assumed():
    for wanted in INPUTS.values():
        assert re.match(r"assumed|measured on .*, 20\d\d-\d\d-\d\d", wanted.source)


def test_the_plan_reads_what_the_benchmark_wrote(tmp_path):
    rows = [
        *machine_rows(),
        Row(suite="data", name=INPUTS["pass_1"].row, value=30.0),
        Row(suite="data", name=INPUTS["ray_cpu"].row, value=None, note="needs Linux"),
    ]
    write_rows(tmp_path / "b.json", rows)
    found = printed(measured=str(tmp_path / "b.json"), num_measurements=1e8, num_gpus=4)
    assert found["statistics, pass 1, CPU a row"] == ("3e-08 s", f"measured, {tmp_path}/b.json")
    assert found["streaming through Ray Data, CPU a measurement"][1] == INPUTS["ray_cpu"].source
    assert found["order of an epoch, each rank"][1] == "measured now, 832 units"
    assert found["speed of the GPUs"][0] == "19,000,000 measurements/s"


@pytest.mark.parametrize(
    "text", ["no json", "[1]", '[{"suite": "data"}]', '{"a": 1}', "[]", '[{"suite": "step"}]']
)
def test_a_file_that_is_no_benchmark_is_refused_with_the_command_that_writes_it(tmp_path, text):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(ValueError, match=r"rows\.json holds no figure.*--suite data --output FILE"):
        read_measured(str(tmp_path / "rows.json"))


def test_a_missing_file_is_refused_with_the_command_that_writes_it():
    with pytest.raises(SystemExit, match=r"cvmae: measured=.*write it with jobs/benchmark\.py"):
        run_job(plan, ["--num_measurements", "1e6", "--measured", "none.json"], tree=PlanConfig)


def test_a_data_set_is_planned_for_from_its_footers_and_splits(hospital):
    table = pq.ParquetDataset(f"{hospital}/data").read()
    splits = pq.read_table(f"{hospital}/metadata/subject_splits.parquet")["split"].to_pylist()
    size = size_of(hospital, 0, 2.0)
    num_files = len(list(Path(hospital, "data").rglob("*.parquet")))
    assert (size.rows, size.num_files) == (table.num_rows, num_files)
    share = splits.count("train") / len(splits)
    assert size.num_measurements == pytest.approx(table.num_rows * share / 2)
    assert size_of(hospital, 1234, 2.0).num_measurements == 1234
    found = printed(root=hospital, num_gpus=2)
    assert found["rows"] == (f"{table.num_rows:,}", "footers of root")
    assert found["bytes a row on storage"][1] == "footers of root"
    footers = f"{num_files * INPUTS['footer'].otherwise:.3g} core s"
    assert found["opening files, once"] == (footers, f"{num_files} x a footer (files of root)")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], r"give --root MEDS_DIR or --num_measurements NUMBER"),
        (["--num_measurements", "1e6", "--num_gpus", "0"], r"num_gpus=0 is not allowed"),
        (["--num_measurements", "-1"], r"num_measurements=-1.0 is not allowed"),
        (["--root", "no/such/folder"], r"no/such/folder"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        run_job(plan, flags, tree=PlanConfig)
    said = capsys.readouterr()
    assert re.search(message, f"{ended.value.code}{said.err}{said.out}")
