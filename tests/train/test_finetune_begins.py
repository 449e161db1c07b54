"""What a fine-tuning begins with until its first checkpoint, and where it predicts in the end."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from cvmae.checkpoint import find_checkpoint
from cvmae.config import Config, override, read_config
from cvmae.runtime.start_ray import trains_on_gpu
from cvmae.settings import ScalingConfig
from cvmae.train import finetune as finetuning
from cvmae.train.finetune import finetune
from cvmae.train.pretrain import pretrain
from tests.train.planted import make_planted


class StoppedError(Exception):
    """Stands for a process that ends here."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return make_planted(tmp_path_factory.mktemp("planted"), num_subjects=60)


@pytest.fixture(scope="module")
def other(settings: Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of another pretraining, of the same codes."""
    pretrained = read_config(Path(settings.finetune.checkpoint) / "config.yaml")
    folder = tmp_path_factory.mktemp("other") / "run"
    return pretrain(override(pretrained, {"seed": 1, "output_dir": folder}))


@pytest.fixture
def begun(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Settings that resume a fine-tuning that was stopped before its first step."""
    run = shutil.copytree(settings.finetune.checkpoint, tmp_path / "pretrained")
    folder = str(tmp_path / "fine-tuned")
    config = override(settings, {"finetune.checkpoint": run, "output_dir": folder})

    def stop(*given: object, **rest: object) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "train", stop)
        with pytest.raises(StoppedError):
            finetune(config)
    return replace(config, resume=folder)


@pytest.mark.parametrize("from_scratch", [False, True])
def test_before_its_first_checkpoint_it_is_resumed_with_the_weights_it_began_with(
    begun, other, from_scratch
):
    begun = override(begun, {"finetune.from_scratch": from_scratch})
    run = Path(begun.finetune.checkpoint)
    kept = shutil.copytree(find_checkpoint(run), run.parent / "kept")
    shutil.rmtree(run)
    shutil.copytree(other, run)
    before = sorted(Path(begun.output_dir).rglob("*"))
    with pytest.raises(ValueError, match=r"no checkpoint yet, and finetune\.checkpoint=.* is not"):
        finetune(begun)
    assert sorted(Path(begun.output_dir).rglob("*")) == before
    finetune(override(begun, {"finetune.checkpoint": kept}))
    assert pq.read_table(Path(begun.output_dir) / "predictions.parquet").num_rows


@pytest.mark.parametrize(
    ("scaling", "here", "expected"),
    [
        (ScalingConfig(num_workers=0), False, (0, False)),
        (ScalingConfig(num_workers=0), True, (0, True)),
        # A GPU of the calling process counts for nothing where workers had none, nor does its lack.
        (ScalingConfig(num_workers=2), True, (0, False)),
        (ScalingConfig(num_workers=2), False, (0, False)),
        (ScalingConfig(num_workers=2, use_gpu=True), False, (1, True)),
        (ScalingConfig(num_workers=4, min_workers=2, use_gpu=True), True, (1, True)),
    ],
)
def test_held_out_is_predicted_on_the_kind_of_device_that_was_trained_on(
    monkeypatch, scaling, here, expected
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here)
    place, on_gpu = finetuning._place_of_prediction(scaling)
    assert (place.num_workers, on_gpu) == expected
    assert on_gpu == trains_on_gpu(scaling)
    assert place.min_workers == 0


def test_without_a_gpu_in_training_one_of_this_process_is_left_alone(begun, monkeypatch):
    """Though a GPU would be there, the engine that predicts is on the CPU."""
    monkeypatch.setattr(finetuning, "trains_on_gpu", lambda scaling: False)
    devices = []
    make = finetuning.make_engine

    def note(*given, device, **rest):
        devices.append(device)
        return make(*given, device=torch.device("cpu"), **rest)

    monkeypatch.setattr(finetuning, "make_engine", note)
    train_here = finetuning.train
    cpu = torch.device("cpu")
    monkeypatch.setattr(
        finetuning, "train", lambda *given, **rest: train_here(*given, **(rest | {"device": cpu}))
    )
    monkeypatch.setattr(finetuning, "default_device", lambda: torch.device("cuda", 0))
    finetune(begun)
    assert devices == [cpu]
