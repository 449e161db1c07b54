"""Gauges of a run: the board draws what there is, and Ray's nodes export what is told."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ray

from cvmae.tracking.gauges import GAUGES, RunGauges, exported_name  # noqa: E402

BOARD = Path(__file__).parents[2] / "cluster" / "grafana.json"
RUN = "runs-of-a-test"


def test_every_gauge_has_a_panel_and_every_panel_a_gauge():
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    drawn = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    names = [name for text in drawn for name in re.findall(r"ray_\w+", text)]
    assert sorted(names) == sorted(map(exported_name, GAUGES))
    assert all('run=~"$run"' in text and "by (run)" in text for text in drawn)
    (asked,) = [one["query"] for one in board["templating"]["list"] if one["name"] == "run"]
    assert set(re.findall(r"ray_\w+", asked)) <= set(names)


def test_a_gauge_is_found_where_prometheus_looks(shared_ray):
    @ray.remote(num_cpus=0)
    class Rank:
        def tell(self, run_name, figures):
            self.gauges = RunGauges(run_name)
            self.gauges(figures)

    rank = Rank.remote()
    figures = {"train_loss": 0.25, "measurements_per_s": 12_345.0, "epoch": 3.0}
    ray.get(rank.tell.remote(RUN, figures))
    found = scraped(lambda text: f'run="{RUN}"' in text and "ray_cvmae_train_loss{" in text)
    own = [line for line in found.splitlines() if line.startswith("ray_cvmae_") and RUN in line]
    values = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in own}
    # Nothing of what was not told, and nothing under a name that is no gauge's.
    assert values == {"ray_cvmae_train_loss": 0.25, "ray_cvmae_measurements_per_s": 12_345.0}
    ray.kill(rank)


def scraped(is_there):
    """Return what a node exports once the condition holds."""
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    place = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline, text = time.monotonic() + 120, ""
    while time.monotonic() < deadline:
        with urllib.request.urlopen(place, timeout=30) as answer:
            text = answer.read().decode("utf-8")
        if is_there(text):
            return text
        time.sleep(1.0)
    raise AssertionError(f"not there in 120 s: {re.findall('ray_cvmae.*', text)}")
