"""The suite `gpu` on a CPU, shrunk: every part gives its figures; a failed one costs no other."""

import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import benchmark as verb
from benchmarks.gpu import agreement, marked
from benchmarks.gpu import suite as gpu
from benchmarks.gpu.agreement import largest_difference
from benchmarks.gpu.sizes import Sizes, milliseconds
from benchmarks.gpu.steps import goals_of
from benchmarks.gpu.suite import PARTS, run_gpu
from benchmarks.rows import Row
from benchmarks.settings import BenchmarkConfig
from cvmae.command_line import run_job
from cvmae.settings import ModelConfig
from tests.benchmarks import small_suite
from tests.benchmarks.small_suite import CPU, SMALL, only


def run(name, folder, sizes=SMALL):
    return {row.name: row for row in gpu._part(name)(CPU, sizes, folder)}


@pytest.fixture
def few_programs(monkeypatch):
    """Interpret kernels that sum over rows in seconds."""
    pytest.importorskip("triton")
    from cvmae.model.kernels import gelu, norm

    monkeypatch.setattr(norm, "PROGRAMS", 3)
    monkeypatch.setattr(gelu, "PROGRAMS", 3)


def test_losses_differ_by_their_largest_relative_difference():
    assert largest_difference([1.0, 1.8, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "goals"),
    [
        ("NVIDIA H200, torch 2.13", [0.30, 0.42, 0.54, 8e6]),
        ("NVIDIA H100 80GB HBM3", [0.24, 0.35, 0.48, 6.5e6]),
        ("NVIDIA A10", []),
    ],
)
def test_goals_follow_the_name_of_the_gpu(name, goals):
    assert list(goals_of(name).values()) == goals


def test_losses_of_the_same_device_do_not_differ_and_those_in_bf16_a_little(tmp_path):
    in_fp32, in_bf16 = run("parity", tmp_path).values()
    assert (in_fp32.value, in_fp32.goal, in_fp32.met) == (0, 1e-3, True)
    assert (in_bf16.goal, in_bf16.met) == (2e-2, True)
    assert in_bf16.value > 0


def test_steps_in_memory_that_stays_are_those_of_ddp(tmp_path):
    row = only(run("captured", tmp_path))
    assert row.met
    assert row.note == "nothing was captured: needs CUDA"


def test_golden_runs_are_those_of_the_golden_file(tmp_path):
    rows = run("golden", tmp_path)
    assert len(rows) == 4
    for row in rows.values():
        assert row.value < 1e-5  # another processor adds in another order
        assert len(row.note.partition("; ")[0].removeprefix("losses in fp32: ").split()) == 4


def test_golden_losses_are_told_where_there_is_no_golden_file(tmp_path, monkeypatch):
    monkeypatch.setattr(agreement, "GOLDEN", tmp_path / "none")
    rows = run("golden", tmp_path, replace(SMALL, golden_steps=1))
    assert {row.value for row in rows.values()} == {None}
    assert all(row.note.startswith("losses in fp32: 0x1.") for row in rows.values())


def test_a_group_of_one_rank_exchanges_with_itself_and_loses_the_same(tmp_path, monkeypatch):
    exchanged, all_reduce = [], torch.distributed.all_reduce
    monkeypatch.setattr(
        torch.distributed,
        "all_reduce",
        lambda tensor, *rest: exchanged.append(tensor.numel()) or all_reduce(tensor, *rest),
    )
    rows = run("group", tmp_path)
    assert [row.value for row in rows.values()] == [0, 0]
    flat = max(exchanged)  # all gradients of the captured engine
    assert flat > 10_000
    assert exchanged.count(flat) == SMALL.replayed_steps
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_stages_of_deepspeed_lose_what_ddp_loses(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "")  # the part sets it, which ends with the test
    rows = run("deepspeed", tmp_path)
    assert [row.met for row in rows.values()] == [True] * 3


def test_deepspeed_that_is_not_installed_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(agreement, "find_spec", lambda _: None)
    rows = run("deepspeed", tmp_path)
    assert {(row.value, row.note, row.failed) for row in rows.values()} == {
        (None, "deepspeed is not installed", False)
    }
    assert len(rows) == 3


def test_sizes_of_models_are_measured(tmp_path):
    share, speed = run("speed", tmp_path).values()
    assert 0 < share.value < 1
    assert speed.value > 0
    assert share.note.endswith(f"a CPU, torch {torch.__version__}")


def test_without_cuda_nothing_is_captured_and_the_eager_step_is_told(tmp_path):
    row = only(run("capture", tmp_path))
    assert (row.value, row.goal) == (None, 2.0)
    assert row.note.startswith("needs CUDA; ")


def test_waiting_for_data_is_that_of_a_run_on_files(small_hospital, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.hospitals.synthetic_hospital", lambda *_: small_hospital)
    for _ in range(2):  # again in the same folder
        waiting, fed = run("input", tmp_path).values()
        assert 0 <= waiting.value <= 1
        assert fed.value > 0


@pytest.mark.usefixtures("few_programs")
def test_attention_is_set_beside_that_of_others(tmp_path, monkeypatch):
    def varlen(query, key, value, *_):
        raise AssertionError("another way\nat length")

    module = types.ModuleType("flash_attn")
    module.flash_attn_varlen_func = varlen
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    rows = run("attention", tmp_path)
    by_way = {name.rpartition(", by ")[2]: row for name, row in rows.items()}
    assert list(by_way) == ["ours", "torch's varlen_attn", "flash-attn", "padded buckets"]
    assert by_way["ours"].value > 0
    assert by_way["flash-attn"].value is None
    assert by_way["flash-attn"].note == "does not go here: AssertionError: another way"
    assert by_way["padded buckets"].value > 0
    difference = by_way["padded buckets"].note.split()[4].rstrip(",")
    assert 0 < float(difference) < 5e-3  # float16


@pytest.mark.usefixtures("few_programs")
def test_sums_and_gelu_are_set_beside_those_of_a_compiler(tmp_path):
    rows = run("fused", tmp_path, replace(SMALL, large_step=100))
    assert list(rows) == [
        f"{what}, by {way}"
        for what in ("norm: width 32", "gelu: width 128")
        for way in ("ours", "torch", "a compiler")
    ]
    for row in rows.values():
        assert row.value > 0
        assert float(row.note.split()[4].rstrip(",")) < 5e-3


def test_steps_are_taken_with_each_kernel_replaced(tmp_path):
    pytest.importorskip("triton")
    rows = run("replaced", tmp_path)
    assert len(rows) == 3
    assert all(row.value > 0 for row in rows.values())


def test_a_step_that_does_not_go_with_others_kernels_says_so(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from benchmarks.gpu import kernels

    def refuse(*_, **__):
        raise RuntimeError("no such GPU")

    monkeypatch.setattr(kernels, "measure", refuse)
    rows = run("replaced", tmp_path)
    assert {row.note for row in rows.values()} == {"does not go here: RuntimeError: no such GPU"}


@pytest.mark.slow
def test_the_marked_tests_are_run_by_pytest_and_the_failed_counted(tmp_path, monkeypatch):
    row = only(run("tests", tmp_path))
    assert (row.value, row.goal, row.met) == (0, 0, True)
    assert "deselected" in row.note
    test = tmp_path / "test_some.py"
    test.write_text(
        "import pytest\n@pytest.mark.gpu\ndef test_one():\n    assert False\n"
        "@pytest.mark.gpu\ndef test_two():\n    pass\n"
    )
    row = only(run("tests", tmp_path, replace(SMALL, tests=(str(test), "-c", os.devnull))))
    assert (row.value, row.met) == (1, False)
    assert "test_one" in row.note
    with pytest.raises(RuntimeError, match="pytest ended with 4"):
        run("tests", tmp_path, replace(SMALL, tests=("tests/nowhere",)))
    monkeypatch.setattr(marked, "find_spec", lambda _: None)
    row = only(run("tests", tmp_path))
    assert (row.value, row.note) == (None, "pytest is not installed")


def test_marked_tests_are_found_where_they_are():
    assert marked.marked_places() == [
        "tests/model/kernels",
        "tests/train/test_captured_engine.py",
    ]


def test_the_time_of_a_call_is_its_median_over_rounds(monkeypatch):
    now = iter([0.0, 4.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr("benchmarks.gpu.sizes.time.perf_counter", lambda: next(now))
    calls = []
    sizes = replace(SMALL, rounds=3, calls=2)
    assert milliseconds(lambda: calls.append(1), CPU, sizes) == 1000
    assert len(calls) == 1 + 3 * 2


def test_a_failed_part_is_written_and_makes_the_command_fail(tmp_path, monkeypatch):
    failed = Row(suite="gpu", name="speed: failed", value=None, note="why", failed=True)
    monkeypatch.setitem(verb.SUITES, "gpu", lambda config: iter([failed]))
    output = tmp_path / "gpu.json"
    with pytest.raises(SystemExit, match=r"speed: failed: why[\s\S]*cvmae: speed: failed: see the"):
        run_job(verb.benchmark, ["--suite", "gpu", "--output", str(output)], tree=BenchmarkConfig)
    assert json.loads(output.read_text())[-1]["failed"]


def test_with_a_gpu_all_parts_are_run_at_full_size_within_the_budget(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "run_processes", lambda *given: iter(asked.append(given) or []))
    list(run_gpu(BenchmarkConfig(suite="gpu", num_rows=1_000_000)))
    ((parts, device, sizes, budget_s),) = asked
    assert parts == tuple(PARTS)
    assert device.type == "cuda"
    assert sizes == Sizes(input_rows=1_000_000)
    assert budget_s == 480
    assert [model.width for model in sizes.models.values()] == [256, 512, 1024]
    assert isinstance(sizes.agreement_model, ModelConfig)


def test_without_a_gpu_every_figure_of_speed_is_a_row_that_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = list(run_gpu(BenchmarkConfig(suite="gpu")))
    assert {row.value for row in rows} == {None}
    assert {row.note for row in rows} == {"no GPU here"}
    assert {row.goal for row in rows} == {0.30, 8e6, 0.42, 0.54, 2.0, 0.02, None}
    assert not any(row.failed for row in rows)


def test_a_part_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"only='cpu' is no part of the suite gpu: give some of"):
        list(run_gpu(BenchmarkConfig(suite="gpu", only=("cpu",))))


def test_every_part_can_be_found():
    assert all(callable(gpu._part(name)) for name in PARTS)


CLUSTER = ("ray", "mlflow", "deepspeed", "polars", "sklearn", "matplotlib", "jinja2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("absent", "part"), [(CLUSTER, "golden"), ((*CLUSTER, "scipy", "pytest"), "captured")]
)
def test_the_suite_needs_no_cluster_and_its_parts_only_what_they_use(tmp_path, absent, part):
    """Every part is imported, and one is run, where these are not installed."""
    test = Path(small_suite.__file__).read_text(encoding="utf-8")
    small = test.partition("\nSMALL = ")[2].partition("\n)\n")[0]
    code = f"""
import sys
for name in {absent}:
    sys.modules[name] = None  # an import of it is an error
from pathlib import Path
import torch
from benchmarks.gpu import suite as gpu
from benchmarks.benchmark import SUITES
from benchmarks.gpu.sizes import Sizes
from benchmarks.settings import BenchmarkConfig
from cvmae.config import PRESETS
TINY = PRESETS["tiny"].model
assert list(SUITES["gpu"](BenchmarkConfig(suite="gpu")))
for name in gpu.PARTS:
    gpu._part(name)
assert list(gpu._part({part!r})(torch.device("cpu"), {small}), Path({str(tmp_path)!r})))
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ":".join(sys.path)},
    )
    assert found.returncode == 0, found.stderr
