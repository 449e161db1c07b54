"""The manifests of Kubernetes are what KubeRay and Kubernetes read, and keep what they promise."""

import copy
import re
import runpy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cvmae.command_line import load
from tests.cluster.definitions import CLUSTER, document, errors, kuberay, kubernetes
from tests.pages import WAIT

IMAGE = "ghcr.io/OWNER/cvmae:TAG"
JOB, RESIDENT = "kubernetes/rayjob.yaml", "kubernetes/raycluster.yaml"
FILES = sorted(path.name for path in (CLUSTER / "kubernetes").glob("*"))
SCHEMAS = {
    "NetworkPolicy": kubernetes,
    "PersistentVolumeClaim": kubernetes,
    "RayCluster": lambda kind: kuberay("rayclusters"),
    "RayJob": lambda kind: kuberay("rayjobs"),
}


def findings(found: Any) -> list[str]:
    return errors(found, SCHEMAS[found["kind"]](found["kind"]))


def cluster_of(name: str) -> Any:
    spec = document(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def pods_of(name: str) -> list[Any]:
    spec = cluster_of(name)
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"] for group in groups]


def containers_of(name: str) -> Iterator[Any]:
    return (container for pod in pods_of(name) for container in pod["spec"]["containers"])


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_is_what_its_definition_allows(name):
    assert findings(document(f"kubernetes/{name}")) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        # Ray's flags are text, a group says how far it may grow, and KubeRay has these modes.
        (("headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("workerGroupSpecs", 0, "maxReplicas"), None),
        (("authOptions", "mode"), "on"),
        (("workerGroupSpecs", 0, "template", "spec", "tolerance"), []),
    ],
)
def test_a_wrong_manifest_is_found_out(place, value):
    found = copy.deepcopy(document(RESIDENT))
    part = found["spec"]
    for key in place[:-1]:
        part = part[key]
    if value is None:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    assert len(findings(found)) == 1


def test_a_wrong_rule_of_the_network_is_found_out():
    found = document("kubernetes/network.yaml")
    found["spec"]["ingress"][0]["form"] = found["spec"]["ingress"][0].pop("from")
    assert len(findings(found)) == 1


@pytest.mark.parametrize("name", [JOB, RESIDENT])
def test_every_cluster_asks_for_a_token_and_scales(name):
    spec = cluster_of(name)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    data = {group["groupName"]: group for group in spec["workerGroupSpecs"]}["data"]
    assert data["minReplicas"] < data["maxReplicas"]


@pytest.mark.parametrize("name", [JOB, RESIDENT])
def test_every_container_is_bounded_probed_and_without_root(name):
    assert len(pods_of(name)) == 3
    for pod in pods_of(name):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    for container in containers_of(name):
        assert container["image"] == IMAGE
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert set(container["resources"]["requests"]) == set(container["resources"]["limits"])
        assert {"readinessProbe", "livenessProbe"} <= set(container)
    sidecar = cluster_of(name)["autoscalerOptions"]
    for container in (sidecar, *containers_of(name)):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", [JOB, RESIDENT])
def test_secrets_stand_in_no_manifest_and_come_by_name(name):
    for container in containers_of(name):
        assert "env" not in container
        named = [source["secretRef"]["name"] for source in container["envFrom"]]
        assert named == ["cvmae-tracking", "cvmae-storage"]


@pytest.mark.parametrize("name", [JOB, RESIDENT])
def test_volumes_are_the_claimed_one_and_memory(name):
    claim = document("kubernetes/storage.yaml")["metadata"]["name"]
    for pod in pods_of(name):
        data, memory = pod["spec"]["volumes"]
        assert data["persistentVolumeClaim"]["claimName"] == claim
        assert memory["emptyDir"]["medium"] == "Memory"
        (container,) = pod["spec"]["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"data": "/data", "shm": "/dev/shm"}


@pytest.mark.parametrize("name", [JOB, RESIDENT])
def test_shared_memory_has_room_for_the_objects_of_ray(name):
    """Ray else keeps them in a folder on disk, and says so in a log alone."""
    from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION as SHARE

    def gib(quantity: str) -> int:
        return int(re.fullmatch(r"(\d+)Gi", quantity)[1])

    for pod in pods_of(name):
        _, memory = pod["spec"]["volumes"]
        (container,) = pod["spec"]["containers"]
        room, limit = memory["emptyDir"]["sizeLimit"], container["resources"]["limits"]["memory"]
        assert gib(room) >= SHARE * gib(limit)


@pytest.mark.parametrize("name", [JOB, RESIDENT])
def test_the_rules_of_the_network_select_every_pod(name):
    policy = document("kubernetes/network.yaml")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    wanted = policy["podSelector"]["matchLabels"].items()
    assert all(wanted <= pod["metadata"]["labels"].items() for pod in pods_of(name))
    # Nothing from outside the cluster's own pods but by a port.
    open_to = [rule for rule in policy["ingress"] if "ports" not in rule]
    assert open_to == [{"from": [{"podSelector": policy["podSelector"]}]}]


def test_rules_that_a_site_may_need_are_ready_to_be_used():
    text = (CLUSTER / "kubernetes/network.yaml").read_text(encoding="utf-8")
    used, count = re.subn(r"^    # (- \{)", r"    \1", text, flags=re.M)
    policy = yaml.safe_load(used)
    assert findings(policy) == []
    before = document("kubernetes/network.yaml")["spec"]["egress"]
    assert count == len(policy["spec"]["egress"]) - len(before) == 3


@pytest.mark.parametrize("name", [JOB, RESIDENT])
def test_the_version_of_ray_is_the_one_of_the_image(name):
    pins = (CLUSTER / "constraints.txt").read_text(encoding="utf-8")
    assert f"ray=={cluster_of(name)['rayVersion']}\n" in pins


def test_the_entrypoint_of_a_job_fits_its_cluster():
    entrypoint = document(JOB)["spec"]["entrypoint"]
    nodes, verb, flags = re.fullmatch(rf"python {WAIT} (\d+) cvmae (\w+) (.*)", entrypoint).groups()
    assert verb == "pretrain"
    config = load(flags.split())
    groups = {group["groupName"]: group for group in cluster_of(JOB)["workerGroupSpecs"]}
    gpus = groups["gpu"]
    # The head, and those that are there without the autoscaler.
    assert int(nodes) == 1 + sum(group["minReplicas"] for group in groups.values())
    assert config.scaling.use_gpu
    assert config.scaling.num_workers == gpus["replicas"] == gpus["minReplicas"]
    assert config.data.root.startswith("/data/")
    assert config.output_dir.startswith("/data/")
    # An attempt on a new cluster goes on where the last one was.
    assert f"--resume {config.output_dir}" in flags


def test_an_attempt_is_given_up_after_its_wait_for_nodes_and_no_run_waits_for_ever():
    spec = document(JOB)["spec"]
    most_s = runpy.run_path(str(CLUSTER / "await_nodes.py"))["MOST_S"]
    assert most_s < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert f"gives up after {most_s} s" in (CLUSTER / JOB).read_text(encoding="utf-8")


def test_both_kinds_of_cluster_have_the_same_pods_and_tell_them_apart():
    job, resident = pods_of(JOB), pods_of(RESIDENT)
    assert job[0]["spec"].pop("restartPolicy") == "Never"
    for name, pods in ((JOB, job), (RESIDENT, resident)):
        own = {"app.kubernetes.io/instance": document(name)["metadata"]["name"]}
        for pod in pods:
            labels = pod.pop("metadata")["labels"]
            assert labels == {"app.kubernetes.io/name": "cvmae"} | own
    assert job == resident
