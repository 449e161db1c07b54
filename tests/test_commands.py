import ast
import contextlib
import io
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from cvmae.command_line import VERBS, load

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
JOBS = sorted((ROOT / "jobs").glob("*.py"))
# Jobs with a small tree of settings of their own; all others take a Config.
OWN_COMMAND_LINE = {"benchmark", *(name for name, verb in VERBS.items() if verb.tree)}
SUBMIT = "ray job submit --working-dir . -- "
# What makes a documented run small enough for a test: the last of two flags wins.
SMALL = shlex.split(
    "--scaling.num_workers 0 --train.strategy ddp --model.width 16 --model.num_layers 1 "
    "--model.num_heads 2 --model.num_decoder_layers 1 --train.epochs 1 --sweep.epochs 1 "
    "--evaluate.min_scored 2 --evaluate.bootstrap_samples 10"
)


def logical_lines(text: str) -> list[str]:
    """Return the lines without comments, those that end in a backslash joined to the next."""
    return [line.split(" #")[0].strip() for line in re.sub(r"\\\n\s*", " ", text).splitlines()]


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def job_and_flags(command: str) -> tuple[str, list[str]]:
    match = re.fullmatch(r"python jobs/(\w+)\.py(.*)", command.removeprefix(SUBMIT))
    assert match, f"not a call of a job: {command}"
    return match[1], shlex.split(match[2])


COMMANDS = [line for line in logical_lines("\n".join(fenced("bash"))) if "jobs/" in line]


def test_the_readme_shows_every_verb_here_and_submitted():
    here = {job_and_flags(line)[0] for line in COMMANDS if not line.startswith("ray ")}
    submitted = {job_and_flags(line)[0] for line in COMMANDS if line.startswith("ray ")}
    assert {"fit_statistics", "pretrain", "sweep", "evaluate"} <= here
    assert {"pretrain", "sweep", "evaluate"} <= submitted


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_parses(command, tmp_path, monkeypatch):
    # Some lines continue or repeat the run that a line before them has made.
    (tmp_path / "runs" / "cv").mkdir(parents=True)
    (tmp_path / "runs" / "cv" / "config.yaml").write_text("mask.policy: cv\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    job, flags = job_and_flags(command)
    assert (ROOT / "jobs" / f"{job}.py").is_file()
    if job not in OWN_COMMAND_LINE and "--help" not in flags:
        load(flags)


def test_every_verb_has_a_job_that_calls_it_by_its_name():
    # Measuring is no part of the package, and so no verb of it.
    calls = {path.stem: path.read_text(encoding="utf-8").splitlines()[-1] for path in JOBS}
    assert calls.pop("benchmark") == "    run_job(benchmark, tree=BenchmarkConfig)"
    assert calls == {name: f'    main("{name}")' for name in VERBS}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_jobs_docstring_says_how_to_submit_it(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    lines = [line for line in logical_lines(docstring) if line.startswith("ray ")]
    assert lines, "the docstring has no `ray job submit` line"
    for line in lines:
        job, flags = job_and_flags(line)
        assert job == path.stem
        if job not in OWN_COMMAND_LINE:
            load(flags)


def test_the_help_quoted_in_the_readme_is_the_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # one column of panels
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        load(["--help"])
    # Frames and colours aside.
    help_text = " ".join(re.sub(r"\x1b\[[\d;]*m|[^\x20-\x7e]", " ", shown.getvalue()).split())
    quoted = next(block for block in fenced("text") if block.startswith("--"))
    assert [line for line in logical_lines(quoted) if line not in help_text] == []


@pytest.mark.slow
def test_the_readmes_commands_run_one_after_another(hospital, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        # SMALL trains for one epoch, which a trial's folder tells.
        here = re.sub(r"_epochs\d+_", "_epochs1_", command.replace("$DATA", str(hospital)))
        job, flags = job_and_flags(here)
        if command.startswith("ray ") or "--help" in flags:
            continue
        small = [] if job in OWN_COMMAND_LINE else SMALL
        monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", *flags, *small])
        runpy.run_path(str(ROOT / "jobs" / f"{job}.py"), run_name="__main__")
    written = {"statistics", "random", "cv", "evaluation", "sweep", "here", "cv_seed1", "zero2"}
    written |= {"physionet2012", "physionet2012_evaluation"}
    written |= {"physionet2012_vitals", "physionet2012_vitals_evaluation"}
    assert set(os.listdir("runs")) == written
