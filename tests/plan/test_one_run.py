"""What one run takes, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cvmae.batches.order import Order
from cvmae.config import PRESETS, override
from cvmae.model.flops import flops
from cvmae.plan.memory import GIB, activation_bytes, num_parameters
from cvmae.plan.one_run import (
    LIBRARIES_GIB,
    Amount,
    CpuTime,
    balance,
    cpu_hours,
    cpu_time,
    gpu_hours,
    memory_lines_of_run,
    order_lines,
)

PAPER = PRESETS["paper"]


def order_of(measurements, lanes=2, sequences=10, batch=16):
    return Order(
        num_sequences_U=np.full(len(measurements), sequences),
        num_measurements_U=np.array(measurements),
        seed=0,
        lanes=lanes,
        batch_sequences=batch,
    )


def test_balance_is_the_mean_over_the_largest_share_of_the_ranks():
    even = order_of([100] * 16)  # eight units a lane
    assert balance(even, 2) == 1
    # All but one unit are empty: one rank has it, the other waits.
    assert balance(order_of([1000] + [0] * 15), 2) == pytest.approx(0.5)
    # The largest unit goes to the first lane, the two others to the second.
    assert balance(order_of([3, 2, 2] + [0] * 13), 2) == pytest.approx(3.5 / 4)
    # Lanes that ranks do not share evenly: two, one and one.
    assert balance(order_of([100] * 32, lanes=4), 3) == pytest.approx(2 / 3)
    assert balance(order_of([100] * 4, lanes=4), 3) == pytest.approx(2 / 3)  # shared units
    assert balance(order_of([1000] + [0] * 15), 1) == 1


def test_steps_and_sequences_follow_from_the_order():
    order = order_of([100] * 16)
    lines = {
        line.name: line.value for line in order_lines(order, num_ranks=2, num_epochs=3, parts=5)
    }
    assert lines["steps an epoch"] == 10  # 160 sequences, 16 a step
    assert lines["steps of the run"] == 30
    assert lines["sequences a step and rank"] == 8
    assert lines["sequences of a micro-batch"] == pytest.approx(1.6)
    assert lines["supersteps an epoch"] == 1
    assert lines["measurements a brick"] == 800


def memory_of(config, *, on_gpu=True):
    found = memory_lines_of_run(config, 100, step_measurements=64_000, on_gpu=on_gpu)
    return {line.name: float(line.value) for line in found}


def test_memory_of_a_rank_is_state_and_activations():
    parameters = num_parameters(PAPER.model)
    two = override(PAPER, {"scaling.num_workers": 2})
    own = memory_of(two)
    assert own["state of a rank"] == pytest.approx(18 * parameters / GIB)
    kept = activation_bytes(PAPER.model, recompute=False, num_measurements=32_000)
    assert own["activations of a rank"] == pytest.approx(kept / GIB)
    assert own["memory of a rank"] == pytest.approx((18 * parameters + kept) / GIB)
    on_cpu = memory_of(two, on_gpu=False)  # float32: no copy in bf16, activations twice as large
    assert on_cpu["state of a rank"] == pytest.approx(16 * parameters / GIB)
    assert on_cpu["activations of a rank"] == pytest.approx(2 * kept / GIB)
    own = on_cpu["state of a rank"] + on_cpu["activations of a rank"]
    assert on_cpu["memory of a rank"] == pytest.approx(own + LIBRARIES_GIB)
    parts = memory_of(replace(two, train=replace(two.train, accumulation_steps=4)))
    assert parts["activations of a rank"] == pytest.approx(kept / 4 / GIB)
    third = override(two, {"train.strategy": "deepspeed", "deepspeed.stage": 3})
    assert memory_of(third)["state of a rank"] == pytest.approx(22 / 2 * parameters / GIB)


def test_hours_follow_the_operations_and_the_number_of_gpus():
    amount = Amount(num_sequences=1e6, num_measurements=1e8)
    two = override(PAPER, {"scaling.num_workers": 2, "scaling.use_gpu": True})
    published = float(gpu_hours(two, amount, epochs=100).value)
    # 10^8 measurements at 2 x 4.75M a second, and a start an epoch.
    assert published == pytest.approx(100 * (1e8 / 9.5e6 + 0.15) / 3600)
    assert gpu_hours(two, amount, epochs=50).value == pytest.approx(published / 2)
    smaller = override(two, {"model.width": 64})
    assert gpu_hours(smaller, amount, epochs=100).value == published
    deeper = override(two, {"model.num_layers": 16, "model.num_decoder_layers": 4})
    twice = 100 * (2e8 / 9.5e6 + 0.15) / 3600
    assert gpu_hours(deeper, amount, epochs=100).value == pytest.approx(twice)


def test_hours_on_cpus_are_those_of_all_threads():
    amount = Amount(num_sequences=1000, num_measurements=100_000)
    config = override(PAPER, {"scaling.num_workers": 2, "train.num_threads": 3})
    one = flops(PAPER.model, np.array([75.0]), np.array([25.0]))
    expected = 1000 * one * 100 / (6 * 5e10) / 3600
    assert cpu_hours(config, amount) == pytest.approx(expected, rel=0.01)


def test_steps_follow_each_other_and_share_the_cores_with_what_reads():
    amount = Amount(num_sequences=1600, num_measurements=1e9)
    config = override(PAPER, {"scaling.num_workers": 2, "train.num_threads": 3})
    taken = cpu_time(config, amount, step_s=0.36, steps=100, epochs=2)
    assert taken.in_turn == pytest.approx(2 * 100 * (0.36 + 0.01) / 3600)
    reading = 2 * 1e9 * 169e-9
    assert taken.of_cores == pytest.approx((6 * 2 * 100 * 0.36 + reading) / 3600)
    alone = override(config, {"scaling.num_workers": 0})
    own = cpu_time(alone, amount, step_s=0.36, steps=100, epochs=2)
    assert own.in_turn == pytest.approx(2 * 100 * 0.36 / 3600)
    few = CpuTime(in_turn=2.0, of_cores=12.0)
    assert few.hours(cores=math.inf) == 2
    assert few.hours(cores=4) == 3
    # Side by side they share cores, and wait for each other only there.
    assert few.hours(cores=math.inf, num_at_once=4) == 0.5
    assert few.hours(cores=4, num_at_once=4) == 3


def test_a_narrow_model_is_slower_by_operations():
    # An epoch of preset small over 588,000 measurements took 24 s on one core.
    small = override(PRESETS["small"], {"scaling.num_workers": 0, "train.epochs": 1})
    amount = Amount(num_sequences=9_535, num_measurements=587_759)
    assert cpu_hours(small, amount) * 3600 == pytest.approx(24, rel=0.2)
