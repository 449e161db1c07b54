"""Other losses than the mean over hidden values: what they are, on any number of ranks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cvmae.batches.bricks import iterate_steps, stream_bricks
from cvmae.checkpoint import load_model, read_progress
from cvmae.config import Config, override
from cvmae.model.vomae import build_model
from cvmae.train import loop
from cvmae.train.pretrain import pretrain
from cvmae.train.streams import make_plan
from tests.prepared import training_data
from tests.train.rank_runs import run_on_ranks, run_steps
from tests.train.test_strategies import TOLERANCE, with_strategy

OTHERS = {
    "inclusion": {"train.loss_weighting": "inclusion"},
    "visible": {"train.visible_weight": 0.5},
    "both": {"train.loss_weighting": "inclusion", "train.visible_weight": 0.5},
    "measurement": {"mask.target": "measurement"},
}


@pytest.fixture(params=OTHERS)
def other(request, tiny) -> Config:
    return override(tiny, OTHERS[request.param])


def first_batch(config, data):
    plan = make_plan(config, data)
    bricks = stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=0)
    ((batch,), *_) = iterate_steps(bricks, lanes=config.data.lanes)
    return batch


def test_the_loss_is_the_ratio_of_weighted_sums_and_the_mean_of_visible_errors(tiny):
    data = training_data(tiny)
    both = override(tiny, OTHERS["both"])
    losses, *_ = run_steps(both, data, num_steps=1)
    batch = first_batch(both, data)
    model = build_model(tiny.model, data.fitted.statistics.num_codes, tiny.seed)
    with torch.no_grad():
        square_N = (model(batch, ask_all=True) - batch.value_N).square().double().numpy()
    weight_M = batch.error_weight_M.double().numpy()
    assert len(np.unique(weight_M)) > 8
    hidden = (weight_M * square_N[batch.hidden_M]).sum() / weight_M.sum()
    assert losses[0] == pytest.approx(hidden + 0.5 * square_N[batch.visible_V].mean(), rel=1e-5)


def test_every_loss_is_another_and_by_default_nothing_travels_beside_the_mask(tiny, tmp_path):
    data = training_data(tiny)
    assert first_batch(tiny, data).error_weight_M is None
    configs = [tiny, *(override(tiny, changes) for changes in OTHERS.values())]
    losses = {run_steps(config, data, num_steps=1)[0][0] for config in configs}
    assert len(losses) == 1 + len(OTHERS)


def test_errors_of_the_fixed_mask_of_tuning_have_no_weights(tiny):
    config = override(tiny, OTHERS["inclusion"])
    plan = make_plan(config, training_data(config))
    assert plan.tuning_reader.evaluation
    bricks = list(stream_bricks(plan.tuning_reader, plan.tuning_order, plan.units, epoch=0))
    assert bricks
    assert all(brick.error_weight_M is None for brick in bricks)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["both", "measurement"], indirect=True)
def test_a_run_learns_and_resumes_inside_an_epoch_to_the_same_bits(other, tmp_path, monkeypatch):
    config = replace(
        other,
        train=replace(other.train, epochs=3, batch_sequences=8),
        checkpoint=replace(other.checkpoint, every_steps=2),
    )
    whole = pretrain(replace(config, output_dir=str(tmp_path / "whole")))
    history = read_progress(whole).history
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert np.isfinite(history[-1]["tuning_mse"])
    save, saved = loop.save_checkpoint, []

    def save_and_stop(*args, **rest):
        saved.append(save(*args, **rest))
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
    assert read_progress(config.output_dir).step > 0
    run = pretrain(replace(config, resume=config.output_dir))
    ours, theirs = (load_model(path).model.state_dict() for path in (run, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    again = read_progress(run).history
    assert [e["train_loss"] for e in again] == [e["train_loss"] for e in history]


def test_micro_batches_change_the_loss_by_rounding_only(other):
    data = training_data(other)
    alone, *_ = run_steps(other, data, num_steps=5)
    cut, *_ = run_steps(
        replace(other, train=replace(other.train, accumulation_steps=4)), data, num_steps=5
    )
    np.testing.assert_allclose(cut, alone, rtol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("ddp", "both"),
        ("ddp", "measurement"),
        ("deepspeed 1", "both"),
        ("deepspeed 3", "measurement"),
    ],
    indirect=["other"],
)
def test_ranks_lose_what_one_process_loses(other, tmp_path, name):
    data = training_data(other)
    alone, *_ = run_steps(other, data, num_steps=6)
    config = with_strategy(other, name)
    losses, *_ = run_on_ranks(2, tmp_path / "ranks", config, data, num_steps=6)
    np.testing.assert_allclose(losses, alone, rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model.encoder_input": "masked_value"}, r"model\.encoder_input='masked_value' is not"),
        ({"train.visible_weight": 0.1}, r"train\.visible_weight=0\.1 is not allowed: give 0 where"),
    ],
)
def test_what_a_target_of_measurements_cannot_be_combined_with_is_refused(tiny, changes, match):
    with pytest.raises(ValueError, match=match):
        override(tiny, {"mask.target": "measurement", **changes})


@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan")])
def test_a_weight_of_visible_values_is_zero_or_positive(tiny, weight):
    with pytest.raises(ValueError, match=r"train\.visible_weight"):
        replace(tiny.train, visible_weight=weight)
