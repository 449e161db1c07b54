"""What continuous integration runs, with a `make` that notes what it is asked for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONG_AGO = "2020-01-01T00:00:00+00:00"


class Repository:
    """A clone of which only `.ci/run` is ours."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / ".ci", root / ".ci")
        self.git("init", "--quiet", "--initial-branch", "main")
        self.commit("README.md", date=LONG_AGO)

    def git(self, *words: str, **environment: str) -> None:
        author = {
            f"GIT_{who}_{what}": "a@b"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        subprocess.run(
            ["git", *words], cwd=self.root, check=True, env=os.environ | author | environment
        )

    def commit(self, name: str, date: str = "") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
        self.git("add", name)
        dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date} if date else {}
        self.git("commit", "--quiet", "--message", name, **dates)

    def made(self, failing: str = "") -> tuple[list[str], int]:
        """Return what `make` is asked for, and the exit code where it fails at one target."""
        (tools := self.root.parent / "tools").mkdir(exist_ok=True)
        asked = self.root.parent / "asked"
        asked.write_text("")
        (tools / "make").write_text(
            f'#!/bin/sh\necho "$@" >> "{asked}"\n[ "$1" != "{failing}" ]\n', encoding="utf-8"
        )
        (tools / "make").chmod(0o755)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run([self.root / ".ci" / "run"], env=os.environ | {"PATH": path})
        return asked.read_text().split(), done.returncode


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "clone")


@pytest.mark.parametrize(
    "name",
    [
        "cvmae/runtime/ranks.py",
        "cvmae/batches/on_ray.py",
        "cvmae/train/workers.py",
        "benchmarks/data/streaming.py",
        "cvmae/sweep/tune.py",
        "cvmae/checkpoint.py",
    ],
)
def test_survival_is_tried_on_the_day_of_a_change_to_it_and_not_later(repository, name):
    repository.commit(name, date=LONG_AGO)
    repository.commit("cvmae/model/vomae.py")
    assert repository.made() == (["test"], 0)
    (repository.root / name).write_text("changed")
    repository.git("commit", "--quiet", "--all", "--message", "changed")
    repository.commit("docs/later.md")
    assert repository.made() == (["test", "survival"], 0)


def test_a_merge_counts_on_its_day_however_old_its_commits_are(repository):
    repository.git("switch", "--quiet", "--create", "branch")
    repository.commit("cvmae/checkpoint.py", date=LONG_AGO)
    repository.git("switch", "--quiet", "main")
    assert repository.made() == (["test"], 0)
    repository.git("merge", "--quiet", "--no-ff", "--message", "merged", "branch")
    assert repository.made() == (["test", "survival"], 0)


def test_a_change_of_the_day_is_seen_below_an_older_commit(repository):
    repository.commit("cvmae/checkpoint.py")
    repository.commit("docs/older.md", date=LONG_AGO)
    assert repository.made() == (["test", "survival"], 0)


def test_all_is_tried_in_a_folder_of_another_repository(repository):
    shutil.rmtree(repository.root / ".git")
    outer = Repository(repository.root.parent / "outer")
    inner = outer.root / "inner"
    shutil.copytree(ROOT / ".ci", inner / ".ci")
    outer.root = inner
    assert outer.made() == (["test", "survival"], 0)


@pytest.mark.parametrize("failing", ["test", "survival"])
def test_a_failure_of_either_fails_the_whole_and_both_are_run(repository, failing):
    repository.commit("cvmae/checkpoint.py")
    assert repository.made(failing) == (["test", "survival"], 1)


def test_all_is_tried_where_there_is_no_history(repository):
    shutil.rmtree(repository.root / ".git")
    assert repository.made() == (["test", "survival"], 0)
