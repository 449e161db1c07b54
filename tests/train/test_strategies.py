"""Every strategy on any number of ranks loses the same, and loads the state of any other."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from cvmae.batches.bricks import iterate_steps, stream_bricks
from cvmae.train.streams import make_plan
from tests.prepared import training_data
from tests.train.rank_runs import run_on_ranks, run_steps

pytestmark = pytest.mark.slow

NUM_STEPS = 50
# Sums over ranks and over padded blocks come in another order: about 1e-7 of a loss a step, which
# training carries on. Over 50 steps at a learning rate of 1e-3 it grows to about 1e-5.
TOLERANCE = 1e-4


def with_strategy(config, name):
    strategy, _, stage = name.partition(" ")
    if strategy == "ddp":
        return config
    return replace(
        config,
        train=replace(config.train, strategy="deepspeed"),
        deepspeed=replace(config.deepspeed, stage=int(stage)),
        scaling=replace(config.scaling, num_workers=2),
    )


@pytest.fixture
def fitted(tiny):
    return training_data(tiny)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Take steps from the first one on, once for all tests that compare with the same."""
    known = {}

    def run(config, fitted, *, world=0, num_steps=NUM_STEPS):
        key = replace(config, output_dir=""), world, num_steps
        if key not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / "ranks"
            known[key] = (
                run_on_ranks(world, folder, config, fitted, num_steps=num_steps)
                if world
                else run_steps(config, fitted, num_steps=num_steps)
            )
        return known[key]

    return run


@pytest.mark.parametrize(
    ("name", "world"),
    [("ddp", 2), ("ddp", 4), ("deepspeed 1", 2), ("deepspeed 2", 2), ("deepspeed 3", 2)],
)
def test_strategies_lose_what_one_process_loses(tiny, fitted, undisturbed, tmp_path, name, world):
    alone, *_ = undisturbed(tiny, fitted)
    config = with_strategy(tiny, name)
    losses, *_ = run_on_ranks(world, tmp_path / "ranks", config, fitted, num_steps=NUM_STEPS)
    np.testing.assert_allclose(losses, alone, rtol=TOLERANCE)
    assert losses[-1] < 0.95 * losses[0]  # it learns: 0.92 after so few steps
    assert losses != alone  # otherwise nothing was shared


def test_a_group_of_one_rank_loses_what_no_group_loses(tiny, fitted, undisturbed, tmp_path):
    alone, *_ = undisturbed(tiny, fitted)
    losses, *_ = run_on_ranks(1, tmp_path / "ranks", tiny, fitted, num_steps=NUM_STEPS)
    assert losses == alone


def test_ranks_end_at_the_weights_of_one_process(tiny, fitted, undisturbed):
    """AdamW divides by the size of gradients: noise in place of a zero would be whole steps."""
    _, alone, _ = undisturbed(tiny, fitted)
    _, shared, _ = undisturbed(tiny, fitted, world=2)
    for name, weight in alone.items():
        # Each of the steps moves a weight by up to 1e-3; biases of keys once differed by 2e-2.
        torch.testing.assert_close(shared[name], weight, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", ["ddp", "deepspeed 1", "deepspeed 2", "deepspeed 3"])
def test_strategies_clip_decay_and_warm_up_as_one_process_does(
    tiny, fitted, undisturbed, tmp_path, name
):
    """By the state, since AdamW hides from losses by what factor gradients were clipped."""
    optim = replace(tiny.optim, clip_norm=1e-2, weight_decay=5.0, warmup_steps=8)
    config = replace(tiny, optim=optim)
    _, *alone = undisturbed(config, fitted, num_steps=8)
    _, *shared = run_on_ranks(
        2, tmp_path / "ranks", with_strategy(config, name), fitted, num_steps=8
    )
    for ours, theirs in zip(shared, alone, strict=True):
        assert ours.keys() == theirs.keys()
        for place, value in theirs.items():
            largest = float(value.abs().max())
            torch.testing.assert_close(ours[place], value, rtol=0, atol=1e-3 * largest, msg=place)


@pytest.mark.parametrize(
    ("stage", "offload"), [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "parameters")]
)
def test_state_that_is_offloaded_changes_losses_by_rounding_only(
    tiny, fitted, undisturbed, tmp_path, stage, offload
):
    config = with_strategy(tiny, f"deepspeed {stage}")
    config = replace(config, deepspeed=replace(config.deepspeed, offload=offload))
    alone, *_ = undisturbed(tiny, fitted)
    losses, *state = run_on_ranks(2, tmp_path / "first", config, fitted, num_steps=5)
    again, *_ = run_on_ranks(
        2, tmp_path / "then", config, fitted, first=5, num_steps=5, state=state
    )
    np.testing.assert_allclose([*losses, *again], alone[:10], rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["ddp", "deepspeed 1", "deepspeed 3"])
def test_bf16_is_near_fp32_and_not_it(tiny, fitted, undisturbed, tmp_path, name):
    alone = undisturbed(tiny, fitted)[0][:10]
    config = with_strategy(replace(tiny, train=replace(tiny.train, precision="bf16")), name)
    losses, weights, _ = run_on_ranks(2, tmp_path / "ranks", config, fitted, num_steps=10)
    # Eight bits of mantissa: 0.4% a product, averaged over many.
    np.testing.assert_allclose(losses, alone, rtol=2e-2)
    assert np.abs(np.array(losses) / alone - 1).max() > 1e-5
    assert all(value.dtype == torch.float32 for value in weights.values())


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param("deepspeed 1", "deepspeed 1", marks=pytest.mark.survival),
        pytest.param("deepspeed 2", "deepspeed 2", marks=pytest.mark.survival),
        ("deepspeed 3", "deepspeed 3"),
        ("ddp", "deepspeed 3"),
        ("deepspeed 2", "ddp"),
    ],
)
def test_a_state_is_taken_up_by_any_strategy(tiny, fitted, undisturbed, tmp_path, first, then):
    config = with_strategy(tiny, first)
    straight, weights, moments = undisturbed(config, fitted, world=2, num_steps=12)
    _, *state = undisturbed(config, fitted, world=2, num_steps=6)
    losses, *resumed = run_on_ranks(
        2, tmp_path / "then", with_strategy(tiny, then), fitted, first=6, num_steps=6, state=state
    )
    assert weights.keys() == resumed[0].keys()
    assert moments.keys() == resumed[1].keys()
    if first == then:
        assert losses == straight[6:]
        assert all(torch.equal(weights[name], resumed[0][name]) for name in weights)
        assert all(torch.equal(moments[name], resumed[1][name]) for name in moments)
    np.testing.assert_allclose(losses, straight[6:], rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["ddp", "deepspeed 2", "deepspeed 3"])
def test_only_the_rank_that_writes_checkpoints_holds_the_full_state(tiny, fitted, tmp_path, name):
    _, weights, moments = run_on_ranks(
        2, tmp_path / "ranks", with_strategy(tiny, name), fitted, num_steps=1
    )
    assert weights
    assert len(moments) == 3 * len(weights)  # two moments and the number of updates
    _, *other = torch.load(tmp_path / "ranks" / "result_1", weights_only=False)
    assert other == [{}, {}]


@pytest.mark.parametrize("name", ["deepspeed 1", "deepspeed 3"])
def test_an_update_that_deepspeed_passes_over_has_an_infinite_error(tiny, fitted, tmp_path, name):
    losses, *_ = run_on_ranks(
        2, tmp_path / "ranks", with_strategy(tiny, name), fitted, num_steps=4, overflow_at=2
    )
    assert np.isinf(losses).tolist() == [False, False, True, False]


@pytest.mark.parametrize(("first", "then"), [("deepspeed 1", 1), ("deepspeed 3", 4)])
def test_a_state_of_deepspeed_is_taken_up_by_another_number_of_ranks(
    tiny, fitted, undisturbed, tmp_path, first, then
):
    config = with_strategy(tiny, first)
    straight, *_ = undisturbed(config, fitted, world=2, num_steps=12)
    _, *state = undisturbed(config, fitted, world=2, num_steps=6)
    losses, *_ = run_on_ranks(
        then, tmp_path / "then", config, fitted, first=6, num_steps=6, state=state
    )
    np.testing.assert_allclose(losses, straight[6:], rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["ddp", "deepspeed 2", "deepspeed 3"])
def test_ranks_without_work_keep_step_with_the_others(tiny, fitted, undisturbed, tmp_path, name):
    """Two sequences a step are dealt to four lanes: often a rank has none."""
    few = replace(tiny, train=replace(tiny.train, batch_sequences=2))
    plan = make_plan(few, fitted)
    first = stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=0, rank=1, world=2)
    sizes = [batch.num_sequences for (batch,) in islice(iterate_steps(first, lanes=2), 20)]
    assert 0 in sizes
    alone, *_ = undisturbed(few, fitted, num_steps=20)
    config = with_strategy(few, name)
    losses, *_ = run_on_ranks(2, tmp_path / "ranks", config, fitted, num_steps=20)
    np.testing.assert_allclose(losses, alone, rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["ddp", "deepspeed 1", "deepspeed 2", "deepspeed 3"])
def test_micro_batches_change_losses_by_rounding_only(tiny, fitted, undisturbed, tmp_path, name):
    alone = undisturbed(tiny, fitted)[0][:10]
    config = with_strategy(replace(tiny, train=replace(tiny.train, accumulation_steps=2)), name)
    losses, *_ = run_on_ranks(2, tmp_path / "ranks", config, fitted, num_steps=10)
    np.testing.assert_allclose(losses, alone, rtol=TOLERANCE)
