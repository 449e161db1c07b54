"""Every verb on a data set in S3, in this process and with workers of Ray."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cvmae.checkpoint import load_state
from cvmae.config import Config
from cvmae.evaluate.evaluate import evaluate
from cvmae.storage.folders import names
from cvmae.sweep.driver import sweep
from cvmae.train.pretrain import pretrain
from cvmae.validate.validate import check
from tests.storage.object_storage import Proxy, first_time, object_storage, upload


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with object_storage() as proxy:  # before Ray starts: its workers inherit the environment
        yield proxy


@pytest.fixture(scope="module")
def bucket(proxy: Proxy, hospital: str) -> str:
    return upload(proxy, hospital, "meds")


@pytest.fixture(scope="module")
def cluster(proxy: Proxy) -> Iterator[None]:
    """A local Ray as the jobs start it: the shared one does not know the way to this storage."""
    ray = pytest.importorskip("ray")
    from cvmae.runtime.start_ray import start_ray
    from cvmae.settings import ScalingConfig

    ray.shutdown()
    start_ray(ScalingConfig(num_workers=2))
    yield
    ray.shutdown()


def on(config: Config, root: str, folder: Path) -> Config:
    return replace(config, data=replace(config.data, root=root), output_dir=str(folder))


def history(run: str) -> list[dict[str, float]]:
    return load_state(run)[0].history


@pytest.mark.slow
def test_validate_sweep_and_evaluate_find_on_s3_what_they_find_locally(
    bucket, hospital, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr("cvmae.evaluate.methods.SMALLEST_CELL", 1)  # few subjects of any code
    found = {}
    for name, root in (("s3", bucket), ("local", hospital)):
        config = on(tiny, root, tmp_path / name / "sweep")
        config = replace(config, sweep=replace(config.sweep, policies=("random", "cv")))
        findings = check(config).as_json()
        sweep(config)
        trials = sorted((tmp_path / name / "sweep" / "trials").iterdir())
        assert len(trials) == 2
        evaluate(
            replace(
                on(tiny, root, tmp_path / name / "evaluation"),
                evaluate=replace(
                    config.evaluate,
                    checkpoints=tuple(f"{place}={trial}" for place, trial in enumerate(trials)),
                ),
            )
        )
        results = json.loads((tmp_path / name / "evaluation" / "results.json").read_text())
        found[name] = (findings, results["codes"], [history(str(trial))[-1] for trial in trials])
    assert any(row["r2"]["0"] is not None for row in found["local"][1])
    assert found["s3"][:2] == found["local"][:2]
    for ours, theirs in zip(found["s3"][2], found["local"][2], strict=True):
        assert ours["tuning_mse"] == theirs["tuning_mse"]


@pytest.mark.survival
@pytest.mark.ray
def test_two_workers_train_from_s3_into_s3_as_locally_though_each_request_breaks_once(
    bucket, by_two, by_two_done, tmp_path, proxy, cluster
):
    """One run for data and for the run folder, because one on Ray takes half a minute.

    It has the losses of one process, since that of two workers on local files has.
    """
    cut, hung_up = first_time("cut"), first_time("hang up", words="PUT")
    proxy.reset(lambda request: cut(request) or hung_up(request))
    run = pretrain(replace(on(by_two, bucket, tmp_path), output_dir=f"{bucket}_runs/cv"))
    assert len([r for r in proxy.requests if r.startswith("GET") and "/meds/" in r]) > 20
    ours, theirs = history(run), history(by_two_done)
    for name in ("step", "train_loss", "tuning_mse"):
        assert [entry[name] for entry in ours] == [entry[name] for entry in theirs]
    (_, ours, _), (_, theirs, _) = load_state(run), load_state(by_two_done)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert {"metrics.parquet", "code_metrics.parquet", "figures", "ray"} <= set(names(run))
