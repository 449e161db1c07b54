"""What measures: rounds in turns, process trees, peaks of memory, fresh processes."""

import gc
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.clock import interleave, median_ratio
from benchmarks.processes import (
    Watcher,
    in_fresh_process,
    own_memory,
    peak_memory,
    process_tree,
    tree_cpu_seconds,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
MIB = 2**20
BUSY = "import time\nwhile time.process_time() < 0.4: pass\nprint('done', flush=True)\n"


def test_functions_take_turns_and_the_first_round_is_not_counted():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in ("raw", "ours")}
    seconds = interleave(functions, 2, "test")
    assert calls == ["raw", "ours"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"raw": 2, "ours": 2}


def test_ratios_are_taken_within_a_round():
    # The second round was ten times slower for both: no ratio of medians would say 2.
    assert median_ratio([2, 20, 2.2], [1, 10, 1.1]) == pytest.approx(2)


def test_cpu_time_of_children_counts_also_when_they_have_ended():
    with Watcher(root=os.getpid(), interval_s=0.02) as watcher:
        before = watcher.cpu_seconds()
        hold = BUSY + "import sys; sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            child.stdout.readline()
            assert child.pid in process_tree(os.getpid())
            assert tree_cpu_seconds(os.getpid())[child.pid] >= 0.3
            watcher.cpu_seconds()  # it is seen while it lives
        assert child.pid not in process_tree(os.getpid())
        assert watcher.cpu_seconds() - before >= 0.3


def test_the_peak_of_memory_stays_when_memory_is_given_back():
    before = in_fresh_process(peak_memory)
    after = in_fresh_process(hold_and_release, 300)
    assert after > before + 250 * MIB


def test_memory_of_a_process_counts_what_it_has_for_itself():
    gc.collect()  # what is freed meanwhile, and what Linux counts late on many cores: tens of MiB
    before = own_memory(os.getpid())
    with Watcher(root=os.getpid(), interval_s=0.01) as watcher:
        held = np.ones(400 * MIB, np.uint8)
        assert own_memory(os.getpid()) > before + 300 * MIB
        deadline = time.monotonic() + 60
        while watcher.peak_total < before + 300 * MIB and time.monotonic() < deadline:
            time.sleep(0.01)
        del held
        sampled = watcher.own_cpu_s  # of one more look, when the memory is given back
        while watcher.own_cpu_s < sampled + 0.002 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert watcher.peak_of[os.getpid()] > before + 300 * MIB
    assert watcher.peak_total >= watcher.peak_of[os.getpid()]


def test_a_fresh_process_is_another_one_and_its_errors_come_back():
    assert in_fresh_process(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="invalid literal"):
        in_fresh_process(int, "no number")


def hold_and_release(mebibytes):
    held = np.ones(mebibytes * MIB, np.uint8)
    del held
    return peak_memory()
