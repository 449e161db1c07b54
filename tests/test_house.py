import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cvmae.config import Config, flatten

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for room in ("cvmae", "benchmarks") for path in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
JOBS = sorted((ROOT / "jobs").glob("*.py"))
DATA = re.compile(r"\.(parquet|csv|csv\.gz|db|pt|ckpt|safetensors)$")
# Folders of one machine: what a clone elsewhere cannot have.
MACHINE_PATH = re.compile(r"(?<![\w.$}/])/(home|root|Users|work|farm|mnt|opt|tmp)/\w|\.\./shared")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def files_of_the_repository() -> list[Path]:
    """Return what git tracks or would track; without git, everything but the known litter."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    folders = ("cvmae", "benchmarks", "docs", "jobs", "cluster", "tests", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    return [path for path in [*ROOT.glob("*"), *inside] if path.is_file() and path.suffix != ".pyc"]


def broken_contracts(folder: Path) -> str:
    """Return what import-linter says of a copy of the package, '' where all contracts hold."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as check; check()",
            "--no-logo",
            "--no-cache",
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture
def copied_house(tmp_path):
    for room in ("cvmae", "benchmarks"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_rooms_import_only_what_the_contracts_allow():
    assert broken_contracts(ROOT) == ""


@pytest.mark.parametrize(
    ("module", "planted", "contract"),
    [
        ("batches/masking.py", "import cvmae.model.vomae", "Data flows one way"),
        ("model/vomae.py", "import cvmae.batches.on_ray", "The mathematics knows no cluster"),
        ("train/pretrain.py", "import ray", "The in-process way knows no cluster"),
        ("batches/sequences.py", "import torch", "Below the model, torch stays in batches"),
    ],
)
def test_a_planted_import_breaks_its_contract(copied_house, module, planted, contract):
    with (copied_house / "cvmae" / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{planted}\n")
    assert re.search(rf"{contract}.*BROKEN", broken_contracts(copied_house))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_jobs_are_thin(path):
    # Classes and functions of __main__ are pickled by value, so they belong into the package.
    source = path.read_text(encoding="utf-8")
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    assert len(source.splitlines()) <= 20


def test_flags_stay_within_the_budget():
    assert len(flatten(Config())) <= 100


def trees() -> dict[str, ast.Module]:
    """Return the syntax of each module under the name by which it is imported."""
    return {
        name_of(path).removesuffix(".py").replace("/", "."): ast.parse(path.read_text("utf-8"))
        for path in MODULES
    }


def test_functions_and_classes_that_other_modules_import_are_public():
    modules = trees()
    public: dict[str, set[str]] = {}
    for name, tree in modules.items():
        found = [
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        public[name] = {entry for value in found for entry in ast.literal_eval(value)}
    imported = {
        (node.module, alias.name)
        for tree in modules.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in modules
        for alias in node.names
        if not alias.name.isupper()
    }
    assert [(module, name) for module, name in imported if name not in public[module]] == []


def test_array_types_and_their_names_are_those_of_one_module():
    shared = {ast.unparse(node.value) for node in trees()["cvmae.arrays"].body if is_array(node)}
    again = {
        (name, ast.unparse(node))
        for name, tree in trees().items()
        for node in tree.body
        if name != "cvmae.arrays" and is_array(node) and ast.unparse(node.value) in shared
    }
    assert len(shared) == 4
    assert not again


def is_array(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("npt.NDArray[")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_short_and_says_what_it_is(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    functions = [
        node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert ast.get_docstring(tree), "the module has no docstring"
    assert len(source.splitlines()) <= 400
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > 60} == {}


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_a_file_of_tests_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_no_data_and_no_weights_are_under_version_control():
    names = [name_of(path) for path in files_of_the_repository()]
    assert [n for n in names if DATA.search(n) and not n.startswith("tests/golden/")] == []


def test_no_file_names_a_path_of_one_machine():
    found = []
    for path in files_of_the_repository():
        if path == Path(__file__).resolve():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        lines = enumerate(text.splitlines(), start=1)
        found += [f"{name_of(path)}:{n}: {line}" for n, line in lines if MACHINE_PATH.search(line)]
    assert found == []


def test_the_constraints_pin_every_dependency_exactly():
    lines = (ROOT / "cluster" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    # No local version such as +cpu, no index, link or path: those name one machine.
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    assert {"torch==2.13.0", "ray==2.60.0"} <= set(pins)
