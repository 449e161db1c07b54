"""What docs/cluster.md tells a reader to type names what is there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cvmae.command_line import load
from tests.cluster.definitions import CLUSTER, document
from tests.pages import PAGES, ROOT, job_and_flags, logical_lines

PAGE = next(page for page in PAGES if page.path.name == "cluster.md")
LINES = [line for block in PAGE.blocks("sh") for line in logical_lines(block) if line]


def called(program: str) -> list[list[str]]:
    """Return the words of the lines that call a program, variables before it left out."""
    found = [shlex.split(re.sub(r"^(\w+=\S+ )+", "", line)) for line in LINES]
    return [words for words in found if words[0] == program]


def test_every_file_of_the_cluster_is_in_its_table():
    named = set(re.findall(r"`cluster/([\w/.]+)`", PAGE.text.partition("\n## ")[0]))
    there = {
        path.relative_to(CLUSTER).as_posix()
        for path in CLUSTER.rglob("*")
        if path.is_file() and path.suffix not in {".dockerignore", ".py", ".pyc"}
    }
    assert named == there


def test_every_file_of_the_cluster_says_first_what_was_checked_and_what_was_not():
    for path in CLUSTER.rglob("*"):
        if path.suffix in {".yaml", ".slurm"} or path.name == "Dockerfile":
            lines = path.read_text(encoding="utf-8").removeprefix("#!/bin/bash\n").splitlines()
            first = " ".join(line[2:] for line in lines[: lines.index("#")])
            assert first.startswith("Checked "), path.name
            assert re.search(r"; (never|not) ", first), path.name


@pytest.mark.parametrize("line", LINES)
def test_files_that_a_line_names_are_there(line):
    named = re.findall(r"cluster/[\w/.]+", line)
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_lines_for_slurm_on_several_nodes_parse():
    lines = [words for words in called("sbatch") if "--wrap" not in words]
    assert len(lines) == 2
    for words in lines:
        config = load(words[words.index("cluster/pretrain.slurm") + 1 :])
        assert config.scaling.num_workers == 2


def test_the_lines_for_slurm_on_one_node_call_jobs_without_ray():
    calls = [words[words.index("--wrap") + 1] for words in called("sbatch") if "--wrap" in words]
    verbs = set()
    for call in calls:
        verb, flags = job_and_flags(call)
        assert load(flags).scaling.num_workers == 0
        verbs.add(verb)
    assert verbs == {"validate", "evaluate"}


def test_what_kubectl_asks_for_has_the_names_of_the_manifests():
    job = document("kubernetes/rayjob.yaml")["metadata"]["name"]
    cluster = document("kubernetes/raycluster.yaml")["metadata"]["name"]
    lines = "\n".join(LINES)
    assert f"kubectl get rayjob {job} " in lines
    assert f"service/{cluster}-head-svc 8265:8265" in lines
    assert f"kubectl get secret {cluster} " in lines
    container = document("kubernetes/rayjob.yaml")["spec"]["rayClusterSpec"]["headGroupSpec"]
    (container,) = container["template"]["spec"]["containers"]
    made = re.findall(r"secret generic (\S+)", lines)
    assert made == [source["secretRef"]["name"] for source in container["envFrom"]]


def test_what_skypilot_is_given_is_asked_for_by_its_task():
    task = document("skypilot.yaml")
    (launch,) = [words for words in called("sky") if "launch" in words]
    given = {k: launch[n + 1] for n, k in enumerate(launch) if k in {"--secret", "--env"}}
    assert given["--secret"] in task["secrets"]
    assert given["--env"].partition("=")[0] in task["envs"]
    assert launch[-1] == "cluster/skypilot.yaml"


@pytest.mark.parametrize("words", called("ray"), ids=" ".join)
def test_a_command_of_ray_is_one(words):
    path = Path(sys.executable).parent / "ray"
    call = words[1 : 3 if words[1] == "job" else 2]
    shown = subprocess.run(
        [path, *call, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert [word for word in words if word.startswith("--") and word not in shown] == []
