"""The order: every sequence once, the same steps for any number of ranks, balanced."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmae.batches.order import Order, deal
from cvmae.meds.unit_index import UnitIndex
from cvmae.meds.units import Piece, Unit


def order_of(num_sequences, lanes=4, batch=16, seed=0) -> Order:
    counts = np.asarray(num_sequences)
    return Order(
        num_sequences_U=counts,
        num_measurements_U=counts * 50,
        seed=seed,
        lanes=lanes,
        batch_sequences=batch,
    )


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=120),
    lanes=st.sampled_from([1, 2, 4, 8]),
    epoch=st.integers(0, 3),
)
def test_an_epoch_reads_every_unit_that_holds_sequences_once(counts, lanes, epoch):
    units: list[int] = []
    next_step = 0
    for superstep in order_of(counts, lanes).supersteps(epoch):
        lane_units = superstep.lanes[:1] if superstep.shared else superstep.lanes
        units += [unit for lane in lane_units for unit in lane]
        assert superstep.first_step == next_step
        next_step += superstep.num_steps
    assert sorted(units) == [unit for unit, count in enumerate(counts) if count]
    assert next_step == order_of(counts, lanes).num_steps(epoch)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 500), max_size=200),
    num_cells=st.integers(1, 50),
    epoch=st.integers(0, 5),
)
def test_cells_hold_every_sequence_once_and_differ_by_at_most_one(lengths, num_cells, epoch):
    count = len(lengths)
    cells = deal(
        np.array(lengths, np.int64),
        np.arange(count),
        np.zeros(count, np.int64),
        num_cells=num_cells,
        seed=3,
        epoch=epoch,
    )
    sizes = np.bincount(cells, minlength=num_cells)
    assert len(cells) == count
    assert len(sizes) == num_cells
    assert np.ptp(sizes) <= 1


def test_cells_that_get_one_sequence_more_are_not_always_the_same():
    fuller = [
        tuple(
            np.flatnonzero(
                np.bincount(
                    deal(
                        np.full(13, 5),
                        np.arange(13),
                        np.zeros(13, np.int64),
                        num_cells=10,
                        seed=0,
                        epoch=epoch,
                    )
                )
                == 2
            )
        )
        for epoch in range(4)
    ]
    assert len(set(fuller)) > 1


def test_strata_balance_ranks_better_than_chance(rng):
    lengths = np.clip(rng.lognormal(np.log(100), 1.0, 8000), 2, 512).astype(np.int64)
    cells = deal(
        lengths, np.arange(8000), np.zeros(8000, np.int64), num_cells=8 * 31, seed=0, epoch=0
    )
    load = np.bincount(cells, weights=lengths, minlength=8 * 31).reshape(31, 8)
    assert (load.mean(axis=1) / load.max(axis=1)).mean() > 0.97


def test_epochs_and_seeds_have_orders_of_their_own():
    order = order_of(np.full(600, 10), lanes=4)
    first = [s.lanes for s in order.supersteps(0)]
    assert first == [s.lanes for s in order.supersteps(0)]
    assert first != [s.lanes for s in order.supersteps(1)]
    assert first != [s.lanes for s in replace(order, seed=1).supersteps(0)]


def test_seeking_opens_only_what_is_left():
    order = order_of(np.full(600, 10), lanes=4)
    all_of_them = list(order.supersteps(2))
    assert len(all_of_them) > 3
    third = all_of_them[2]
    for step in (third.first_step, third.first_step + third.num_steps - 1):
        assert list(order.seek(2, step)) == all_of_them[2:]


def test_few_units_are_shared_by_all_lanes():
    (superstep,) = order_of([100, 5, 7], lanes=8).supersteps(0)
    assert superstep.shared
    assert superstep.lanes == ((0, 1, 2),) * 8


def test_lanes_of_many_units_balance(rng):
    counts = rng.integers(50, 150, 640)
    for superstep in order_of(counts, lanes=8).supersteps(0):
        load = [counts[list(lane)].sum() for lane in superstep.lanes]
        assert np.mean(load) / max(load) > 0.97


@pytest.mark.parametrize("num_units", [64, 67, 100, 133, 805])
def test_only_the_last_superstep_may_give_lanes_another_number_of_units(num_units):
    *whole, last = order_of([30] * num_units, lanes=8).supersteps(0)
    assert all(len({len(lane) for lane in superstep.lanes}) == 1 for superstep in whole)
    numbers = [len(lane) for lane in last.lanes]
    assert max(numbers) - min(numbers) <= 1
    assert min(numbers) >= 8


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_mean_step_is_within_a_few_percent_of_the_batch_asked_for(batch):
    order = order_of(np.full(640, 30), lanes=8, batch=batch)
    mean = 640 * 30 / order.num_steps(0)
    assert abs(mean / batch - 1) < 0.05


def test_the_unit_index_survives_its_file(tmp_path):
    unit = Unit(
        pieces=(
            Piece(
                path="data/0.parquet",
                first_row_group=0,
                last_row_group=2,
                first_subject=-5,
                last_subject=10**15,
            ),
        ),
        num_rows=17,
    )
    index = UnitIndex(
        units=(unit,),
        num_sequences={"train": np.array([3]), "tuning": np.array([0])},
        num_measurements={"train": np.array([30]), "tuning": np.array([0])},
    )
    index.write(tmp_path / "unit_index.parquet")
    back = UnitIndex.read(tmp_path / "unit_index.parquet")
    assert back.units == index.units
    for split in ("train", "tuning"):
        np.testing.assert_array_equal(back.num_sequences[split], index.num_sequences[split])
