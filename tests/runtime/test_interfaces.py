"""Ranks of several hosts reach each other by the interface that the cluster knows a host by."""

import re
import socket
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from torch import distributed

from cvmae.runtime import interfaces
from cvmae.runtime.interfaces import name_interface


@pytest.fixture(autouse=True)
def _host(monkeypatch):
    """A host with loopback, a network of containers, and the network of the cluster."""

    def at(address: str, family: int = socket.AF_INET) -> SimpleNamespace:
        return SimpleNamespace(address=address, family=family)

    addresses = {
        "lo": [at("127.0.0.1"), at("::1", socket.AF_INET6)],
        "docker0": [at("172.17.0.1"), at("02:42:00:00:00:01", socket.AF_PACKET)],
        "ens5": [at("10.0.0.7"), at("10.0.0.8"), at("fe80::7%ens5", socket.AF_INET6)],
    }
    monkeypatch.setattr(interfaces.psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(interfaces.platform, "node", lambda: "gpu-7")


@pytest.mark.parametrize("address", ["10.0.0.7", "10.0.0.8", "fe80::7"])
def test_the_interface_that_holds_the_clusters_address_is_named_to_gloo_and_nccl(address):
    environ: dict[str, str] = {}
    name_interface(address, environ)
    assert environ == {"GLOO_SOCKET_IFNAME": "ens5", "NCCL_SOCKET_IFNAME": "=ens5"}


def test_what_a_user_has_named_stays():
    environ = {"GLOO_SOCKET_IFNAME": "docker0", "NCCL_SOCKET_IFNAME": "^lo,docker"}
    name_interface("10.0.0.7", environ)
    assert environ == {"GLOO_SOCKET_IFNAME": "docker0", "NCCL_SOCKET_IFNAME": "^lo,docker"}


@pytest.mark.parametrize("variable", ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"])
def test_an_interface_that_the_host_does_not_have_is_refused_with_those_it_has(variable):
    with pytest.raises(ValueError, match=f"{variable}=eth0 names no interface") as refused:
        name_interface("10.0.0.7", {variable: "eth0"})
    for told in ("gpu-7", "10.0.0.7", "lo (127.0.0.1 ::1)", "docker0 (172.17.0.1)", "ens5 ("):
        assert told in str(refused.value)
    assert "02:42" not in str(refused.value)


@pytest.mark.parametrize(
    "named", ["ens", "^lo", "=ens5", "docker0,ens6", "ens6,docker0", "ens5,,lo"]
)
def test_gloo_needs_whole_names_and_all_of_them(named):
    with pytest.raises(ValueError, match=f"GLOO_SOCKET_IFNAME={re.escape(named)}.* names no int"):
        name_interface("10.0.0.7", {"GLOO_SOCKET_IFNAME": named})


def test_gloo_itself_wants_what_is_asked_for_here(monkeypatch, tmp_path):
    """What is refused here it would refuse in the middle of a start, and tell of no other host."""
    loopback = socket.if_indextoname(1)
    for named, is_taken in ((f"{loopback},{loopback}", True), (f"{loopback},no0", False)):
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", named)
        with nullcontext() if is_taken else pytest.raises(RuntimeError, match="no0"):
            distributed.init_process_group(
                "gloo", init_method=f"file://{tmp_path / named}", rank=0, world_size=1
            )
            distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("named", "is_taken"),
    [
        *(("ens", True), ("=ens5", True), ("ib0,ens", True), ("^ens", True), ("=ens5:5001", True)),
        *(("=ens", False), ("ib0", False), ("^lo,docker,ens", False), ("^=lo,docker0", True)),
    ],
)
def test_nccl_takes_beginnings_whole_names_behind_a_sign_and_lists_for_several_hosts(
    named, is_taken
):
    refused = pytest.raises(ValueError, match=f"NCCL_SOCKET_IFNAME={re.escape(named)} names no int")
    with nullcontext() if is_taken else refused:
        name_interface("10.0.0.7", {"NCCL_SOCKET_IFNAME": named})


def test_an_address_that_no_interface_holds_changes_nothing_and_is_told():
    environ: dict[str, str] = {}
    told = name_interface("203.0.113.5", environ)
    assert environ == {}
    assert "gpu-7 (in the cluster 203.0.113.5), which has lo" in told


def test_a_group_that_cannot_be_formed_names_the_interfaces_of_each_host(monkeypatch):
    exceptions = pytest.importorskip("ray.exceptions")
    from cvmae.runtime import ray_trainer

    def refuse(*_):
        cause = RuntimeError("Connection refused 127.0.0.1\nstack")
        raise exceptions.RayTaskError("f", "a traceback", cause)

    monkeypatch.setattr(ray_trainer._TorchBackend, "on_start", refuse)
    hosts = ["gpu-7 (in the cluster 10.0.0.7), which has ens5", "gpu-8, which has eth0"]
    group = SimpleNamespace(execute=lambda function: hosts)
    config = ray_trainer.NamedInterfaces()
    with pytest.raises(ConnectionError) as refused:
        config.backend_cls().on_start(group, config)
    told = str(refused.value)
    assert "do not reach each other (Connection refused 127.0.0.1): name the interface" in told
    assert told.endswith(" | ".join(hosts))


def test_workers_of_a_run_are_set_up_so(tiny, monkeypatch):
    """And by the address that Ray knows their host by."""
    ray = pytest.importorskip("ray")
    from cvmae.runtime import ray_trainer
    from cvmae.train import workers

    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    environ: dict[str, str] = {}
    monkeypatch.setattr(ray_trainer.name_interface, "__defaults__", (environ,))
    ray_trainer._name_interface()
    assert environ["GLOO_SOCKET_IFNAME"] == "ens5"

    given = {}
    monkeypatch.setattr(workers, "brick_dataset", lambda reader, order, units: None)
    monkeypatch.setattr(workers, "InterruptibleTrainer", lambda work, **options: given | options)
    job = SimpleNamespace(config=tiny, data=None, attempt="a", labelled=object())
    assert isinstance(workers._trainer(job, [])["torch_config"], ray_trainer.NamedInterfaces)
