"""The tests that need a GPU, where pytest is installed."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.gpu.sizes import Sizes, gpu_row
from benchmarks.rows import Row

__all__ = ["marked_test_rows"]

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"^\s*@?pytest\.mark\.gpu,?$", re.MULTILINE)  # of a test, or of what it is given
NAME = "tests: failed ones of those marked gpu"


def marked_test_rows(device: torch.device, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Yield how many of the tests marked gpu fail."""
    if find_spec("pytest") is None:
        yield gpu_row(NAME, None, goal=0, note="pytest is not installed")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    found = subprocess.run(
        [*command, *(sizes.tests or marked_places())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    last = (found.stdout.strip().splitlines() or ["nothing was said"])[-1]
    counts = {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", last)}
    failed = counts.get("failed", 0) + counts.get("errors", 0) + counts.get("error", 0)
    if found.returncode not in (0, 1, 5):  # 1: some fail; 5: there are none
        raise RuntimeError(f"pytest ended with {found.returncode}: {found.stdout[-2000:]}")
    names = " ".join(re.findall(r"^FAILED (\S+)", found.stdout, re.MULTILINE))
    yield gpu_row(NAME, failed, goal=0, note=f"{last} {names}".strip())


def marked_places() -> list[str]:
    """Return where such tests are; the others import what a machine for this suite may lack."""
    places = set()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if MARK.search(path.read_text(encoding="utf-8")):
            places.add(path.parent if path.name == "conftest.py" else path)
    return [str(path.relative_to(ROOT)) for path in sorted(places)]
