"""The image, Ray's launcher, SkyPilot's task and the Slurm script are what their tools read."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cvmae.command_line import load
from cvmae.config import Config
from tests.cluster.definitions import CLUSTER, document, errors, ray, skypilot
from tests.pages import WAIT, job_and_flags, logical_lines

LAUNCHER, TASK, SCRIPT = "launcher_aws.yaml", "skypilot.yaml", "pretrain.slurm"
# What the shell puts into the lines of a script, for the parsers of what they call.
FILLED = {
    '"$@"': "--base paper --scaling.num_workers 2 --scaling.use_gpu True",
    r"\$\(\([^)]*\)\)": "1",
    r"\$\{\w+:-(\w+)\}": r"\1",
    r"\$(SKYPILOT_NUM\w+|SLURM_CPUS\w*|port)": "2",
    r"\$\{?(\w+)\}?": r"\1",
    r'"(jobs/\w+\.py)"': r"\1",
}
START = re.compile(r'ray start|^on "')


def text_of(name: str) -> str:
    return (CLUSTER / name).read_text(encoding="utf-8")


def script_of(name: str) -> str:
    return text_of(name) if name == SCRIPT else document(name)["run"]


def filled(text: str) -> str:
    lines = "\n".join(line for line in logical_lines(text) if not line.startswith("#"))
    for pattern, value in FILLED.items():
        lines = re.sub(re.escape(pattern) if pattern == '"$@"' else pattern, value, lines)
    return lines


def run_of(name: str) -> Config:
    """Return the settings that the only call of a job in a script gives."""
    (call,) = re.findall(r"python jobs/.*", filled(script_of(name)))
    job, flags = job_and_flags(call)
    assert job == "pretrain"
    return load(flags)


def start_options(name: str) -> set[str]:
    """Return the options that a file gives to `ray start`."""
    if name == LAUNCHER:
        found = document(name)
        lines = [*found["head_start_ray_commands"], *found["worker_start_ray_commands"]]
    else:
        # In the Slurm script, `on NODE OPTIONS` starts the Ray of a node.
        lines = logical_lines(script_of(name))
    calls = [re.split(r"ray start|^on ", line)[-1] for line in lines if START.search(line)]
    return {option for call in calls for option in re.findall(r"--[a-z-]+", call)}


def tool(name: str) -> str:
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not path:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.mark.parametrize("name", [LAUNCHER, TASK])
def test_a_file_is_what_its_tool_allows(name):
    assert errors(document(name), {LAUNCHER: ray, TASK: skypilot}[name]()) == []


@pytest.mark.parametrize(
    ("name", "place", "key"),
    [
        (LAUNCHER, (), "max_worker"),
        (LAUNCHER, ("docker",), "images"),
        (TASK, (), "num_node"),
        (TASK, ("resources",), "spot"),
    ],
)
def test_a_misspelt_key_is_found_out(name, place, key):
    found = document(name)
    part = found
    for step in place:
        part = part[step]
    part[key] = 1
    assert len(errors(found, {LAUNCHER: ray, TASK: skypilot}[name]())) == 1


def test_the_launcher_has_a_head_that_stays_and_workers_that_may_be_taken_away():
    found = document(LAUNCHER)
    kinds: dict[str, Any] = found["available_node_types"]
    market = {
        name: kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        for name, kind in kinds.items()
    }
    assert market == {found["head_node_type"]: None, "gpu": "spot", "data": "spot"}
    assert kinds["data"]["min_workers"] < kinds["data"]["max_workers"]
    most = sum(kind.get("max_workers", 0) for kind in kinds.values())
    assert found["max_workers"] == most
    assert "~/.ray/auth_token" in found["file_mounts"]


@pytest.fixture(scope="module")
def options_of_ray() -> set[str]:
    """What `ray start` takes."""
    shown = subprocess.run(
        [tool("ray"), "start", "--help"], capture_output=True, text=True, check=True
    ).stdout
    return set(re.findall(r"--[a-z-]+", shown))


@pytest.mark.parametrize("name", [LAUNCHER, TASK, SCRIPT])
def test_rays_start_by_options_that_ray_has_and_listen_on_loopback(name, options_of_ray):
    options = start_options(name)
    assert {"--head", "--address", "--port", "--dashboard-host"} <= options
    assert options <= options_of_ray
    assert re.findall(r"dashboard-host=(\S+)", text_of(name)) == ["127.0.0.1"]


@pytest.mark.parametrize("name", [LAUNCHER, TASK, SCRIPT])
def test_rays_ask_for_a_token_that_stands_in_no_file(name):
    text = "\n".join(line for line in text_of(name).splitlines() if not line.startswith("#"))
    if name == LAUNCHER:
        assert all(
            "RAY_AUTH_MODE=token" in line for line in text.splitlines() if "ray start" in line
        )
    else:
        assert text.index("RAY_AUTH_MODE=token") < text.index("ray start")
    assert re.findall(r"RAY_AUTH_TOKEN[=:] *(\S+)", text) in (
        [],
        ["null"],
        ["$(od"],
    )


@pytest.mark.parametrize("name", [TASK, SCRIPT])
def test_the_run_of_a_script_is_begun_or_continued_by_one_line(name):
    config = run_of(name)
    assert config.scaling.num_workers == 2
    assert config.scaling.use_gpu
    assert config.output_dir.endswith("OUT")
    (call,) = re.findall(r"python jobs/.*", filled(script_of(name)))
    assert '--output_dir "OUT" --resume "OUT"' in call


def test_a_preempted_run_comes_again_in_slurm_and_skypilot():
    assert document(TASK)["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert {"--requeue", "--open-mode=append"} <= set(directives())
    # B: the script alone, not the tasks, and before the time is over.
    (signal,) = [flag for flag in directives() if flag.startswith("--signal")]
    assert re.fullmatch(r"--signal=B:TERM@\d{2,}", signal)


def test_rays_nodes_are_on_their_own_before_the_script_of_skypilot_ends():
    lines = script_of(TASK).splitlines()
    join = next(n for n, line in enumerate(lines) if "ray start --address" in line)
    after = [line.split() for line in lines[join + 1 :] if line.strip()[:1] != "#"]
    assert after[:2] == [["sleep", "10"], ["exit"]]


def directives() -> list[str]:
    return re.findall(r"^#SBATCH (\S+)$", text_of(SCRIPT), re.M)


def test_slurm_reads_the_directives_before_the_first_command():
    before = text_of(SCRIPT).partition("\nset -euo pipefail\n")[0]
    assert len(re.findall(r"^#SBATCH ", before, re.M)) == len(directives()) == 10
    assert all(line.startswith("#") for line in before.splitlines())


def test_examples_at_the_top_of_the_scripts_parse():
    example = re.search(r"# +ROOT=(.*?)\n#\n", text_of(SCRIPT), re.S)[1].replace("\n#", " ")
    flags = shlex.split(example.replace("\\", " ").partition("pretrain.slurm")[2])
    assert load(flags).scaling.num_workers == 2
    asked = re.findall(r"--(env|secret) (\w+)", text_of(TASK))
    assert {name for kind, name in asked if kind == "secret"} == set(document(TASK)["secrets"])
    assert {name for kind, name in asked if kind == "env"} == set(document(TASK)["envs"])


@pytest.mark.parametrize("name", [SCRIPT, TASK, LAUNCHER])
def test_the_shell_of_a_file_passes_shellcheck(name, tmp_path):
    check = tool("shellcheck")
    if name == SCRIPT:
        scripts = [text_of(name)]
    elif name == TASK:
        scripts = [document(name)[part] for part in ("setup", "run")]
    else:
        found = document(name)
        scripts = ["\n".join(found[f"{kind}_start_ray_commands"]) for kind in ("head", "worker")]
    for number, script in enumerate(scripts):
        path = tmp_path / f"{number}.sh"
        path.write_text(script, encoding="utf-8")
        # It cannot follow the environment's own script.
        done = subprocess.run(
            [check, "--shell=bash", "--exclude=SC1091", path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_the_image_passes_hadolint():
    done = subprocess.run(
        [tool("hadolint"), CLUSTER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_image_installs_as_make_does_and_is_not_root():
    lines = logical_lines(text_of("Dockerfile"))
    assert lines[-1] == "COPY --chown=1000 . ."
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER 1000"]
    install = next(line for line in lines if line.startswith("RUN make install"))
    assert lines.index(users[0]) < lines.index(install)
    version = re.search(r"PYTHON=(python3\.1[123]) ", install)[1]
    assert f"{version}-venv" in text_of("Dockerfile")
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[2:-1]}
    assert all((CLUSTER.parent / name).exists() for name in copied)


def test_the_image_is_told_its_commit_as_a_run_tells_its_own():
    from cvmae.tracking.origin import IMAGE_COMMIT

    assert f'\nARG COMMIT=""\nENV {IMAGE_COMMIT}=$COMMIT\n' in text_of("Dockerfile")
    (asked,) = re.findall(r'--build-arg COMMIT="\$\((git .*?)\)"', text_of("Dockerfile"))
    page = (CLUSTER.parent / "docs/cluster.md").read_text(encoding="utf-8")
    assert re.findall(r'--build-arg COMMIT="\$\((git .*?)\)"', page) == [asked]
    source = (CLUSTER.parent / "cvmae/tracking/origin.py").read_text(encoding="utf-8")
    assert all(f'"{word}"' in source for word in shlex.split(asked))


def test_what_goes_into_the_image_is_named_and_there():
    lines = [line for line in text_of("Dockerfile.dockerignore").splitlines() if line[:1] != "#"]
    assert lines[0] == "*"
    named = [line[1:] for line in lines if line.startswith("!") and "/" not in line]
    assert [name for name in named if not (CLUSTER.parent / name).exists()] == []
    # Everything that the environment is installed from, or that tests read.
    assert {"Makefile", "pyproject.toml", "cluster", "cvmae", "jobs", "tests"} <= set(named)
    # Lines and manifests call it by its path in the image.
    (folder,) = re.findall(r"^WORKDIR (.*)$", text_of("Dockerfile"), re.M)
    assert (CLUSTER.parent / Path(WAIT).relative_to(folder)).is_file()
    assert lines.index("**/*.parquet") > max(lines.index(f"!{name}") for name in named)


class FakeRay:
    """Whose nodes join one with each look."""

    def __init__(self) -> None:
        self.looks = 0

    def nodes(self) -> list[dict[str, bool]]:
        self.looks += 1
        if self.looks == 1:
            raise ConnectionError("no head yet")
        return [{"Alive": True}] * (self.looks - 1) + [{"Alive": False}]


@pytest.fixture
def await_nodes(monkeypatch):
    import ray as installed

    fake = FakeRay()
    for name in ("init", "shutdown"):
        monkeypatch.setattr(installed, name, lambda **options: None)
    monkeypatch.setattr(installed, "is_initialized", lambda: False)
    monkeypatch.setattr(installed, "nodes", fake.nodes)
    monkeypatch.setattr(installed, "cluster_resources", lambda: {"CPU": 6.0, "GPU": 2.0})
    return runpy.run_path(str(CLUSTER / "await_nodes.py"))["await_nodes"]


def test_what_follows_the_number_of_nodes_is_run_in_the_place_of_the_wait(await_nodes, monkeypatch):
    """In its place: a signal that ends a job reaches it."""
    begun = []
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("os.execvp", lambda program, words: begun.append((program, words)))
    words = ["cvmae", "pretrain", "--base", "paper"]
    for program in ([], words):
        monkeypatch.setattr(sys, "argv", ["await_nodes.py", "3", *program])
        runpy.run_path(str(CLUSTER / "await_nodes.py"), run_name="__main__")
    assert begun == [("cvmae", words)]


def test_a_job_waits_until_all_nodes_have_joined(await_nodes, monkeypatch, capsys):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    await_nodes(3)
    assert capsys.readouterr().out == "3 nodes, 6 CPUs, 2 GPUs\n"


def test_nodes_that_do_not_come_end_a_job(await_nodes):
    with pytest.raises(SystemExit, match=r"of 1000000 nodes have joined Ray in 0\.02 s"):
        await_nodes(1_000_000, most_s=0.02)
