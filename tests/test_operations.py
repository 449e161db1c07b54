"""The page on operations quotes what the program says, and its commands and figures are real."""

import ast
import re

import pytest

from tests.pages import PAGES, ROOT, job_and_flags, logical_lines
from tests.plan.test_plan import printed
from tests.test_commands import parse

PAGE = next(page for page in PAGES if page.path.name == "operations.md")
GAP = "\0"  # in a text of the code, what is known only when it is said
PLACEHOLDER = re.compile(r"%[-+#.\d,]*[srdgf]")


def section(heading: str) -> str:
    """Return what stands below a heading."""
    return PAGE.text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def said_by_the_code() -> list[str]:
    """Return every text of the package, with a gap for each part that differs."""
    texts = []
    for path in sorted((ROOT / "cvmae").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else GAP for p in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(PLACEHOLDER.sub(GAP, node.value))
    return texts


CODE = said_by_the_code()
QUOTES = re.findall(r"^\| `(.+?)` \|", section("What failures look like"), re.M)
JOBS = [
    line
    for block in PAGE.blocks("text")
    for line in logical_lines(block)
    if line.startswith("python jobs/")
]


@pytest.mark.parametrize("quote", QUOTES)
def test_what_the_page_quotes_is_said_by_the_code(quote):
    parts = [re.escape(part) for part in quote.split("...") if part]
    wanted = re.compile(".*".join(parts), re.S)
    assert any(wanted.search(text) for text in CODE)


def test_many_failures_are_quoted_and_none_twice():
    assert len(QUOTES) > 20
    assert len(set(QUOTES)) == len(QUOTES)
    assert all(len(quote.replace(".", "").strip()) > 10 for quote in QUOTES)


@pytest.mark.parametrize("command", JOBS)
def test_a_job_of_the_page_parses(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = command.replace("$RUNS", "runs").replace("$DATA", "meds")
    for run in re.findall(r"--resume (runs/\w+)", here):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "config.yaml").write_text("mask.policy: cv\n", encoding="utf-8")
    parse(here)


def test_the_table_of_sizes_is_what_plan_prints_for_the_lines_above_it():
    part = section("How large a cluster")
    header, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\|.*\|$", part, re.M)
        if "---" not in line
    ]
    asked = [
        dict(zip(flags[::2], flags[1::2], strict=True))
        for _, flags in map(
            job_and_flags, [line for line in JOBS if "plan.py --num_measurements" in line]
        )
    ]
    assert [row[:2] for row in rows] == [list(flags.values()) for flags in asked]
    for row in rows:
        found = printed(num_measurements=float(row[0]), num_gpus=int(row[1]))
        *exact, whole = zip(header[2:], row[2:], strict=True)
        assert dict(exact) == {name: found[name][0] for name, _ in exact}
        # It holds the time that planning takes, which is measured each time.
        shown, now = (float(text.split()[0]) for text in (whole[1], found[whole[0]][0]))
        assert shown == pytest.approx(now, rel=0.1)
