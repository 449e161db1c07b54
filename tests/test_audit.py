"""What `make audit` makes of the reports of its tools: nothing unknown counts as good."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from cluster import audit

ROOT = Path(__file__).resolve().parents[1]
SOUND = {"name": "numpy", "version": "2.3", "vulns": []}
FAULTY = {
    "name": "ray",
    "version": "2.60.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.61"]}, {"id": "GHSA-2", "fix_versions": []}],
}
SKIPPED = {"name": "ray", "skip_reason": "Dependency not found on PyPI"}


def test_every_vulnerability_is_a_line_with_what_mends_it():
    assert audit.vulnerabilities({"pypi": [SOUND, FAULTY]}) == [
        "ray 2.60.0: PYSEC-1 (mended in 2.61)",
        "ray 2.60.0: GHSA-2 (mended in no version)",
    ]
    assert audit.vulnerabilities({"pypi": [SOUND]}) == []


def test_what_one_database_does_not_know_the_other_may():
    assert audit.vulnerabilities({"pypi": [SOUND, SKIPPED], "osv": [SOUND, FAULTY]}) == [
        "ray 2.60.0: PYSEC-1 (mended in 2.61)",
        "ray 2.60.0: GHSA-2 (mended in no version)",
    ]
    (line,) = audit.vulnerabilities({"pypi": [SOUND, SKIPPED], "osv": "no answer"})
    assert line == "not audited: ray: Dependency not found on PyPI"


def test_what_one_database_has_found_stays_where_another_has_nothing():
    sound = FAULTY | {"vulns": []}
    for reports in ({"pypi": [FAULTY], "osv": [sound]}, {"pypi": [sound], "osv": [FAULTY, FAULTY]}):
        assert len(audit.vulnerabilities(reports)) == 2


@pytest.mark.parametrize(
    "reports", [{"pypi": [SKIPPED], "osv": "cannot connect"}, {"pypi": "no answer", "osv": []}, {}]
)
def test_a_lock_file_that_nobody_was_asked_about_is_unknown_and_not_free_of_faults(reports):
    (line,) = audit.vulnerabilities(reports)
    assert line.startswith("vulnerabilities are unknown, and not none")
    assert all(why in line for why in reports.values() if isinstance(why, str))


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ("MIT", True),
        ("MIT AND BSD", True),
        ("GPL OR MIT", True),
        ("(GPL OR MIT) AND BSD", True),
        ("Free (F); MIT", True),
        ("MIT AND GPL", False),
        ("MIT; GPL", False),
        ("GPL", False),
        ("UNKNOWN", False),
        ("", False),
    ],
)
def test_all_parts_of_a_licence_must_be_allowed_and_of_alternatives_one(said, allowed):
    assert audit.is_allowed(said, ["MIT", "BSD", "Free (F)"]) is allowed


def test_licences_that_are_unknown_are_named_until_a_person_has_looked():
    installed = {"a": "MIT", "b": "UNKNOWN", "c": "GPL"}
    (line,) = audit.refused_licences(installed, ["MIT"], {"c": "a tool"})
    assert line.startswith("b: licence UNKNOWN is not among")
    assert audit.refused_licences(installed, ["MIT"], {"b": "MIT", "c": "a tool"}) == []
    (line,) = audit.refused_licences({"a": "MIT"}, ["MIT"], {"z": "MIT"})
    assert line == "z stands in tool.audit.looked-up and is not installed"


def test_the_tools_are_asked_for_every_pin_and_a_failure_of_theirs_is_told(monkeypatch, capsys):
    """The tools are stood in for: PyPI skips all, and OSV cannot be reached."""
    asked = []

    def run(command, **settings):
        asked.append(command)
        if "piplicenses" in command:
            out = json.dumps([{"Name": name, "License": "MIT"} for name in looked_up])
            return subprocess.CompletedProcess(command, 0, out, "")
        if command[-1] == "pypi":
            out = json.dumps({"dependencies": [SKIPPED]})
            return subprocess.CompletedProcess(command, 0, out, "No known vulnerabilities found")
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nConnectionError: no route")

    rules = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["audit"]
    looked_up = rules["looked-up"]
    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.main("python") == 1
    assert "unknown, and not none" in capsys.readouterr().out
    assert [command[-1] for command in asked] == ["pypi", "osv", "json"]
    assert str(ROOT / "cluster" / "constraints.txt") in asked[0]


def test_the_tools_are_pinned_and_in_no_environment_of_the_project():
    pins = (ROOT / "cluster" / "audit.txt").read_text("utf-8").splitlines()[1:]
    assert pins
    assert [pin for pin in pins if not re.fullmatch(r"[\w-]+==[\d.]+", pin)] == []
    locked = (ROOT / "cluster" / "constraints.txt").read_text("utf-8")
    assert [pin for pin in pins if re.search(rf"^{pin.split('==')[0]}==", locked, re.M)] == []
