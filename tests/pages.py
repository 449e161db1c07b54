"""README, CONTRIBUTING and docs/ as the tests read them: pages, their blocks, their commands."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

__all__ = ["COMMANDS", "PAGES", "README", "ROOT", "WAIT", "Page", "job_and_flags", "logical_lines"]

ROOT = Path(__file__).resolve().parents[1]
SUBMIT = "ray job submit --working-dir . -- "
WAIT = "/app/cluster/await_nodes.py"  # in the image


@dataclass(frozen=True)
class Page:
    """A Markdown file."""

    path: Path
    text: str

    def blocks(self, language: str) -> list[str]:
        """Return the fenced blocks of a language."""
        return re.findall(rf"^```{language}\n(.*?)^```", self.text, flags=re.M | re.S)

    def commands(self) -> list[str]:
        """Return the command lines of its blocks, comments left out."""
        return [line for block in self.blocks("bash") for line in logical_lines(block) if line]

    def inline(self) -> list[str]:
        """Return what stands between backticks in its sentences and tables."""
        prose = re.sub(r"^```.*?^```", "", self.text, flags=re.M | re.S)
        return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def logical_lines(text: str) -> list[str]:
    """Return the lines without comments, those that end in a backslash joined to the next."""
    return [line.split(" #")[0].strip() for line in re.sub(r"\\\n\s*", " ", text).splitlines()]


def job_and_flags(command: str) -> tuple[str, list[str]]:
    """Return the verb that a line calls, here or submitted, and its flags."""
    called = re.sub(rf"^python {WAIT} \d+ ", "", command.removeprefix(SUBMIT))
    match = re.fullmatch(r"python jobs/(\w+)\.py(.*)", called)
    assert match, f"not a call of a job: {command}"
    return match[1], shlex.split(match[2])


PAGES = [
    Page(path, path.read_text(encoding="utf-8"))
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ]
]
README = PAGES[0]
# Calls of a verb, in the order of the pages.
COMMANDS = [line for page in PAGES for line in page.commands() if "jobs/" in line]
