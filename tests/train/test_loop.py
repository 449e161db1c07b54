"""Training in the calling process: it learns, it resumes exactly, it refuses what it must."""

import itertools
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cvmae.batches.bricks import iterate_steps, stream_bricks
from cvmae.checkpoint import find_checkpoint, has_checkpoints, load_model, load_state
from cvmae.config import Config
from cvmae.train import engine as engine_module
from cvmae.train import loop
from cvmae.train import pretrain as pretraining
from cvmae.train.pretrain import pretrain
from cvmae.train.pretraining import tuning_error
from cvmae.train.replicated_engine import DDPEngine
from cvmae.train.streams import make_plan
from tests.prepared import load_or_fit, training_data


def weights_of(run: str | Path) -> dict[str, torch.Tensor]:
    return load_file(find_checkpoint(run) / "model.safetensors")


def assert_same_weights(a: str | Path, b: str | Path) -> None:
    ours, theirs = weights_of(a), weights_of(b)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


class StoppedError(Exception):
    """Stands for a process that ends here."""


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let training die right after it has written the checkpoint of a global step."""
    save = loop._save

    def save_and_stop(run, progress, state):
        save(run, progress, state)
        if progress.global_step == step:
            raise StoppedError

    monkeypatch.setattr(loop, "_save", save_and_stop)


def test_the_loss_falls_below_that_of_the_code_means(tiny):
    config = replace(tiny, train=replace(tiny.train, epochs=8, batch_sequences=8))
    history = load_state(find_checkpoint(pretrain(config)))[0].history
    assert len(history) == 8
    assert history[-1]["train_loss"] < 0.95 * history[0]["train_loss"]
    # Predicting each code's mean gives R2 = 0.
    assert history[-1]["tuning_r2"] > 0


def test_two_runs_of_the_same_seed_are_bit_identical_and_another_seed_is_not(tiny, tmp_path):
    runs = [
        pretrain(replace(tiny, output_dir=str(tmp_path / name), seed=seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert_same_weights(runs[0], runs[1])
    with pytest.raises(AssertionError):
        assert_same_weights(runs[0], runs[2])


@pytest.mark.parametrize("accumulation", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_stopping_and_resuming_inside_an_epoch_changes_nothing(
    tiny, tmp_path, monkeypatch, accumulation
):
    config = replace(
        tiny,
        train=replace(tiny.train, epochs=3, batch_sequences=8, accumulation_steps=accumulation),
        checkpoint=replace(tiny.checkpoint, every_steps=2),
    )
    whole = pretrain(replace(config, output_dir=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        stop_after(patch, step=8)
        with pytest.raises(StoppedError):
            pretrain(replace(config, output_dir=str(tmp_path / "cut")))
    progress, _, _ = load_state(find_checkpoint(tmp_path / "cut"))
    assert progress.global_step == 8
    assert progress.step > 0, "the test wants to stop inside an epoch"
    pretrain(replace(config, output_dir=str(tmp_path / "cut"), resume=str(tmp_path / "cut")))
    assert_same_weights(whole, tmp_path / "cut")
    ours, theirs = (load_state(find_checkpoint(run))[0] for run in (whole, tmp_path / "cut"))
    for name in ("train_loss", "tuning_mse", "tuning_r2", "step"):
        assert [e[name] for e in ours.history] == [e[name] for e in theirs.history], name


def test_accumulation_changes_the_sum_of_gradients_by_rounding_only(tiny, tmp_path):
    runs = [
        pretrain(
            replace(
                tiny,
                output_dir=str(tmp_path / str(parts)),
                train=replace(tiny.train, accumulation_steps=parts),
            )
        )
        for parts in (1, 4)
    ]
    losses = [load_state(find_checkpoint(run))[0].history[-1]["train_loss"] for run in runs]
    # Sums of float32 gradients in another order: about 1e-6 a step, amplified by AdamW.
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_resuming_with_other_settings_is_refused_by_name(tiny):
    run = pretrain(tiny)
    before = Path(run, "config.yaml").read_bytes()
    with pytest.raises(ValueError, match=r"mask\.ratio: 0\.25 -> 0\.5"):
        pretrain(replace(tiny, resume=run, mask=replace(tiny.mask, ratio=0.5)))
    # The refusal leaves the run as it was.
    assert Path(run, "config.yaml").read_bytes() == before
    pretrain(replace(tiny, resume=run))


@pytest.mark.parametrize(
    ("schedule", "way_on"),
    [
        ("constant", r"; --resume {run} --train\.epochs N goes on, N above 2$"),
        (
            "cosine",
            r" take a new run, .* --base {run}/config\.yaml --train\.epochs N --output_dir",
        ),
    ],
)
def test_resuming_a_finished_run_changes_nothing_and_says_so(
    tiny, monkeypatch, caplog, schedule, way_on
):
    # Not through the root logger: a job of another test may have cut it off.
    monkeypatch.setattr(pretraining.logger, "handlers", [caplog.handler])
    caplog.set_level(logging.INFO, "cvmae")
    config = replace(tiny, optim=replace(tiny.optim, schedule=schedule, warmup_steps=0))
    run = pretrain(config)
    before = {path: path.stat().st_mtime_ns for path in Path(run, "checkpoints").rglob("*")}
    assert "run: finished, " not in caplog.text
    for name in ("train", "start_ray"):  # neither is called
        monkeypatch.setattr(pretraining, name, None)
    pretrain(replace(config, resume=run))
    pretrain(replace(config, resume=run, scaling=replace(config.scaling, num_workers=2)))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (said,) = {line for line in caplog.messages if "run: finished, " in line}
    assert f"finished, after 2 epochs; its last checkpoint is {find_checkpoint(run)}; " in said
    assert re.search(way_on.format(run=run), said)


def test_only_the_newest_checkpoints_and_the_best_are_kept(tiny):
    config = replace(
        tiny,
        train=replace(tiny.train, epochs=3, batch_sequences=8),
        checkpoint=replace(tiny.checkpoint, every_steps=1, keep=2),
    )
    run = pretrain(config)
    history = load_state(run)[0].history
    best = min(history, key=lambda epoch: epoch["tuning_mse"])["step"]
    steps = {best, history[-1]["step"] - 1, history[-1]["step"]}
    names = {path.name for path in (Path(run) / "checkpoints").iterdir()}
    assert names == {f"step_{step:08d}" for step in steps}
    assert find_checkpoint(run, "best").name == f"step_{best:08d}"


def test_a_loaded_model_predicts_what_the_trained_one_did(tiny):
    run = pretrain(tiny)
    loaded = load_model(run)
    assert isinstance(loaded.config, Config)
    assert loaded.fitted.statistics.num_codes == 8
    engine = DDPEngine(loaded.model, loaded.config, device=torch.device("cpu"), total_steps=1)
    plan = make_plan(loaded.config, training_data(replace(loaded.config, resume=run)))
    error = tuning_error(engine, plan, 8).pooled()
    last = loaded.progress.history[-1]
    assert error["tuning_mse"] == pytest.approx(last["tuning_mse"], rel=1e-9)


def test_resuming_on_other_statistics_is_refused(tiny, tmp_path):
    run = pretrain(tiny)
    other = replace(
        tiny, output_dir=str(tmp_path / "other"), data=replace(tiny.data, clip_quantiles=None)
    )
    load_or_fit(other)
    changed = replace(
        tiny,
        resume=run,
        train=replace(tiny.train, epochs=3),
        data=replace(
            tiny.data, clip_quantiles=None, statistics=str(tmp_path / "other" / "statistics")
        ),
    )
    with pytest.raises(ValueError, match="statistics: clip_low, clip_high"):
        pretrain(changed)


def test_a_checkpoint_that_is_not_whole_is_passed_over(tiny, tmp_path):
    config = replace(tiny, train=replace(tiny.train, epochs=3))
    whole = pretrain(replace(config, output_dir=str(tmp_path / "whole")))
    torn = pretrain(replace(config, output_dir=str(tmp_path / "torn")))
    newest = find_checkpoint(torn)
    (newest / "optimizer.safetensors").unlink()
    assert find_checkpoint(torn) != newest
    pretrain(replace(config, output_dir=torn, resume=torn))
    assert_same_weights(whole, torn)


@pytest.mark.parametrize("what", ["weights", "moments"])
@pytest.mark.parametrize("at", ["in an epoch", "in the last update of an epoch"])
def test_weights_and_moments_that_are_not_finite_are_never_saved(tiny, monkeypatch, at, what):
    config = replace(
        tiny,
        train=replace(tiny.train, epochs=3, batch_sequences=8),
        checkpoint=replace(tiny.checkpoint, every_steps=1 if at == "in an epoch" else 0),
    )
    epoch_steps = make_plan(config, training_data(config)).train_order.num_steps(0)
    step, spoilt = DDPEngine.step, epoch_steps + 2 if at == "in an epoch" else epoch_steps - 1

    def explode(self, micro_batches, global_step):
        result = step(self, micro_batches, global_step)
        if global_step == spoilt:
            with torch.no_grad():
                first = next(self.model.parameters())
                spoil = first if what == "weights" else self._optimizer.state[first]["exp_avg_sq"]
                spoil.fill_(float("inf"))
        return result

    monkeypatch.setattr(DDPEngine, "step", explode)
    said = rf" is (nan|not finite) in epoch \d, at step {spoilt + 1} of .* good checkpoint is kept"
    with pytest.raises(FloatingPointError, match=said):
        pretrain(config)
    for folder in (Path(config.output_dir) / "checkpoints").glob("*"):
        assert load_state(folder)[0].global_step <= spoilt, folder
    if at == "in an epoch":
        best = find_checkpoint(config.output_dir, "best")
        assert all(v.isfinite().all() for v in load_file(best / "model.safetensors").values())
    else:
        assert not has_checkpoints(config.output_dir)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    tiny, monkeypatch
):
    config = replace(tiny, train=replace(tiny.train, epochs=3))
    step = DDPEngine.step

    def explode(self, micro_batches, global_step):
        error, count = step(self, micro_batches, global_step)
        return (error * float("nan") if global_step >= self._total_steps // 2 else error), count

    monkeypatch.setattr(DDPEngine, "step", explode)
    with pytest.raises(FloatingPointError, match=r"optim\.lr"):
        pretrain(config)
    progress, _, _ = load_state(find_checkpoint(config.output_dir))
    assert 0 < progress.epoch < 3


def test_the_step_and_the_batch_that_broke_training_are_named(tiny, monkeypatch):
    """The same batch, whichever way it is found out: at the next step, or at the epoch's end."""
    config = replace(tiny, train=replace(tiny.train, batch_sequences=8))
    plan = make_plan(config, training_data(config))
    last = plan.train_order.num_steps(0) - 1
    digests = [
        batch.digest()[:10]
        for (batch,) in iterate_steps(
            stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=0), lanes=4
        )
    ]
    error = engine_module.hidden_error
    for bad in (2, last):
        calls = itertools.count()

        def spoil(*args, bad=bad, calls=calls, **kwargs):
            total, count = error(*args, **kwargs)
            return (total * float("inf") if next(calls) == bad else total), count

        monkeypatch.setattr(engine_module, "hidden_error", spoil)
        shutil.rmtree(config.output_dir, ignore_errors=True)  # of the one before
        said = rf"at step {bad + 1} of the run \(batch {digests[bad]}, 1 ranks\)"
        with pytest.raises(FloatingPointError, match=said):
            pretrain(config)
