"""Bricks: every sequence once, the same steps on 1 to 4 ranks of 4 lanes and from any step on."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from cvmae.batches.batch import Batch
from cvmae.batches.bricks import iterate_steps, own_lanes, stream_bricks
from cvmae.batches.inclusion import error_weights, inclusion_chances
from cvmae.train.streams import Plan, make_plan
from tests.prepared import training_data


@pytest.fixture(params=["shared supersteps", "many supersteps"])
def plan(request, tiny) -> Plan:
    rows = 500 if request.param == "shared supersteps" else 60
    config = replace(tiny, data=replace(tiny.data, unit_rows=rows, lanes=4))
    made = make_plan(config, training_data(config))
    supersteps = list(made.train_order.supersteps(0))
    if request.param == "shared supersteps":
        assert supersteps[0].shared
    else:
        made = replace(made, train_order=replace(made.train_order, lanes=1, batch_sequences=4))
        made = replace(made, train_order=replace(made.train_order, lanes=4))
    return made


def steps_of(plan: Plan, *, epoch=1, step=0, rank=0, world=1, accumulation=1) -> list[list[Batch]]:
    bricks = stream_bricks(
        plan.train_reader,
        plan.train_order,
        plan.units,
        epoch=epoch,
        step=step,
        rank=rank,
        world=world,
    )
    lanes = own_lanes(plan.train_order.lanes, rank, world)
    return list(iterate_steps(bricks, lanes=len(lanes), step=step, accumulation_steps=accumulation))


def sequences_of(batches: list[Batch]) -> list[bytes]:
    """Return every sequence's whole content, sorted."""
    rows = []
    for batch in batches:
        hidden = np.zeros(batch.num_measurements, bool)
        hidden[batch.hidden_M.numpy()] = True
        bounds = batch.offsets_B.numpy()
        for first, last in pairwise(bounds):
            own = slice(first, last)
            rows.append(
                batch.code_index_N.numpy()[own].tobytes()
                + batch.hours_N.numpy()[own].tobytes()
                + batch.value_N.numpy()[own].tobytes()
                + hidden[own].tobytes()
            )
    return sorted(rows)


def test_an_epoch_holds_every_sequence_once(plan):
    epochs = [
        sequences_of([batch for step in steps_of(plan, epoch=epoch) for batch in step])
        for epoch in (0, 1)
    ]
    assert len(epochs[0]) == plan.train_order.num_sequences_U.sum()
    assert len(set(epochs[0])) == len(epochs[0])
    assert epochs[0] != epochs[1]  # masks differ


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_together_see_the_steps_of_one_rank(plan, world):
    alone = steps_of(plan)
    ranks = [steps_of(plan, rank=rank, world=world) for rank in range(world)]
    assert {len(steps) for steps in ranks} == {len(alone)}
    for step, batches in enumerate(alone):
        together = [batch for steps in ranks for batch in steps[step]]
        assert sequences_of(together) == sequences_of(batches)


def test_resuming_at_any_step_gives_the_tail(plan):
    whole = steps_of(plan)
    for step in (1, len(whole) // 2, len(whole) - 1):
        tail = steps_of(plan, step=step)
        assert [b.digest() for (b,) in tail] == [b.digest() for (b,) in whole[step:]]


def test_micro_batches_share_out_a_step(plan):
    for whole, parts in zip(steps_of(plan), steps_of(plan, accumulation=3), strict=True):
        assert len(parts) == 3
        assert sequences_of(parts) == sequences_of(whole)


def weights_of(batches: list[Batch]) -> dict[bytes, tuple[float, ...]]:
    """Return the weights of each sequence's errors, by what it measured."""
    weights = {}
    for batch in batches:
        for own, hidden in zip(
            pairwise(batch.offsets_B.tolist()), pairwise(batch.hidden_offsets_B), strict=True
        ):
            values = batch.value_N.numpy()[slice(*own)].tobytes()
            weights[values] = tuple(batch.error_weight_M[slice(*hidden)].tolist())
    return weights


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 3), (4, 1)])
def test_errors_are_weighed_by_the_inverse_chance_to_be_hidden(plan, world, accumulation):
    reader = replace(plan.unweighted_reader, weigh_errors=True)
    weighing = replace(plan, unweighted_reader=reader)
    ranks = [
        steps_of(weighing, rank=rank, world=world, accumulation=accumulation)
        for rank in range(world)
    ]
    found = weights_of([batch for steps in ranks for step in steps for batch in step])
    weight_C, ratio, checked = plan.train_reader.weight_C, plan.train_reader.ratio, 0
    for (batch,) in steps_of(plan):
        assert batch.error_weight_M is None
        length_B = np.diff(batch.offsets_B.numpy()).astype(np.int64)
        chances = inclusion_chances(length_B, weight_C[batch.code_index_N.numpy()], ratio)
        expected = error_weights(chances[batch.hidden_M.numpy()])
        for own, hidden in zip(
            pairwise(batch.offsets_B.tolist()), pairwise(batch.hidden_offsets_B), strict=True
        ):
            values = batch.value_N.numpy()[slice(*own)].tobytes()
            assert found[values] == tuple(expected[slice(*hidden)].tolist())
            checked += 1
    assert checked == len(found) > 20


def test_a_missing_brick_is_noticed(plan):
    bricks = list(stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=0))
    lanes = plan.train_order.lanes
    with pytest.raises(RuntimeError, match=r"inside superstep|missing or repeated"):
        list(iterate_steps(iter(bricks[:-1]), lanes=lanes))
    with pytest.raises(RuntimeError, match="missing or repeated"):
        list(iterate_steps(iter(bricks[:lanes] * 2), lanes=lanes))


def test_unit_size_changes_neither_sequences_nor_masks(tiny):
    contents = []
    for rows in (80, 2000):
        config = replace(tiny, data=replace(tiny.data, unit_rows=rows))
        made = make_plan(config, training_data(config))
        contents.append(sequences_of([b for step in steps_of(made) for b in step]))
    assert contents[0] == contents[1]
