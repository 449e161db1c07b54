"""What listens for others does so on this machine alone, unless a file of `cluster/` says more."""

import re

import pytest

from cvmae.runtime.start_ray import start_ray
from cvmae.settings import ScalingConfig
from tests.test_house import files_of_the_repository, name_of

EVERYWHERE = re.compile(r"(?<![\d.])0\.0\.0\.0(?![\d.])")
HOST = re.compile(r"(?:--(?:dashboard[-_])?host|dashboard_host)[\"',=: ]+[\"']?([\w.:$*]+)")
NAMED = {"127.0.0.1", "localhost", "LOOPBACK"}


def texts() -> dict[str, str]:
    """Return what is under version control and is run or typed, by name; tests aside."""
    found = {}
    for path in files_of_the_repository():
        try:
            found[name_of(path)] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return {name: text for name, text in found.items() if not name.startswith("tests/")}


def test_a_local_ray_shows_its_dashboard_on_loopback_with_tokens(monkeypatch):
    ray = pytest.importorskip("ray")
    given = {}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(
        ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8.0}, "Labels": {}}]
    )
    start_ray(ScalingConfig(num_workers=2))
    assert given["address"] == "local"
    assert given["dashboard_host"] == "127.0.0.1"


def test_mlflow_listens_on_loopback_where_no_host_is_said():
    import click
    from mlflow.cli import cli

    for verb in ("server", "ui"):
        command = cli.get_command(click.Context(cli), verb)
        assert [given.default for given in command.params if given.name == "host"] == ["127.0.0.1"]


def test_no_line_of_code_or_page_lets_a_server_listen_to_everybody():
    """In a cluster the head has to: there its file asks for tokens."""
    open_to_all, hosts = [], []
    for name, text in texts().items():
        if name.startswith("cluster/"):
            if EVERYWHERE.search(text) and "token" not in text.lower():
                open_to_all.append(name)
            continue
        if EVERYWHERE.search(text):
            open_to_all.append(name)
        hosts += [(name, host) for host in HOST.findall(text) if host not in NAMED]
    assert open_to_all == []
    assert hosts == []


def test_no_place_starts_ray_with_a_dashboard_of_its_own():
    """`start_ray` alone starts one; where Ray is started besides, its host is left alone."""
    starts = [
        (name, call)
        for name, text in texts().items()
        if name.endswith(".py")
        for call in re.findall(r"ray\.init\([^)]*\)", text)
        if "dashboard" in call
    ]
    assert starts == []
    assert "dashboard_host" in texts()["cvmae/runtime/start_ray.py"]
