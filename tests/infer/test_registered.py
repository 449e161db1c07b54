"""A model in MLflow: registered, loaded in another process, and what is refused."""

import contextlib
import importlib.metadata
import json
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cvmae
from cvmae.checkpoint import load_model
from cvmae.config import PRESETS, override
from cvmae.infer.card import CARD
from cvmae.infer.export import export
from cvmae.infer.mlflow_model import example
from cvmae.infer.registered import Registry, find_registry, register
from cvmae.tracking.journal import Journal
from cvmae.tracking.mlflow_store import KEY_TAG
from tests.pages import PAGES, ROOT

NAME = "labs"
# A process that has what the model's requirements bring, and cvmae only within the model: without
# `site` nothing leads to a checkout. Whoever unpickles fails.
FRESH = """
import json, sys
from importlib.machinery import PathFinder

class Installed(PathFinder):
    absent = set(json.loads(sys.argv[4]))

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in cls.absent
        return None if hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
sys.path.append(sys.argv[3])
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
mlflow.pyfunc.load_model(sys.argv[2])  # Numba keeps what it has compiled, in its own way

def refuse(event, args):
    if event == "pickle.find_class":
        raise AssertionError(f"{args} is unpickled")

sys.addaudithook(refuse)
model = mlflow.pyfunc.load_model(sys.argv[2])
rows = model.input_example
found = model.predict(rows)
mean = model.predict(rows, params={"pooling": "mean"})
assert [len(vector) for vector in mean["embedding"]] == [32, 32]
try:
    model.predict(rows.drop(columns="code"))
except mlflow.exceptions.MlflowException as error:
    assert "code" in str(error)
else:
    raise AssertionError("a frame without codes is taken")
found["embedding"] = [vector.tolist() for vector in found["embedding"]]
print(found.to_json(orient="records", double_precision=15))
print(sys.modules["cvmae"].__file__)
"""


def files_of(folder):
    """Return the files below a folder by their names in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path for path in files}


def packed_of(client):
    """Return the folder of the first version, as MLflow keeps it."""
    return Path(client.get_model_version(NAME, "1").source.removeprefix("file://"))


@pytest.fixture(autouse=True)
def _no_ambient_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture(scope="module")
def folder(run, store):
    """The folder of a model that was registered when it was exported."""
    target = str(Path(run.output_dir).parent / "registered")
    changes = {"infer.checkpoint": run.output_dir, "infer.register": NAME, "tracking.uri": store}
    text = export(override(PRESETS["paper"], {"output_dir": target} | changes))
    assert f"registered: version 1 of {NAME} in {store}, as its champion" in text
    return Path(target)


@pytest.fixture
def client(store, folder):
    return MlflowClient(store, store)


@pytest.fixture
def named(store, folder, monkeypatch):
    """The store as a user's process names it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)


def test_a_version_has_card_tags_and_alias_and_names_no_place(run, folder, client):
    version = client.get_model_version_by_alias(NAME, "champion")
    assert int(version.version) == 1
    assert version.description == (folder / CARD).read_text()
    assert version.tags["mask.policy"] == "cv"
    assert client.get_run(version.run_id).info.status == "FINISHED"
    packed = packed_of(client)
    files, exported = files_of(packed), files_of(folder)
    ours = {name.removeprefix("data/model/") for name in files if name.startswith("data/")}
    assert ours == set(exported)
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pyc"))]
    code = {name.removeprefix("code/") for name in files if name.endswith(".py")}
    assert code == {str(path.relative_to(ROOT)) for path in ROOT.glob("cvmae/**/*.py")}
    content = b"".join(path.read_bytes() for path in files.values())
    assert b"private-runs" not in content
    assert run.data.root.encode() not in content


def test_what_is_to_be_installed_is_published_and_what_runs_here(folder, client):
    packed = packed_of(client)
    lines = (packed / "requirements.txt").read_text().splitlines()
    found = dict(line.split("==") for line in lines)
    assert {"torch", "numpy", "pyarrow", "mlflow", "pandas", "safetensors"} <= set(found)
    # Of the project nothing is published: whoever took its name would run beside the model.
    for place in ("requirements.txt", "conda.yaml", "python_env.yaml"):
        assert "cvmae" not in (packed / place).read_text()
    for name, number in found.items():
        installed = importlib.metadata.version(name)
        assert number == installed.partition("+")[0]  # no index has 2.13.0+cpu


def closure(names):
    """Return the packages that come with some, where these are installed here."""
    found, waiting = set(), [canonicalize_name(name) for name in names]
    while waiting:
        if (name := waiting.pop()) in found:
            continue
        found.add(name)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            needs = map(Requirement, importlib.metadata.requires(name) or [])
            own = [n for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
            waiting += [canonicalize_name(need.name) for need in own]
    return found


@pytest.mark.slow  # a process that imports torch and mlflow
def test_another_process_without_cvmae_scores_it_and_unpickles_nothing(folder, store, client):
    needs = (packed_of(client) / "requirements.txt").read_text().splitlines()
    there = closure(need.partition("==")[0] for need in needs)
    absent = [
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if there.isdisjoint(map(canonicalize_name, names)) and module != "cvmae"
    ]
    assert {"ray", "polars", "deepspeed", "pytest"} <= set(absent)
    place = [sysconfig.get_path("purelib"), json.dumps(absent)]
    address = f"models:/{NAME}@champion"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", FRESH, store, address, *place],
        capture_output=True,
        text=True,
        cwd=folder.parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    model = cvmae.load(str(folder))
    own = model.encode(example(model.loaded))
    found, place = done.stdout.splitlines()[-2:]
    assert place.endswith("/code/cvmae/__init__.py")
    told = pd.DataFrame(json.loads(found))
    assert told["subject_id"].tolist() == own["subject_id"].tolist() == [1, 2]
    np.testing.assert_allclose(np.stack(told["embedding"]), np.stack(own["embedding"]), atol=1e-5)


def test_later_versions_are_challengers_and_the_champion_stays(folder, store, client, run):
    loaded, card = load_model(folder), (folder / CARD).read_text()
    # A run that the store has keeps what was registered of it.
    key = Journal(run.output_dir).about.key
    experiment = client.create_experiment("trained", str(Path(folder).parent / "artifacts"))
    trained = client.create_run(experiment, tags={KEY_TAG: key})
    registry = find_registry(
        override(run, {"infer.register": NAME, "tracking.uri": store}), run.output_dir
    )
    assert registry.run_key == key
    register(str(folder), loaded, card, replace(registry, run_experiment="trained"))
    second = client.get_model_version_by_alias(NAME, "challenger")
    assert (int(second.version), second.run_id) == (2, trained.info.run_id)
    register(str(folder), loaded, card, replace(registry, run_experiment="trained"))
    third = client.get_model_version_by_alias(NAME, "challenger")
    assert int(third.version) == 3
    assert third.source != second.source
    assert int(client.get_model_version_by_alias(NAME, "champion").version) == 1


@pytest.mark.parametrize(
    "address", ["models:/labs@champion", "models:/labs/1", "runs:/{run}/{path}"]
)
def test_python_loads_it_by_its_address(folder, client, named, address):
    version = client.get_model_version(NAME, "1")
    place = version.source.partition("/artifacts/")[2]
    model = cvmae.load(address.format(run=version.run_id, path=place))
    own = cvmae.load(str(folder))
    rows = example(own.loaded)
    assert np.stack(model.encode(rows)["embedding"]).tolist() == (
        np.stack(own.encode(rows)["embedding"]).tolist()
    )


def test_the_page_says_how_to_use_a_registered_model(hospital, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meds" / "data").mkdir(parents=True)
    shards = [pq.read_table(path) for path in sorted(Path(hospital).glob("data/**/*.parquet"))]
    pq.write_table(pa.concat_tables(shards), tmp_path / "meds" / "data" / "0.parquet")
    page = next(page for page in PAGES if page.path.name == "inference.md")
    names: dict[str, Any] = {}
    exec(page.blocks("python")[1], names)
    own = names["model"].encode(names["rows"])
    vectors, means = names["vectors"], names["means"]
    assert vectors["subject_id"].tolist() == own["subject_id"].tolist()
    assert np.stack(vectors["embedding"]).tolist() == np.stack(own["embedding"]).tolist()
    assert np.stack(means["embedding"]).shape == (60, 32)


def test_what_mlflow_has_not_or_is_not_ours_is_refused(folder, client, named, tmp_path):
    with pytest.raises(ValueError, match=r"models:/labs@nobody cannot be had from MLflow"):
        cvmae.load("models:/labs@nobody")
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    foreign = client.get_model_version(NAME, "1").run_id
    client.log_artifact(foreign, str(tmp_path / "MLmodel"), "foreign")
    with pytest.raises(ValueError, match=r"/foreign is no model of cvmae"):
        cvmae.load(f"runs:/{foreign}/foreign")


def test_an_address_needs_a_named_store_and_mlflow(monkeypatch):
    monkeypatch.setattr(mlflow, "is_tracking_uri_set", lambda: False)
    with pytest.raises(ValueError, match="set MLFLOW_TRACKING_URI"):
        cvmae.load("models:/labs@champion")
    monkeypatch.delitem(sys.modules, "cvmae.tracking.mlflow_registry")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match="mlflow is not installed here"):
        cvmae.load("models:/labs@champion")


def test_names_and_stores_are_checked_before_anything_is_written(run, tmp_path):
    config = override(
        PRESETS["paper"], {"infer.checkpoint": run.output_dir, "output_dir": tmp_path / "out"}
    )
    with pytest.raises(ValueError, match=r"infer\.register='a/b' is no name"):
        export(override(config, {"infer.register": "a/b", "tracking.uri": "sqlite:///m.db"}))
    with pytest.raises(ValueError, match="no MLflow is named, and the run has none"):
        export(override(config, {"infer.register": "a"}))
    assert not (tmp_path / "out").exists()


def test_a_store_that_is_down_costs_no_folder_and_shows_no_password(folder):
    uri = "http://me:s3cret@127.0.0.1:1"
    registry = Registry(name="labs", uri=uri, experiment="cvmae")
    assert "s3cret" not in repr(registry)
    with pytest.raises(ValueError, match="has not taken it") as told:
        register(str(folder), load_model(folder), "", registry)
    assert "s3cret" not in str(told.value)
    assert f"{folder} is whole" in str(told.value)
