"""Fine-tuning in the calling process: it learns, resumes exactly, and refuses what it must."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from meds_evaluation.evaluate import evaluate_binary_classification
from meds_evaluation.schema import PredictionSchema
from safetensors.torch import load_file

from cvmae.checkpoint import find_checkpoint, load_model, read_progress
from cvmae.config import Config, override
from cvmae.evaluate.evaluate import evaluate
from cvmae.infer.notice import NOTE
from cvmae.meds.dataset import open_dataset
from cvmae.meds.splits import SPLITS
from cvmae.tracking.journal import Journal
from cvmae.train import finetune as finetuning
from cvmae.train import loop
from cvmae.train.finetune import finetune
from cvmae.train.finetuning import Finetuning, auroc
from cvmae.train.pretrain import pretrain
from tests.ranks import on_ranks
from tests.train.planted import make_planted, planted_labels, write_labels


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return make_planted(tmp_path_factory.mktemp("planted"), num_subjects=150)


@pytest.fixture
def planted(settings: Config, tmp_path: Path) -> Config:
    return override(settings, {"output_dir": str(tmp_path / "fine-tuned")})


@pytest.fixture(scope="module")
def done(settings: Config, tmp_path_factory: pytest.TempPathFactory, drawn: None) -> Config:
    """Settings of a fine-tuning that has ended."""
    folder = tmp_path_factory.mktemp("done") / "fine-tuned"
    config = override(settings, {"output_dir": str(folder), "checkpoint.every_steps": 2})
    finetune(config)
    return config


def weights_of(run: str) -> dict[str, torch.Tensor]:
    return load_file(find_checkpoint(run) / "model.safetensors")


def predictions_of(run: str) -> pl.DataFrame:
    return pl.read_parquet(Path(run, "predictions.parquet"))


def held_out_auroc(run: str) -> float:
    found = predictions_of(run)
    probability = found["predicted_boolean_probability"].to_numpy()
    return auroc(found["boolean_value"].to_numpy().astype(np.float32), probability)


def test_a_planted_signal_is_learnt_and_pretrained_weights_are_where_it_begins(done, tmp_path):
    assert held_out_auroc(done.output_dir) > 0.8
    fresh = {"finetune.from_scratch": True, "output_dir": str(tmp_path / "fresh")}
    scratch = override(done, fresh)
    finetune(scratch)
    losses = [read_progress(c.output_dir).history[0]["train_loss"] for c in (done, scratch)]
    assert losses[0] != losses[1]
    pretrained = weights_of(done.finetune.checkpoint)
    for config, begins_there in ((done, True), (scratch, False)):
        weights = weights_of(config.output_dir)
        # The decoder does not learn.
        decoder = [name for name in pretrained if name.startswith("decoder.")]
        assert decoder
        same = [torch.equal(weights[name], pretrained[name]) for name in decoder]
        assert all(same) if begins_there else not all(same)
        assert not torch.equal(weights["encoder_norm.weight"], pretrained["encoder_norm.weight"])


def test_predictions_are_what_meds_evaluation_takes(done):
    assert "predictions.parquet are patient data" in Path(done.output_dir, NOTE).read_text("utf-8")
    table = pq.read_table(Path(done.output_dir, "predictions.parquet"))
    PredictionSchema.validate(table)
    assert str(table.schema.field("predicted_boolean_probability").type) == "float"
    scores = evaluate_binary_classification(pl.from_arrow(table))
    assert scores["samples_equally_weighted"]["roc_auc_score"] == pytest.approx(
        held_out_auroc(done.output_dir)
    )
    splits = pl.read_parquet(Path(done.data.root, "metadata", "subject_splits.parquet"))
    wanted = splits.filter(pl.col("split") == "held_out")["subject_id"].sort().to_list()
    assert table["subject_id"].to_pylist() == wanted


class StoppedError(Exception):
    """Stands for a process that ends here."""


@pytest.mark.parametrize("step", [1, 4])
def test_killed_and_resumed_it_ends_with_the_same_weights(done, planted, monkeypatch, step):
    config = replace(planted, checkpoint=replace(planted.checkpoint, every_steps=1))
    save = loop._save

    def save_and_stop(run, progress, state):
        save(run, progress, state)
        if progress.global_step == step:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", save_and_stop)
        with pytest.raises(StoppedError):
            finetune(config)
    assert read_progress(config.output_dir).step == step % 6
    # The pretrained run may be gone by now.
    gone = replace(config, resume=config.output_dir, finetune=replace(config.finetune))
    gone = override(gone, {"finetune.checkpoint": "/nowhere"})
    finetune(gone)
    ours, theirs = weights_of(config.output_dir), weights_of(done.output_dir)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in ("train_loss", "tuning_loss", "tuning_auroc"):
        losses = [
            [entry[name] for entry in read_progress(run).history]
            for run in (config.output_dir, done.output_dir)
        ]
        assert losses[0] == losses[1], name
    assert predictions_of(config.output_dir).equals(predictions_of(done.output_dir))


def lessons_of(config: Config, monkeypatch: pytest.MonkeyPatch) -> Finetuning:
    """Return what a fine-tuning is about to learn from."""
    taken: list[Finetuning] = []

    def take(lessons, **rest):
        taken.append(lessons)
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "train", take)
        with pytest.raises(StoppedError):
            finetune(config)
    return taken[0]


def train_on_rank(number: int, world: int, folder: Path, lessons: Finetuning) -> None:
    dist.init_process_group("gloo", f"file://{folder}/ranks", rank=number, world_size=world)
    try:
        loop.train(lessons, report=lambda *epoch: None, ask=lambda: "", device=torch.device("cpu"))
    finally:
        dist.destroy_process_group()
    os._exit(0)  # threads of gloo's, ended with the interpreter, now and then abort the process


@pytest.mark.parametrize("accumulation_steps", [1, 3])
def test_ranks_lose_what_one_process_loses(
    done, planted, monkeypatch, tmp_path, accumulation_steps
):
    lessons = lessons_of(planted, monkeypatch)
    train = replace(lessons.config.train, accumulation_steps=accumulation_steps)
    output = str(tmp_path / "on_ranks")
    lessons.config = replace(lessons.config, output_dir=output, train=train)
    on_ranks(train_on_rank, (2, tmp_path, lessons), world=2)
    ours, theirs = (read_progress(run).history for run in (output, done.output_dir))
    assert [e["step"] for e in ours] == [e["step"] for e in theirs]
    for name in ("train_loss", "tuning_loss", "tuning_auroc"):
        # Gradients summed in another order: about 1e-6 a step, amplified by AdamW.
        np.testing.assert_allclose(
            [e[name] for e in ours], [e[name] for e in theirs], rtol=1e-3, err_msg=name
        )


def test_each_label_is_learnt_once_an_epoch_in_another_order_each_time(planted, monkeypatch):
    lessons = lessons_of(planted, monkeypatch)
    first, second = (np.concatenate(lessons._dealt(epoch)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(90))
    assert not np.array_equal(first, second)
    lessons.config = replace(lessons.config, seed=1)
    assert not np.array_equal(np.concatenate(lessons._dealt(0)), first)
    sizes = {len(index_B) for index_B in lessons._dealt(0)}
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("choose_by", ["auroc", "loss"])
def test_the_epoch_is_chosen_that_tuning_speaks_for(planted, monkeypatch, choose_by):
    shown = iter([(0.9, 0.5), (0.7, 0.4), (0.8, 0.6)])  # AUROC and loss of each epoch
    monkeypatch.setattr(
        "cvmae.train.finetuning.auroc", lambda *given: shown_now.setdefault("area", 0.0)
    )
    shown_now: dict[str, float] = {}
    predict = finetuning.predict_windows

    def predict_and_pretend(engine, windows):
        shown_now["area"], shown_now["loss"] = next(shown)
        return predict(engine, windows)

    monkeypatch.setattr("cvmae.train.finetuning.predict_windows", predict_and_pretend)
    monkeypatch.setattr("cvmae.train.finetuning.cross_entropy", lambda *given: shown_now["loss"])
    changes = {"finetune.epochs": 3, "finetune.choose_by": choose_by, "checkpoint.keep": 1}
    told = finetune(override(planted, changes))
    best = {"auroc": 1, "loss": 2}[choose_by]
    assert told.startswith(f"epoch {best} of 3 is chosen by {choose_by}")
    assert load_model(planted.output_dir, which="best").progress.epoch == best
    assert load_model(planted.output_dir).progress.epoch == 3


def test_a_checkpoint_names_no_subject(done):
    fitted = load_model(done.output_dir).fitted
    assert fitted.unit_index.units == ()
    assert fitted.report["splits"]["train"]["num_labels"] == 90


def test_what_cannot_be_learnt_from_is_refused_by_name(planted, tmp_path):
    rows = planted_labels(planted.data.root)
    alike = write_labels(tmp_path / "alike.parquet", [(s, t, True) for s, t, _ in rows])
    none = write_labels(tmp_path / "none.parquet", [(s, t, False) for s, t, _ in rows])
    numbers = [(s, t, 1.5) for s, t, _ in rows]
    number = write_labels(tmp_path / "number.parquet", numbers, value="float")
    strangers = [(s + 10**9, t, y) for s, t, y in rows]
    stranger = write_labels(tmp_path / "strangers.parquet", strangers)
    early = write_labels(tmp_path / "early.parquet", [(s, -(10**17), y) for s, _, y in rows])
    several = tmp_path / "several"
    for name in ("a", "b"):
        write_labels(several / name / "0.parquet", rows)
    refused = {
        r"holds several label sets \(a, b\)": {"finetune.labels": str(several)},
        r"finetune\.checkpoint is empty": {"finetune.checkpoint": ""},
        r"finetune\.labels is empty": {"finetune.labels": ""},
        r"holds no whole checkpoint": {"finetune.checkpoint": str(tmp_path)},
        r"holds no label set": {"finetune.labels": str(tmp_path / "nowhere")},
        r"90 labels of split 'train', 90 of them positive": {"finetune.labels": alike},
        r"90 labels of split 'train', 0 of them positive": {"finetune.labels": none},
        r"holds numbers: .* boolean": {"finetune.labels": number},
        r"0 labels of split 'train'": {"finetune.labels": stranger},
        r"no measurement of a code of the model": {"finetune.labels": early},
        r"train\.compile=on": {"train.compile": "on"},
        r"train\.strategy=deepspeed": {"train.strategy": "deepspeed", "scaling.num_workers": 2},
    }
    for said, changes in refused.items():
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            finetune(override(planted, changes))
        assert not Path(planted.output_dir).exists(), said


def test_an_area_that_held_out_does_not_define_is_no_number(planted, tmp_path):
    held_out = set(open_dataset(planted.data.root, SPLITS).members["held_out"].tolist())
    rows = planted_labels(planted.data.root)
    one_kind = [(s, t, y and s not in held_out) for s, t, y in rows]
    labels = write_labels(tmp_path / "one_kind.parquet", one_kind)
    told = finetune(override(planted, {"finetune.labels": labels, "finetune.epochs": 1}))
    assert "held_out: AUROC undefined, cross-entropy" in told
    assert "0 positive" in told


def test_other_labels_are_refused_on_resuming(done, tmp_path):
    rows = planted_labels(done.data.root)
    other = write_labels(tmp_path / "other.parquet", [(s, t, not y) for s, t, y in rows])
    resumed = replace(done, resume=done.output_dir)
    with pytest.raises(ValueError, match="data: labels_sha256"):
        finetune(override(resumed, {"finetune.labels": other}))
    with pytest.raises(ValueError, match=r"finetune\.lr: 0\.002 -> 0\.1"):
        finetune(override(resumed, {"finetune.lr": 0.1}))


def test_verbs_keep_to_folders_of_their_own_kind(done, planted, tmp_path):
    with pytest.raises(ValueError, match=r"holds a fine-tuning, which `cvmae finetune` continues"):
        pretrain(override(done, {"resume": done.output_dir, "finetune.checkpoint": ""}))
    run = done.finetune.checkpoint
    with pytest.raises(ValueError, match=r"holds a run, which `cvmae pretrain` continues"):
        finetune(override(planted, {"resume": run, "output_dir": run}))
    with pytest.raises(ValueError, match=r"finetune\.checkpoint=.*leave it out of a pretraining"):
        pretrain(planted)
    evaluated = {
        "evaluate.checkpoints": [f"a={done.output_dir}"],
        "output_dir": str(tmp_path / "e"),
    }
    with pytest.raises(
        ValueError,
        match=r"fine-tuned to predict labels, it restores no values.*give evaluate\.labels",
    ):
        evaluate(override(done, evaluated))


def test_curves_and_metrics_are_kept_with_the_run(done):
    metrics = pl.read_parquet(Path(done.output_dir, "metrics.parquet"))
    names = set(metrics["name"])
    assert {"train_loss", "tuning_auroc", "tuning_loss", "held_out_auroc"} <= names
    assert Path(done.output_dir, "figures", "learning_curves.png").is_file()
    assert Journal(done.output_dir).about.params["finetune.epochs"] == "2"
