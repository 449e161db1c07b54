"""The comparison with peers: ratios, goals, and that every peer does the whole work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.epochs import prepare
from benchmarks.hospitals import labs_only
from benchmarks.peers import loaders
from benchmarks.peers.suite import GOALS, OURS, OURS_CROP, _prepare_peers, _run, main, speed_rows


def test_ours_is_set_against_every_peer_in_the_same_round():
    speeds = {OURS: [30.0, 300.0], OURS_CROP: [15.0, 150.0]} | {n: [1.0, 10.0] for n in GOALS}
    rows = {row.name: row for row in speed_rows(speeds)}
    for name, goal in GOALS.items():
        ratio = rows[f"{OURS} over {name}"]
        assert (ratio.value, ratio.goal, ratio.sense) == (30, goal, ">=")
        assert rows[f"{OURS_CROP} over {name}"].goal is None
        assert rows[name].value == 5.5
    assert rows[f"{OURS} over meds-torch-data, random crop"].met
    slower = {name: [v / 2 for v in values] for name, values in speeds.items() if name == OURS}
    rows = {row.name: row for row in speed_rows(speeds | slower)}
    assert rows[f"{OURS} over meds-torch-data, random crop"].met is False
    assert rows[f"{OURS} over meds_reader"].met


def test_every_peer_with_a_goal_has_a_loader():
    assert set(loaders.LOADERS) == set(GOALS)


def test_the_pandas_loader_takes_every_measurement_of_train(small_hospital, tmp_path):
    codes = prepare(small_hospital).fitted.statistics.codes
    prepared = prepare(labs_only(small_hospital, tmp_path / "labs", codes))
    (tmp_path / "costs.json").write_text("{}")  # as if the peers had converted
    settings, costs = _prepare_peers(prepared, tmp_path, tmp_path / "python")
    assert costs == {}
    epoch = loaders.LOADERS["pandas group-by"](json.loads(settings.read_text()))
    single = prepared.fitted.report["splits"]["train"]["num_single"]
    assert epoch() == prepared.num_measurements + single


def test_a_loader_prints_its_figures_as_json(small_hospital, tmp_path):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"train_shards": [], "codes": {"code": []}}))
    patched = (
        "import sys; sys.path.insert(0, sys.argv[1]); import loaders as p;"
        "p.LOADERS = {'three': lambda settings: lambda: 3}; p.main('three', sys.argv[2])"
    )
    folder = str(Path(loaders.__file__).parent)
    shown = subprocess.run(
        [sys.executable, "-c", patched, folder, str(settings)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(shown).keys() == {"cpu_s", "measurements"}
    assert json.loads(shown)["measurements"] == 3


def test_a_failed_command_says_what_it_said():
    with pytest.raises(ValueError, match=r"failed with 3:\nno such package"):
        _run([sys.executable, "-c", "import sys; print('no such package'); sys.exit(3)"])


def test_an_environment_that_cannot_be_made_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.peers.suite.REQUIREMENTS", ("no such requirement!",))
    monkeypatch.setattr("benchmarks.peers.suite.sys.executable", "/bin/false")
    with pytest.raises(SystemExit, match="cvmae: /bin/false -m venv --clear failed"):
        main(["--folder", str(tmp_path), "--num_rows", "10000"])
