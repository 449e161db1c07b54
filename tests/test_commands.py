"""What README and docs/ tell a reader to type works, in the order in which they tell it."""

import ast
import contextlib
import io
import os
import re
import runpy
import shlex
import sys
from pathlib import Path
from pkgutil import resolve_name

import pandas as pd
import pyarrow.parquet as pq
import pytest
import tyro

from benchmarks.peers.suite import PeersConfig
from benchmarks.settings import BenchmarkConfig
from cvmae.command_line import DRY_RUN, VERBS, load
from cvmae.config import PRESETS, Config, flatten
from cvmae.settings import DataConfig, ScalingConfig
from cvmae.validate.validate import check
from tests.pages import COMMANDS, PAGES, README, ROOT, job_and_flags, logical_lines
from tests.train.planted import planted_labels, write_labels

JOBS = sorted((ROOT / "jobs").glob("*.py"))
# Jobs with a small tree of settings of their own; all others take a Config.
TREES = {name: resolve_name(verb.tree) for name, verb in VERBS.items() if verb.tree}
OWN_COMMAND_LINE = {"benchmark": BenchmarkConfig} | TREES
LINES = list(dict.fromkeys(line for page in PAGES for line in page.commands()))
INLINE = [code for page in PAGES for code in page.inline()]
# What makes a documented run small enough for a test: the last of two flags wins.
SMALL = shlex.split(
    "--scaling.num_workers 0 --train.strategy ddp --model.width 16 --model.num_layers 1 "
    "--model.num_heads 2 --model.num_decoder_layers 1 --train.epochs 1 --sweep.epochs 1 "
    "--evaluate.min_scored 2 --evaluate.bootstrap_samples 10"
)
LABS = pd.DataFrame(
    {
        "subject_id": [7, 5, 5, 5],
        "time": ["2020-01-02 10:00", "2020-01-01 12:30", "2020-01-01 08:00", ""],
        "code": ["LAB//sodium//mEq/L", "LAB//glucose//mg/dL", "LAB//sodium//mEq/L", "GENDER//F"],
        "numeric_value": [139.5, 110, 141, None],
    }
)


def parse(command: str) -> None:
    """Parse a command line as the program that it calls does; on a wrong one, exit."""
    if command.startswith("make "):
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        words = shlex.split(command)[1:]
        assert [word for word in words if "=" not in word and word not in targets] == []
    elif command.startswith("python -m benchmarks.peers "):
        tyro.cli(PeersConfig, args=shlex.split(command)[3:], use_underscores=True)
    else:
        job, flags = job_and_flags(command)
        flags = [flag for flag in flags if flag != DRY_RUN]
        assert (ROOT / "jobs" / f"{job}.py").is_file()
        if job in OWN_COMMAND_LINE:
            tyro.cli(OWN_COMMAND_LINE[job], args=flags, use_underscores=True)
        elif "--help" not in flags:
            load(flags)


def run_snippet(folder: Path) -> str:
    """Run the README's lines that write a data set from labs.csv; return the data set's folder."""
    exec(README.blocks("python")[0], {})
    return str(folder / "meds")


def test_the_readme_shows_every_verb_here_and_submitted():
    here = {job_and_flags(line)[0] for line in COMMANDS if not line.startswith("ray ")}
    submitted = {job_and_flags(line)[0] for line in COMMANDS if line.startswith("ray ")}
    assert {"validate", "fit_statistics", "pretrain", "sweep", "evaluate"} <= here
    assert {"pretrain", "sweep", "evaluate"} <= submitted


@pytest.mark.parametrize(
    "command",
    [
        *(line for line in LINES if not re.match(r"export \w+=\S+$|\w+=\S+$", line)),
        *dict.fromkeys(code for code in INLINE if re.match(r"make \w|python (jobs/|-m )", code)),
    ],
)
def test_a_command_of_the_pages_parses(command, tmp_path, monkeypatch):
    # Some lines continue or repeat the run that a line before them has made.
    for run in re.findall(r"--(?:resume|base) (runs/\w+)", command):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "config.yaml").write_text("mask.policy: cv\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    parse(command)


def test_settings_that_the_pages_name_exist():
    settings = flatten(Config())
    rooms = {name.partition(".")[0] for name in settings if "." in name}
    words = re.findall(r"[^\s=]+", " ".join(INLINE))
    named = [word.removeprefix("--") for word in words if re.fullmatch(r"(--)?\w+\.\w+", word)]
    files = re.compile(r".*\.(py|json)")  # tracking.json
    flags = [word for word in named if word.partition(".")[0] in rooms and not files.match(word)]
    assert len(flags) > 20
    assert [flag for flag in flags if flag not in settings] == []


def test_the_help_that_is_quoted_is_the_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # one column of panels
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        load(["--help"])
    # Frames and colours aside.
    help_text = " ".join(re.sub(r"\x1b\[[\d;]*m|[^\x20-\x7e]", " ", shown.getvalue()).split())
    blocks = [block for page in PAGES for block in page.blocks("text")]
    quoted = next(block for block in blocks if block.startswith("--"))
    assert [line for line in logical_lines(quoted) if line not in help_text] == []


def test_the_table_of_presets_is_true():
    settings = next(page for page in PAGES if page.path.name == "settings.md")
    row = r"^\| `(\w+)` \|.*?\| (\d.*?) \| (\d+) \| (\S+), .*? \| (\d+) \|$"
    rows = re.findall(row, settings.text, re.M)
    assert [row[0] for row in rows] == list(PRESETS)
    for name, sizes, sequences, rate, epochs in rows:
        model, train = PRESETS[name].model, PRESETS[name].train
        wanted = (model.width, model.num_layers, model.num_heads, model.num_decoder_layers)
        assert sizes == ", ".join(map(str, wanted))
        assert (int(sequences), int(epochs)) == (train.batch_sequences, train.epochs)
        assert float(rate) == PRESETS[name].optim.lr


def test_every_verb_has_a_job_that_calls_it_by_its_name():
    # Measuring is no part of the package, and so no verb of it.
    calls = {path.stem: path.read_text(encoding="utf-8").splitlines()[-1] for path in JOBS}
    assert (
        calls.pop("benchmark")
        == "    run_job(benchmark, tree=BenchmarkConfig, asks=benchmark_asked)"
    )
    assert calls == {name: f'    main("{name}")' for name in VERBS}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_jobs_docstring_says_how_to_submit_it(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    lines = [line for line in logical_lines(docstring) if line.startswith("ray ")]
    assert lines, "the docstring has no `ray job submit` line"
    for line in lines:
        assert job_and_flags(line)[0] == path.stem
        parse(line)


def test_the_snippet_makes_a_data_set_of_a_data_frame_in_any_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    LABS.to_csv("labs.csv", index=False)
    rows = pq.read_table(f"{run_snippet(tmp_path)}/data/0.parquet").to_pylist()
    assert [(row["subject_id"], row["numeric_value"]) for row in rows] == [
        (5, None),
        (5, 141),
        (5, 110),
        (7, 139.5),
    ]


@pytest.fixture
def from_a_data_frame(hospital, tmp_path, monkeypatch):
    """A data set in the working folder, made of a hospital's rows by the README's snippet."""
    monkeypatch.chdir(tmp_path)
    shards = [pq.read_table(path).to_pandas() for path in Path(hospital).glob("data/**/*.parquet")]
    columns = ["subject_id", "time", "code", "numeric_value"]
    pd.concat(shards)[columns].sample(frac=1, random_state=0).to_csv("labs.csv", index=False)
    root = run_snippet(tmp_path)
    for task in dict.fromkeys(re.findall(r"\$DATA/labels/(\w+)", " ".join(COMMANDS))):
        write_labels(Path(root, "labels", task, "0.parquet"), planted_labels(root))
    return root


def test_what_the_snippet_writes_is_accepted(from_a_data_frame):
    validation = check(
        Config(data=DataConfig(root=from_a_data_frame), scaling=ScalingConfig(num_workers=0))
    )
    assert validation.accepted, validation.as_text()


@pytest.mark.slow
def test_the_commands_of_the_pages_run_one_after_another(from_a_data_frame, monkeypatch):
    written = set()
    for command in COMMANDS:
        # SMALL trains for one epoch, which a trial's folder tells.
        here = re.sub(r"_epochs\d+_", "_epochs1_", command.replace("$DATA", from_a_data_frame))
        job, flags = job_and_flags(here)
        if command.startswith("ray ") or "--help" in flags or job in OWN_COMMAND_LINE:
            continue
        monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", *flags, *SMALL])
        runpy.run_path(str(ROOT / "jobs" / f"{job}.py"), run_name="__main__")
        if DRY_RUN not in flags:
            written |= set(re.findall(r"--output_dir runs/(\w+)", here))
    assert Path("runs/evaluation/report.html").is_file()
    assert set(os.listdir("runs")) == written
