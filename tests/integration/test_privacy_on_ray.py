"""No subject id and no single value in Ray's logs, nor in MLflow, its registry among it."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from cvmae.config import PRESETS, override
from cvmae.infer.embed_set import embed
from cvmae.infer.export import export
from cvmae.train.pretrain import pretrain
from tests.planted_secrets import found_in, heard, leaks, not_ascending, plant, search, secrets_of
from tests.ray_head import RayHead

pytestmark = pytest.mark.ray

NAME = "labs"


@pytest.fixture(scope="module")
def root(hospital, tmp_path_factory):
    return plant(hospital, tmp_path_factory.mktemp("planted") / "meds")


def test_ray_and_mlflow_are_told_of_no_subject_and_no_value(
    root, tmp_path, ray_head: RayHead, shared_ray
):
    out, broken = tmp_path / "out", tmp_path / "broken"
    not_ascending(root, broken)
    settings = {
        "data.root": root,
        "data.min_count": 2,
        "data.unit_rows": 4000,
        "data.sequence_length": 32,
        "scaling.num_workers": 2,
        "train.epochs": 1,
    }

    def to(name, **changes):
        return override(PRESETS["tiny"], settings | {"output_dir": out / name} | changes)

    model = {"infer.checkpoint": out / "run"}
    registered = model | {"infer.register": NAME, "data.root": "", "scaling.num_workers": 0}
    with heard() as said:
        told = [
            pretrain(to("run")),
            embed(to("vectors", **model)),
            export(to("exported", **registered)),
        ]
        for verb, changes in ((pretrain, {}), (embed, model)):
            with pytest.raises((ValueError, OSError)) as refused:
                verb(to(f"no_{verb.__name__}", **changes | {"data.root": broken}))
            told.append(str(refused.value))
    assert sum("data/train/0.parquet" in line for line in told) == 2  # faults that tasks have met

    store = f"sqlite:///{out / 'run' / 'mlflow.db'}"
    version = MlflowClient(store, store).get_model_version_by_alias(NAME, "champion")
    packed = Path(version.source.removeprefix("file://"))
    assert list(packed.rglob("input_example.json"))
    assert out in packed.parents  # it is searched with the rest
    logs = [path for path in sorted(ray_head.logs.rglob("*")) if path.is_file()]
    assert [path for path in logs if path.name.startswith("worker-")]

    secrets = secrets_of(root)
    searched, written = leaks(out, secrets)
    assert searched > 20
    found = {
        "said": found_in("\n".join([said.getvalue(), *told]), secrets),
        "written": written,
        "logged": [(path.name, what) for path in logs for what in search(path, secrets)],
    }
    assert found == {"said": [], "written": [], "logged": []}
