"""What `ray job submit --working-dir .` uploads, by Ray's own packing of it."""

import shutil
import zipfile
from pathlib import Path

import pytest

from tests.test_house import files_of_the_repository, name_of

pytest.importorskip("ray")

# What lies about in a folder that is worked in.
LITTER = [
    ".git/objects/pack/pack-1.pack",
    ".hypothesis/examples/1",
    ".venv/lib/python3.11/site-packages/torch/lib/libtorch.so",
    ".venv-312/bin/python",
    "cvmae/__pycache__/config.cpython-311.pyc",
    "cvmae/planted.parquet",
    "demo-run/report.html",
    "demo-run-2/mlflow.db",
    "hospital/data/0.arrow",
    "labs.csv",
    "meds/data/0.parquet",
    "meds/metadata/dataset.json",
    "mlflow.db",
    "runs/cv/checkpoints/1/model.safetensors",
    "runs/cv/config.yaml",
]
MOST_BYTES = 4 << 20  # 1.6 MB now, and Ray does not compress


@pytest.fixture(scope="module")
def worked_in(tmp_path_factory) -> Path:
    """A copy of the repository with what lies about in one."""
    folder = tmp_path_factory.mktemp("repository")
    for path in files_of_the_repository():
        target = folder / name_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for name in LITTER:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("planted", encoding="utf-8")
    (folder / "deepspeed.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["git", "no_git"])
def packed(request, worked_in, tmp_path_factory) -> Path:
    """The archive that is uploaded; .gitignore can be left out of it by a variable of Ray's."""
    from ray._private.runtime_env.packaging import create_package
    from ray._private.runtime_env.working_dir import upload_working_dir_if_needed

    archive = tmp_path_factory.mktemp("upload") / "package.zip"

    def upload(folder: str, excludes: list[str]) -> None:
        create_package(folder, archive, include_gitignore=request.param, excludes=excludes)

    upload_working_dir_if_needed(
        {"working_dir": str(worked_in)}, include_gitignore=request.param, upload_fn=upload
    )
    return archive


def test_the_upload_is_the_code_and_settings_beside_it(packed):
    names = set(zipfile.ZipFile(packed).namelist())
    code = {
        name_of(path)
        for path in files_of_the_repository()
        if name_of(path).startswith(("benchmarks/", "cvmae/", "jobs/"))
    }
    assert {"cvmae/evaluate/report/report.html", "jobs/pretrain.py"} <= code
    assert names == code | {"pyproject.toml", "deepspeed.json"}


def test_the_upload_is_small(packed):
    assert packed.stat().st_size <= MOST_BYTES
