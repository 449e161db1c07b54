"""README and docs/ say what is there: links, paths, and the way that data take."""

import re
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cvmae.train.pretrain import pretrain
from tests.pages import PAGES, README, ROOT

PATH = re.compile(r"(?<![\w./$])(?:cvmae|benchmarks|jobs|docs|tests|cluster)/[\w./]*\w")
# Ray Data's side of the way, which a run in this process does not take.
ON_RAY = {"batches/on_ray.py"}
# Called for a run as a whole: counts of work, what units hold, what will be hidden and what was.
BESIDE_THE_WAY = {
    "batches/code_metrics.py",
    "batches/inclusion.py",
    "meds/code_names.py",
    "meds/unit_index.py",
    "model/flops.py",
}


def slug(heading: str) -> str:
    """Return the anchor that a heading gets."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def broken_link(page: Path, target: str) -> bool:
    file, _, anchor = target.partition("#")
    path = (page.parent / file).resolve() if file else page
    if not path.exists() or not path.is_relative_to(ROOT):
        return True
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.M) if anchor else []
    return bool(anchor) and anchor not in map(slug, headings)


def files_of_the_way() -> set[str]:
    """Return the files that the README's list names, below cvmae/."""
    section = README.text.partition("\n## How it works\n")[2].partition("\n## ")[0]
    found = set()
    for item in re.split(r"^\d+\. ", section, flags=re.M)[1:]:
        folder = item[1:].partition("]")[0]
        names = [folder] if folder.endswith(".py") else []
        names += [f"{folder}{name}" for name in re.findall(r"`(\w+\.py)`", item)]
        found |= {*names, *re.findall(r"\(cvmae/(\w+\.py)\)", item)}
    return found


def test_the_readme_stays_within_150_lines():
    assert len(README.text.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.name)
def test_links_and_paths_of_a_page_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.text)
    local = [target for target in targets if not target.startswith("https://")]
    assert [target for target in local if broken_link(page.path, target)] == []
    assert [path for path in PATH.findall(page.text) if not (ROOT / path).exists()] == []


def test_the_readme_leads_to_every_page():
    linked = set(re.findall(r"\]\(([\w/]+\.md)", README.text))
    assert linked == {page.path.relative_to(ROOT).as_posix() for page in PAGES[1:]}


@pytest.mark.slow  # every call of a run is noted
def test_the_way_that_the_readme_describes_is_the_way_of_a_measurement(tiny):
    called = set()

    def note(frame, event, argument):
        if event == "call":
            called.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        pretrain(replace(tiny, train=replace(tiny.train, epochs=1)))
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    package = f"{ROOT / 'cvmae'}/"
    taken = {path.removeprefix(package) for path in called if path.startswith(package)}
    named = files_of_the_way()
    assert named - taken == ON_RAY
    # A folder's own file says which of its files are there to be called.
    files = {path for path in taken if not path.endswith("/__init__.py")}
    rooms = {path for path in files if path.startswith(("meds/", "batches/", "model/"))}
    assert rooms - named == BESIDE_THE_WAY
