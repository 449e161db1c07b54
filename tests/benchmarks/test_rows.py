"""Rows: whether a goal is met, the table, the JSON file."""

import json

import pytest

from benchmarks.rows import Row, format_table, machine_rows, write_rows

FIELDS = {"suite", "name", "value", "unit", "goal", "sense", "met", "note", "failed"}


def row(**changes):
    return Row(**{"suite": "data", "name": "a ratio", "value": 0.5} | changes)


@pytest.mark.parametrize(
    ("changes", "met"),
    [
        ({"goal": 0.8}, True),
        ({"goal": 0.5}, True),
        ({"goal": 0.4}, False),
        ({"goal": 0.4, "sense": ">="}, True),
        ({"goal": 0.5, "sense": ">="}, True),
        ({"goal": 0.8, "sense": ">="}, False),
        ({"goal": 0, "value": 0}, True),
        ({"goal": 0, "value": 1}, False),
        ({"goal": 0.8, "value": float("nan")}, False),
        ({"goal": 0.8, "value": None}, None),
        ({}, None),
    ],
)
def test_a_goal_is_met_on_its_own_side_only(changes, met):
    assert row(**changes).met is met


def test_the_file_holds_rows_that_say_whether_their_goal_is_met(tmp_path):
    rows = [row(goal=0.4), row(goal=0.4, sense=">="), row(value="a text"), row(value=None)]
    write_rows(tmp_path / "new" / "rows.json", rows)
    written = json.loads((tmp_path / "new" / "rows.json").read_text())
    assert all(set(entry) == FIELDS for entry in written)
    assert [entry["met"] for entry in written] == [False, True, None, None]
    assert [entry["goal"] for entry in written] == [0.4, 0.4, None, None]


def test_a_number_that_json_does_not_know_becomes_a_note(tmp_path):
    write_rows(tmp_path / "rows.json", [row(value=float("inf"), goal=1, note="why")])
    (entry,) = json.loads((tmp_path / "rows.json").read_text(), parse_constant=pytest.fail)
    assert entry["value"] is None
    assert entry["note"] == "why value inf"


def test_the_table_shows_goal_and_whether_it_is_met_and_notes_below():
    rows = [
        row(goal=0.8, unit="x", note="of what"),
        row(name="slow", value=12_345.6, goal=0.8),
        row(name="absent", value=None, goal=3, sense=">="),
        row(name="count", value=10_000),
    ]
    lines = format_table(rows).splitlines()
    assert lines[0].split() == ["name", "value", "unit", "goal", "met"]
    assert lines[2].split() == ["a", "ratio", "0.5", "x", "<=", "0.8", "yes"]
    assert lines[3].split() == ["slow", "12,346", "<=", "0.8", "no"]
    assert lines[4].split() == ["absent", "not", "measured", ">=", "3", "-"]
    assert lines[5].split() == ["count", "10,000", "-"]
    assert lines[-1] == "a ratio: of what"


def test_the_machine_is_told_with_versions_and_without_goals():
    facts = {row.name: row for row in machine_rows()}
    assert {"cpu", "cores", "python", "pyarrow", "torch", "commit", "date"} <= set(facts)
    assert facts["pyarrow"].value
    assert not [row for row in facts.values() if row.goal is not None or row.suite != "machine"]
