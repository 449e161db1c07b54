"""The suite `plan`: its arithmetic, where inputs come from, what ends first."""

import pytest

from benchmarks.plan import INPUTS, plan_inputs, plan_rows, run_plan
from benchmarks.rows import Row, write_rows
from benchmarks.settings import BenchmarkConfig

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
    "footer": 1e-4,
    "planning": 0.1,
}


def plan(num_measurements=1.024e9, num_gpus=16, **changes):
    return {row.name: row for row in plan_rows(GIVEN | changes, num_measurements, num_gpus)}


def test_the_arithmetic_of_the_plan():
    rows = plan()
    values = {name: row.value for name, row in rows.items()}
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
    assert values["statistics, once"] == pytest.approx(2.048e9 * 50e-9 / 3600)
    assert values["opening 10,000 footers, once"] == pytest.approx(1)
    assert values["waiting for the first bricks of an epoch"] == pytest.approx(0.5 / 64.5)
    assert values["100 epochs"] == pytest.approx(100 * 64.5 / 3600)
    assert values["ends: start of an epoch carries"] == pytest.approx(204.8)
    assert values["ends: lanes of their own carries"] == 1024
    assert [row.note for row in rows.values() if not row.note] == []
    assert [row.name for row in rows.values() if row.goal is not None] == []


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
    row = plan(**changes)["ends first"]
    assert row.value == first
    carried = plan(**changes)[f"ends: {first} carries"].value
    assert row.note.startswith("beyond" if carried >= 16 else "below")


def test_more_gpus_than_lanes_of_their_own_share_one_superstep():
    rows = plan(num_measurements=1e6, num_gpus=16)
    assert rows["units"].value == 8
    assert rows["bricks an epoch"].value == 16


def test_an_input_is_what_was_measured_in_its_own_unit_or_else_says_what_it_is():
    measured = [
        Row(suite="data", name=INPUTS["brick_cpu"].row, value=12.0),
        Row(suite="data", name=INPUTS["ray_cpu"].row, value=None),
    ]
    values, sources = plan_inputs(measured, "measured here")
    assert values["brick_cpu"] == pytest.approx(12e-3)
    assert sources["brick_cpu"] == "measured here"
    assert values["ray_cpu"] == INPUTS["ray_cpu"].otherwise
    assert sources["ray_cpu"] == "measured on a prototype, not here"
    assert sources["gpu_speed"].endswith("on one H100, not here")


def test_the_plan_reads_a_measured_file_and_says_so(tmp_path):
    write_rows(tmp_path / "b.json", [Row(suite="data", name=INPUTS["pass_1"].row, value=30.0)])
    config = BenchmarkConfig(
        suite="plan", measured=str(tmp_path / "b.json"), num_measurements=1e8, num_gpus=4
    )
    rows = {row.name: row for row in run_plan(config)}
    source = rows["input: statistics, pass 1, CPU a row"].note
    assert source == f"measured, {tmp_path}/b.json"
    assert rows["input: order of an epoch, CPU"].note == "measured now, 800 units"
    assert rows["speed of the GPUs"].value == 4 * INPUTS["gpu_speed"].otherwise
    assert {row.suite for row in rows.values()} == {"plan"}


def test_without_a_file_the_plan_measures_a_short_version_itself(monkeypatch):
    asked = []

    def short(config):
        asked.append(config)
        yield Row(suite="data", name=INPUTS["pass_1"].row, value=30.0)

    monkeypatch.setattr("benchmarks.plan.run_data", short)
    rows = {row.name: row for row in run_plan(BenchmarkConfig(suite="plan", num_rows=20_000))}
    assert [(config.suite, config.num_rows) for config in asked] == [("data", 20_000)]
    note = rows["input: statistics, pass 1, CPU a row"].note
    assert note == "measured here, short version of 20,000 rows"
