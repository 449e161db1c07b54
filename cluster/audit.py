"""What `make audit` decides: known vulnerabilities of the lock file, licences of what is installed.

The databases are asked over the network, PyPI's and then OSV's. A package that neither knows has
not been audited: pip-audit would count it as free of vulnerabilities, which this does not.

    .venv/audit/bin/python cluster/audit.py .venv/bin/python
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK_FILE = ROOT / "cluster" / "constraints.txt"
DATABASES = ("pypi", "osv")
SHOWN = 5  # packages that a line names

Dependency = Mapping[str, Any]  # an entry of pip-audit's report
Licences = Mapping[str, str]  # package -> what it says of its licence


def main(python: str) -> int:
    """Print what was found; return 1 where something is wrong or unknown.

    Args:
        python: Of the environment whose licences are read.
    """
    with (ROOT / "pyproject.toml").open("rb") as file:
        rules = tomllib.load(file)["tool"]["audit"]
    findings = [
        *vulnerabilities(_audited()),
        *refused_licences(_installed(python), rules["licences"], rules["looked-up"]),
    ]
    for line in findings:
        print(line)
    print("audit: " + (f"{len(findings)} findings" if findings else "nothing found"))
    return 1 if findings else 0


def vulnerabilities(reports: Mapping[str, Sequence[Dependency] | str]) -> list[str]:
    """Return a line for each known vulnerability, and one for what no database could tell.

    Args:
        reports: Of each database that was asked, its entries, or why there are none. A package is
            known where one of them has it.
    """
    known: dict[str, Dependency] = {}
    unknown: dict[str, str] = {}
    for found in reports.values():
        for entry in () if isinstance(found, str) else found:
            if "skip_reason" in entry:
                unknown.setdefault(entry["name"], entry["skip_reason"])
            else:
                before = known.get(entry["name"], {"vulns": []})["vulns"]
                by_id = {one["id"]: one for one in [*before, *entry["vulns"]]}
                known[entry["name"]] = {**entry, "vulns": list(by_id.values())}
    lines = [
        f"{name} {entry['version']}: {found['id']} "
        f"(mended in {', '.join(found['fix_versions']) or 'no version'})"
        for name, entry in sorted(known.items())
        for found in entry["vulns"]
    ]
    left = sorted(unknown.keys() - known.keys())
    silent = [f"{name} ({why})" for name, why in reports.items() if isinstance(why, str)]
    if not known:
        lines.append(
            "vulnerabilities are unknown, and not none: no database could be asked about the lock "
            f"file ({'; '.join(silent + _in_short(left, unknown))}). Run make audit on a machine "
            "that reaches pypi.org/pypi/NAME/VERSION/json or api.osv.dev"
        )
    elif left:
        lines.append(f"not audited: {'; '.join(_in_short(left, unknown))}")
    return lines


def refused_licences(installed: Licences, allowed: Sequence[str], looked_up: Licences) -> list[str]:
    """Return a line for each package whose licence is not allowed or not known.

    Args:
        installed: What each package says.
        allowed: Licences, each by all the names that packages give it.
        looked_up: What a person has found of packages that say nothing, or that may stay although
            their licence is not allowed, with the reason.
    """
    refused = {
        name: said
        for name, said in installed.items()
        if name not in looked_up and not is_allowed(said, allowed)
    }
    lines = [
        f"{name}: licence {said} is not among tool.audit.licences of pyproject.toml: read it, and "
        "add it there, or the package with what you found to tool.audit.looked-up"
        for name, said in sorted(refused.items())
    ]
    gone = sorted(looked_up.keys() - installed.keys())
    return lines + [f"{name} stands in tool.audit.looked-up and is not installed" for name in gone]


def is_allowed(said: str, allowed: Sequence[str]) -> bool:
    """Tell whether all parts of a licence are allowed, of alternatives one.

    Example:
        >>> is_allowed("(MIT OR GPL-2.0-only) AND BSD-3-Clause", ["MIT", "BSD-3-Clause"])
        True
    """
    if said in allowed:
        return True
    return all(
        any(one.strip() in allowed or one.strip(" ()") in allowed for one in part.split(" OR "))
        for part in re.split(r" AND |; ", said)
    )


def _in_short(names: Sequence[str], reasons: Mapping[str, str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{', '.join(names[:SHOWN])}{more}: {reasons[names[0]]}"]


def _audited() -> dict[str, Sequence[Dependency] | str]:
    """Ask one database after the other, until one knows all."""
    reports: dict[str, Sequence[Dependency] | str] = {}
    for database in DATABASES:
        command = [sys.executable, "-m", "pip_audit", "-r", str(LOCK_FILE), "--no-deps"]
        command += ["--disable-pip", "--progress-spinner", "off", "-f", "json", "-s", database]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            found: list[Dependency] = json.loads(done.stdout)["dependencies"]
        except ValueError:  # it ends with 1 where it has found something, and where it has failed
            reports[database] = (done.stderr.strip().splitlines() or ["no answer"])[-1][:160]
            continue
        reports[database] = found
        if not any("skip_reason" in entry for entry in found):
            break
    return reports


def _installed(python: str) -> Licences:
    command = [sys.executable, "-m", "piplicenses", "--python", python]
    command += ["--from", "mixed", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {row["Name"]: row["License"] for row in json.loads(done.stdout)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
