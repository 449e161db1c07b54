"""The suite `step`: arithmetic of its figures, and that what is compared does the same work."""

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import step_gpu, step_meds_torch, step_model, step_order, step_peer, step_ranks
from benchmarks.data_streaming import _loads
from benchmarks.epochs import TRAIN, prepare
from benchmarks.hospitals import regroup
from benchmarks.settings import BenchmarkConfig
from benchmarks.step import PARTS, run_step
from benchmarks.step_batches import Step, cut, draw_steps, quantiles, to_batch, to_padded
from benchmarks.step_gpu import goals_of, gpu_rows, largest_difference
from benchmarks.step_memory import LargeRun, large_rows, run_large
from benchmarks.step_model import model_rows, paper_config, speed_rows, useful_flops
from benchmarks.step_order import make_order, order_rows, simulate
from benchmarks.step_peer import PEERS, peer_rows, ratio_rows, step_columns
from benchmarks.step_ranks import overhead_row, rank_rows
from benchmarks.step_ray import loop_config, ray_overhead_rows
from cvmae.batches.bricks import stream_bricks
from cvmae.batches.sequences import cut_windows
from cvmae.config import PRESETS
from cvmae.meds.reading import read_unit
from cvmae.train.streams import make_plan


def by_name(rows):
    return {row.name: row for row in rows}


def step_of(lengths, hidden):
    return Step(length_W=np.array(lengths), num_hidden_W=np.array(hidden))


def test_a_part_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"only='cpu' is no part of the suite step: give some of"):
        list(run_step(BenchmarkConfig(suite="step", only=("cpu",))))


def test_patients_have_the_lengths_of_patients_and_windows_at_most_512():
    assert np.median(quantiles(2000)) == pytest.approx(100, abs=1)
    windows = cut(quantiles(2000))
    assert windows.length_W.max() == 512
    assert windows.length_W.sum() == quantiles(2000).sum()


@pytest.mark.parametrize("num_measurements", [2048, 4096, 65_536, 1_000_000])
def test_steps_have_about_as_many_measurements_as_asked_for(num_measurements):
    first, second = itertools.islice(draw_steps(num_measurements, seed=0), 2)
    for step in (first, second):
        assert abs(step.num_measurements - num_measurements) <= 256
        assert (step.num_hidden_W < step.length_W).all()
        assert step.num_hidden_W.sum() / step.num_measurements == pytest.approx(0.25, abs=0.02)
    assert not np.array_equal(first.length_W, second.length_W)
    (again,) = itertools.islice(draw_steps(num_measurements, seed=0), 1)
    assert np.array_equal(first.length_W, again.length_W)


def test_a_batch_hides_what_its_step_says():
    step = step_of([5, 2, 9], [1, 0, 3])
    batch = to_batch(step, seed=0)
    assert batch.num_hidden_B.tolist() == [1, 0, 3]
    assert batch.num_visible_B.tolist() == [4, 2, 6]


def test_padding_makes_every_sequence_as_long_as_the_longest_part_by_part():
    padded = to_padded(step_of([8, 10], [4, 1]))
    assert padded.num_hidden_W.tolist() == [4, 4]
    assert padded.length_W.tolist() == [13, 13]  # 9 visible of the second, 4 hidden of the first
    assert useful_flops(paper_config(), padded) > useful_flops(
        paper_config(), step_of([10, 10], [1, 1])
    )


def test_speeds_are_medians_of_ratios_of_the_same_round():
    seconds = {"ours": [1.0, 2.0, 4.0], "padded": [2.0, 4.0, 40.0], "masked_value": [1.5, 1, 8]}
    rows = by_name(speed_rows(seconds, [0.9, 0.8, 0.2], [1000, 2000, 4000], [2.0, 3.0, 4.0]))
    share = rows["model: useful FLOPs over the GEMM peak of the same process"]
    assert (share.value, share.goal, share.met) == (0.8, 0.85, False)
    padded = rows["model: speed over the same sequences padded"]
    assert (padded.value, padded.goal, padded.met) == (2, 1.9, True)
    assert "3.00 rows a measurement" in padded.note
    masked = rows["model: visible_only over masked_value"]
    assert (masked.value, masked.goal, masked.met) == (1.5, 1.2, True)
    assert rows["model: ours, CPU a measurement"].value == pytest.approx(1000)


def test_the_part_model_gives_every_figure(monkeypatch, tmp_path):
    small = replace(paper_config(), model=PRESETS["tiny"].model)
    monkeypatch.setattr(
        step_model,
        "paper_config",
        lambda encoder_input="visible_only": replace(
            small, model=replace(small.model, encoder_input=encoder_input)
        ),
    )
    monkeypatch.setattr(step_model, "STEP_MEASUREMENTS", 512)
    monkeypatch.setattr(step_model, "GEMMS", ((64, 64, 64, 2),))
    rows = by_name(model_rows(tmp_path, 0, 2))
    assert {name: row.goal for name, row in rows.items() if row.goal is not None} == {
        "model: useful FLOPs over the GEMM peak of the same process": 0.85,
        "model: speed over the same sequences padded": 1.9,
        "model: visible_only over masked_value": 1.2,
    }
    assert "model: fused AdamW over torch's default" in rows
    assert all(row.value > 0 for row in rows.values())


def test_the_peer_is_given_the_same_measurements_padded_to_the_longest():
    batch = to_batch(step_of([3, 5], [1, 2]), seed=0)
    columns = {f"{name}_7": column for name, column in step_columns(batch).items()}
    padded = step_meds_torch.padded(columns, 7)
    assert padded["mask"].tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert padded["hidden"].sum() == 3
    assert not padded["hidden"][~padded["mask"]].any()
    flat = padded["target"][padded["mask"]]
    assert torch.equal(flat, batch.value_N)
    assert torch.equal(padded["code"][padded["mask"]].int(), batch.code_index_N)
    assert torch.allclose(padded["time_delta_days"][padded["mask"]] * 24, batch.hours_N)
    hidden = padded["hidden"]
    assert (padded["numeric_value"][hidden] == 0).all()  # a hidden value reaches the loss alone
    assert not padded["numeric_value_mask"][hidden].any()
    assert torch.equal(padded["numeric_value_mask"], padded["mask"] & ~hidden)


def test_ours_is_set_against_the_peer_in_the_same_round():
    default, sized = PEERS
    seconds = {"ours": [1.0, 2.0], default: [5.0, 10.0], sized: [3.0, 6.0]}
    sizes = {default: 8_500_000, sized: 6_400_000}
    rows = by_name(ratio_rows(seconds, [1000, 1000], sizes))
    ratio = rows[f"peer: ours over {default}"]
    assert (ratio.value, ratio.goal, ratio.met) == (5, 4.5, True)
    assert ratio.note.startswith("8.5 M parameters")
    assert rows[f"peer: ours over {sized}"].goal is None
    assert rows["peer: ours, CPU a measurement"].value == pytest.approx(1500)


def test_a_peer_that_cannot_be_installed_leaves_rows_that_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(step_peer.sys, "executable", "/bin/false")
    rows = list(peer_rows(tmp_path, 0, 1))
    assert [row.value for row in rows] == [None] * len(PEERS)
    assert [row.goal for row in rows] == [4.5, None]
    assert all("not run: pip install failed" in row.note for row in rows)


def test_the_overhead_of_ranks_adds_their_times_round_by_round():
    first, second = [(1.0, 2.0), (1.0, 1.0)], [(3.0, 3.0), (1.0, 1.4)]
    row = overhead_row([first, second])
    assert row.value == pytest.approx(1.225)  # of 5 / 4 and 2.4 / 2
    assert (row.goal, row.met) == (1.10, False)


def test_steps_without_the_other_rank_are_taken_before_there_is_a_group(monkeypatch, tmp_path):
    in_group = []

    class Engine:
        def step(self, micro_batches, global_step):
            in_group.append(torch.distributed.is_initialized())

    monkeypatch.setattr(step_ranks, "cpu_engine", lambda config: Engine())
    monkeypatch.setattr(step_ranks, "one_thread", lambda: None)
    monkeypatch.setattr(step_ranks, "NUM_RANKS", 1)
    step_ranks._rank(0, tmp_path, 2)
    assert in_group == [False] * 3 + [True] * 3
    assert len(torch.load(tmp_path / "rank_0")) == 2


@pytest.mark.slow
def test_two_ranks_are_measured_alone_and_together(tmp_path):
    (row,) = rank_rows(tmp_path, 0, 1)
    assert 0.1 < row.value < 10


def test_the_loop_is_the_same_with_and_without_ray_but_for_its_worker():
    here, on_ray = loop_config("data", "run", 0), loop_config("data", "run", 1)
    assert on_ray.scaling.num_workers == 1
    assert replace(on_ray, scaling=here.scaling) == here


def history(*steps):
    """Return metrics of a first epoch and of others: milliseconds of a step by clock and CPU."""
    return [
        {"step_ms_median": wall, "step_cpu_ms_median": cpu, "train_s": wall / 10}
        for wall, cpu in [(1e6, 1e6), *steps]
    ]


def test_the_overhead_of_ray_is_that_of_epochs_after_the_first():
    here = [history((100, 50), (110, 55), (90, 45)), history((200, 50), (200, 50))]
    on_ray = [history((104, 51), (104, 51)), history((216, 53), (216, 53))]
    rows = list(ray_overhead_rows(here, on_ray))
    assert [row.value for row in rows] == pytest.approx([1.04, 1.06, 1.06])
    assert [row.goal for row in rows] == [1.05, None, None]
    assert rows[0].name.endswith("CPU of a step, thread that trains")
    assert rows[0].met


@pytest.mark.parametrize("is_shared", [True, False])
def test_the_simulated_order_is_the_order_of_the_data(small_hospital, folder, is_shared):
    prepared, lanes = prepare(small_hospital), 8
    if not is_shared:  # fewer lanes, and units so small that each has its own
        root = regroup(small_hospital, folder / "regrouped_for_order", 600)
        prepared, lanes = prepare(root, unit_rows=1200), 2
    config = prepared.config
    config = replace(
        config,
        data=replace(config.data, lanes=lanes),
        train=replace(config.train, batch_sequences=12),
    )
    prepared = replace(prepared, config=config, plan=make_plan(config, prepared.data))
    plan = prepared.plan
    assert {s.shared for s in plan.train_order.supersteps(1)} == {is_shared}
    assert plan.train_order.num_steps(1) > 4
    reader = plan.train_reader
    units = [
        cut_windows(read_unit(reader.source, unit, reader.statistics.lookup, TRAIN)[0], 512)
        for unit in plan.units
    ]
    found, work = simulate(plan.train_order, units, epoch=1)
    bricks = stream_bricks(reader, plan.train_order, plan.units, epoch=1)
    wanted = np.concatenate([*_loads(bricks, plan.train_order.lanes)])
    assert np.array_equal(found, wanted)
    assert work.shape == found.shape
    batches = list(prepared.steps(1))
    config = replace(prepared.config, model=PRESETS["paper"].model)
    steps = [
        step_of(batch.num_visible_B + batch.num_hidden_B, batch.num_hidden_B) for batch in batches
    ]
    totals = [useful_flops(config, step) for step in steps]
    assert work.sum(axis=1) == pytest.approx(totals)


def test_units_of_a_simulated_hospital_hold_whole_subjects():
    units = step_order.simulated_units(1_000_000, 50_000)
    subjects = np.concatenate([np.unique(unit.subject_id_W) for unit in units])
    assert len(subjects) == len(np.unique(subjects))
    sizes = np.array([unit.length_W.sum() for unit in units])
    assert sizes.sum() == pytest.approx(1_000_000, rel=0.05)
    assert np.median(sizes) == pytest.approx(50_000, rel=0.2)
    order = make_order(units, lanes=4, batch_sequences=64)
    assert order.num_measurements_U.tolist() == sizes.tolist()


def test_the_order_has_a_goal_where_a_rank_has_more_than_a_handful(monkeypatch, tmp_path):
    monkeypatch.setattr(step_order, "NUM_MEASUREMENTS", 2_000_000)
    rows = by_name(order_rows(tmp_path, 0, 1))
    assert {name: row.goal for name, row in rows.items()} == {
        "order: 8 ranks, 256 sequences a step": 0.95,
        "order: 8 ranks, 2,048 sequences a step": 0.95,
        "order: 64 ranks, 256 sequences a step": None,
        "order: 64 ranks, 16,384 sequences a step": 0.95,
    }
    assert all(0 < row.value <= 1 for row in rows.values())


def test_a_large_run_is_told_by_size_fall_and_memory():
    run = LargeRun(
        num_parameters=2**26,
        losses=(2.0, 1.0),
        peak_bytes=3 * 2**30,
        before_bytes=2**29,
        seconds_a_step=1.5,
    )
    rows = {row.name.rpartition(", ")[2]: row for row in large_rows(run)}
    assert (rows["parameters"].value, rows["parameters"].met) == (
        pytest.approx(67.1, abs=0.1),
        False,
    )
    assert rows["last loss over the first"].value == 0.5
    assert rows["last loss over the first"].met
    assert rows["peak memory"].value == 3
    assert rows["peak memory"].note.startswith("1.00 GiB of weights, gradients and moments")


def test_a_few_steps_on_one_batch_lower_the_loss(monkeypatch):
    monkeypatch.setattr("benchmarks.step_memory.STEP_MEASUREMENTS", 256)
    config = replace(paper_config(), model=PRESETS["tiny"].model)
    config = replace(config, train=replace(config.train, activation_checkpointing=True))
    run = run_large(config)
    assert len(run.losses) == 5
    assert run.losses[-1] < run.losses[0]
    assert run.peak_bytes >= run.before_bytes > 0


def test_without_a_gpu_every_figure_of_it_is_a_row_that_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = list(gpu_rows(tmp_path, 0, 1))
    assert {row.value for row in rows} == {None}
    assert {row.note for row in rows} == {"no GPU here"}
    assert {row.goal for row in rows} == {0.30, 8e6, 0.42, 0.54, 2.0, 0.02, 1e-3, None}


@pytest.mark.parametrize(
    ("name", "goals"),
    [
        ("NVIDIA H200", [0.30, 0.42, 0.54, 8e6]),
        ("NVIDIA H100 80GB HBM3", [0.24, 0.35, 0.48, 6.5e6]),
        ("NVIDIA A10", []),
    ],
)
def test_goals_follow_the_name_of_the_gpu(name, goals):
    assert list(goals_of(name).values()) == goals


def test_losses_differ_by_their_largest_relative_difference():
    assert largest_difference([1.0, 1.8, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(0.1)


def test_losses_of_the_same_device_do_not_differ(monkeypatch):
    monkeypatch.setattr(step_gpu, "AGREEMENT_STEPS", 3)
    monkeypatch.setattr(step_gpu, "AGREEMENT_MEASUREMENTS", 256)
    assert step_gpu._disagreement("fp32", torch.device("cpu")) == 0
    assert 0 < step_gpu._disagreement("bf16", torch.device("cpu")) < 0.1


def test_waiting_for_data_is_that_of_a_run_on_files(small_hospital, tmp_path, monkeypatch):
    def small(root):
        prepared = prepare(root)
        return replace(prepared, config=replace(prepared.config, model=PRESETS["tiny"].model))

    monkeypatch.setattr("benchmarks.hospitals.synthetic_hospital", lambda *_: small_hospital)
    monkeypatch.setattr("benchmarks.epochs.prepare", small)
    monkeypatch.setattr(step_gpu, "INPUT_EPOCHS", 3)
    for _ in range(2):  # again in the same folder
        share, per_s = step_gpu._input_wait(tmp_path, 0, torch.device("cpu"))
        assert 0 <= share <= 1
        assert per_s > 0


def test_the_part_gpu_starts_without_ray_and_mlflow():
    code = (
        "import sys; from benchmarks.benchmark import SUITES;"
        "from benchmarks.settings import BenchmarkConfig as C;"
        "list(SUITES['step'](C(suite='step', only=('gpu',))));"
        "sys.exit(' '.join({'ray', 'mlflow', 'deepspeed', 'polars'} & set(sys.modules)) or 0)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert found.returncode == 0, found.stderr


def test_every_part_can_be_imported():
    assert list(PARTS) == ["model", "peer", "ranks", "ray", "order", "memory", "gpu"]
    for module, function in PARTS.values():
        assert callable(getattr(__import__(f"benchmarks.{module}", fromlist=["_"]), function))
