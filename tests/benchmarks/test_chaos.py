"""The suite `chaos`: what it draws, what it notes, and that it would see what it looks for."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.chaos import Outcome, chaos_rows, run_chaos
from benchmarks.chaos_cluster import ClusterProcess, environment
from benchmarks.chaos_processes import is_alive, kill, leaving_no_process
from benchmarks.chaos_record import RankLog, fingerprints, rank_logs
from benchmarks.chaos_runs import KINDS, Lineage, draw_kills, expected_steps, lineage
from benchmarks.settings import BenchmarkConfig
from cvmae.batches.bricks import iterate_steps, own_lanes, stream_bricks
from cvmae.train.streams import make_plan
from tests.prepared import fit, training_data


def test_a_run_is_killed_once_in_every_way_at_steps_that_the_seed_decides(rng):
    for _ in range(50):
        kills = draw_kills(rng, 300)
        assert sorted(k.kind for k in kills) == sorted(KINDS)
        steps = [k.step for k in kills]
        assert steps == sorted(steps)
        assert steps[0] > 10
        assert steps[-1] < 290
        assert kills[-1].kind != "data worker"
    assert len({k.kind for k in (draw_kills(rng, 300)[0] for _ in range(50))}) == len(KINDS)
    assert draw_kills(np.random.default_rng(7), 300) == draw_kills(np.random.default_rng(7), 300)


def test_a_fingerprint_is_of_one_sequence_whatever_rank_it_is_on(tiny):
    plan = make_plan(tiny, training_data(tiny))

    def steps(rank, world, epoch=0):
        bricks = stream_bricks(
            plan.train_reader, plan.train_order, plan.units, epoch=epoch, rank=rank, world=world
        )
        lanes = own_lanes(plan.train_order.lanes, rank, world)
        return [batch for (batch,) in iterate_steps(bricks, lanes=len(lanes))]

    for alone, first, second in zip(steps(0, 1), steps(0, 2), steps(1, 2), strict=True):
        ours = fingerprints(alone)
        both = np.concatenate([fingerprints(first), fingerprints(second)])
        assert len(ours) == alone.num_sequences > 0
        assert len(set(ours)) == len(ours)
        assert sorted(ours) == sorted(both)
    # The same sequences under other masks; a short one may be hidden alike in both epochs.
    one, other = (
        {word for batch in steps(0, 1, epoch) for word in fingerprints(batch)} for epoch in (0, 1)
    )
    assert len(one & other) < len(one) / 2


@pytest.mark.parametrize("column", ["code_index_N", "hours_N", "value_N"])
def test_a_fingerprint_changes_with_every_column(tiny, column):
    plan = make_plan(tiny, training_data(tiny))
    bricks = stream_bricks(plan.train_reader, plan.train_order, plan.units, epoch=0)
    ((batch,), *_) = iterate_steps(bricks, lanes=tiny.data.lanes)
    changed = getattr(batch, column).clone()
    changed[0] += 1
    before, after = fingerprints(batch), fingerprints(replace(batch, **{column: changed}))
    assert (before != after).tolist() == [True] + [False] * (len(before) - 1)


def log_of(folder: Path, group: int, rank: int, steps: dict[int, list[int]]) -> RankLog:
    path = folder / "ranks" / f"{group}_2_{rank}_{1000 + group + rank}"
    path.parent.mkdir(exist_ok=True)
    words = [np.array([step, len(own), *own], np.uint64) for step, own in steps.items()]
    path.write_bytes(b"".join(w.tobytes() for w in words))
    return RankLog(group, 2, rank, 1000 + group + rank, path)


PLANNED = {0: [1, 2], 1: [3, 4], 2: [5, 6]}
EXPECTED = {step: np.array(words, np.uint64) for step, words in PLANNED.items()}


def lineage_of(folder, groups) -> Lineage:
    for number, ranks in enumerate(groups):
        for rank, steps in enumerate(ranks):
            log_of(folder, number, rank, steps)
    return lineage(rank_logs(folder), EXPECTED)


def test_an_undisturbed_run_has_lost_and_repeated_nothing(tmp_path):
    seen = lineage_of(tmp_path, [[{0: [1], 1: [4], 2: [6]}, {0: [2], 1: [3], 2: [5]}]])
    assert seen == Lineage(num_repeated=0, num_lost=0, num_duplicated=0)


def test_steps_taken_again_after_a_kill_count_as_repeated_once(tmp_path):
    # Rank 1 was killed before it came to step 1; another group takes that step again.
    before = [{0: [1], 1: [4]}, {0: [2]}]
    after = [{1: [3, 4], 2: []}, {1: [], 2: [6, 5]}]
    seen = lineage_of(tmp_path, [before, after])
    assert seen == Lineage(num_repeated=1, num_lost=0, num_duplicated=0)


def test_lost_and_duplicated_sequences_are_counted_apart(tmp_path):
    before = [{0: [1], 1: [4], 2: [6]}, {0: [2], 1: [3], 2: [5]}]
    after = [{1: [4], 2: [6]}, {1: [4], 2: [5, 1]}]  # without 3, with 4 twice; 1 comes again
    seen = lineage_of(tmp_path, [before, after])
    assert seen == Lineage(num_repeated=2, num_lost=1, num_duplicated=2)


def test_a_step_that_nobody_took_has_lost_its_sequences(tmp_path):
    seen = lineage_of(tmp_path, [[{0: [1], 2: [6]}, {0: [2], 2: [5]}]])
    assert seen == Lineage(num_repeated=0, num_lost=2, num_duplicated=0)


def test_a_note_that_was_cut_off_by_a_kill_is_passed_over(tmp_path):
    log = log_of(tmp_path, 0, 0, {0: [1, 2], 1: [3, 4]})
    log.path.write_bytes(log.path.read_bytes()[:-12])
    assert [step for step, _ in log.steps()] == [0]


def test_the_plan_tells_the_sequences_of_every_step(tiny, tmp_path):
    fit(tiny).write(tmp_path / "statistics")
    expected = expected_steps(tiny, tmp_path / "statistics")
    plan = make_plan(tiny, training_data(tiny))
    per_epoch = plan.train_order.num_sequences_U.sum()
    assert sum(map(len, expected.values())) == tiny.train.epochs * per_epoch
    assert list(expected) == list(range(sum(map(plan.train_order.num_steps, range(2)))))


def outcome(**changes) -> Outcome:
    seen = Lineage(num_repeated=12, num_lost=0, num_duplicated=0)
    recovery_s = dict.fromkeys(KINDS, 20.0)
    whole = Outcome(recovery_s=recovery_s, num_steps=300, seen=seen, is_identical=True)
    return replace(whole, **changes)


def rows_of(outcomes, num_runs):
    return {row.name: row for row in chaos_rows(outcomes, num_runs)}


def test_the_goals_are_met_when_every_kill_is_survived_exactly():
    rows = rows_of([outcome()] * 4, 4)
    assert rows["kills survived"].value == rows["kills survived"].goal == 20
    assert rows["kills survived: node"].value == 4
    assert rows["steps repeated"].value == 48
    assert all(row.met in (True, None) for row in rows.values())
    assert sum(row.met is True for row in rows.values()) == 4


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"recovery_s": {"node": 3.0}}, "kills survived"),
        ({"is_identical": False}, "runs that end with the weights of an undisturbed one"),
        ({"seen": Lineage(num_repeated=0, num_lost=1, num_duplicated=0)}, "sequences lost"),
        ({"seen": Lineage(num_repeated=0, num_lost=0, num_duplicated=1)}, "sequences duplicated"),
    ],
)
def test_one_run_that_differs_misses_the_goal(changes, failed):
    rows = rows_of([outcome(), outcome(**changes)], 2)
    assert [row.name for row in rows.values() if row.met is False] == [failed]


def test_a_strategy_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"only='zero'.*ddp"):
        list(run_chaos(BenchmarkConfig(suite="chaos", only=("zero",))))


# A process that ignores SIGTERM, whose parent ends at once.
ORPHAN = """
import subprocess, sys
child = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); " \
        "time.sleep(600)"
process = subprocess.Popen([sys.executable, "-c", child], start_new_session=True,
                           stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
"""


def start_orphan() -> int:
    return int(subprocess.run([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_no_process_is_left_after_an_interruption(number, error):
    handler = signal.getsignal(signal.SIGTERM)
    orphans = []

    def interrupted() -> None:
        with leaving_no_process():
            orphans.append(start_orphan())
            assert is_alive(orphans[0])
            os.kill(os.getpid(), number)
            time.sleep(60)

    with pytest.raises(error):
        interrupted()
    assert not is_alive(orphans[0])
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.ray
@pytest.mark.survival
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_the_cluster_is_on_loopback_and_admits_no_one_without_its_token():
    pytest.importorskip("ray")
    code = (
        "import ray; ray.init(logging_level='error'); print(ray.nodes()[0]['NodeManagerAddress'])"
    )

    def join(**settings: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", code],
            env=environment(RAY_ADDRESS=cluster.address, **settings),
            capture_output=True,
            text=True,
        )

    with leaving_no_process(), ClusterProcess(1, 1) as cluster:
        assert join().stdout.startswith("127.")
        for settings in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "f" * 64}):
            refused = join(**settings)
            assert refused.returncode
            assert "ConnectionError" in refused.stderr or "Authentication" in refused.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_number_that_belongs_to_a_stranger_by_now_is_not_killed():
    orphan = start_orphan()  # nobody adopts it for us
    try:
        assert is_alive(orphan)
        assert not kill(orphan)
        assert is_alive(orphan)
    finally:
        os.kill(orphan, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_processes_from_before_are_left_alone():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with leaving_no_process():
            pass
        assert is_alive(process.pid)
        assert kill(process.pid)
        process.wait()
        assert not kill(process.pid)
    finally:
        process.kill()
