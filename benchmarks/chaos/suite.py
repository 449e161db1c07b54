"""The suite `chaos`: runs that are killed again and again end as if nothing had happened.

Two workers train on a Ray cluster of several nodes on this machine. Each run is killed once in
every way: a worker, a process that reads, a node, the driver, and the writer of a checkpoint in
the middle of it. Its final weights must be those of an undisturbed run, bit for bit, and every
sequence must have been trained on in its step, once.
"""

import contextlib
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.chaos.cluster import ClusterProcess
from benchmarks.chaos.processes import leaving_no_process
from benchmarks.chaos.runs import KINDS, Lineage, Watched, draw_kills, expected_steps, lineage
from benchmarks.clock import progress
from benchmarks.rows import Row
from benchmarks.settings import BenchmarkConfig
from cvmae.checkpoint import find_checkpoint, load_state
from cvmae.command_line import load
from cvmae.config import resolved_path
from cvmae.synthetic.hospital import SyntheticConfig, write_hospital

__all__ = ["STRATEGIES", "Outcome", "chaos_rows", "run_chaos"]

STRATEGIES = ("ddp", "deepspeed")
RUNS_A_STRATEGY = 2  # of one kill of each kind
NUM_NODES, CPUS_A_NODE = 2, 3
SEED = 20_251


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one disturbed run."""

    recovery_s: Mapping[str, float]  # kind of kill -> from it to the next new step
    num_steps: int
    seen: Lineage
    is_identical: bool  # it ended, with the same weights and optimiser to the last bit


def run_chaos(config: BenchmarkConfig) -> Iterator[Row]:
    """Yield what survived, and at what cost.

    Raises:
        ValueError: There is no strategy of that name, or the system is not Linux.
        ChildProcessError: The undisturbed run failed; the message ends with what it said last.
    """
    strategies = config.only or STRATEGIES
    if unknown := [name for name in strategies if name not in STRATEGIES]:
        raise ValueError(f"only={unknown[0]!r} is no strategy: give some of {STRATEGIES}")
    if sys.platform != "linux":
        raise ValueError("the suite chaos finds processes through Linux's /proc")
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cvmae-chaos-")))
        stack.enter_context(leaving_no_process())
        root = _hospital(Path(resolved_path(config.root) or folder))
        progress("chaos: starting a Ray of %d nodes", NUM_NODES)
        cluster = stack.enter_context(ClusterProcess(NUM_NODES, CPUS_A_NODE))
        outcomes = []
        for strategy in strategies:
            outcomes += _disturbed(folder / strategy, strategy, root, cluster)
    yield from chaos_rows(outcomes, len(strategies) * RUNS_A_STRATEGY)
    minutes = (time.monotonic() - began) / 60
    yield Row(suite="chaos", name="time", value=minutes, unit="min", goal=25)


def chaos_rows(outcomes: list[Outcome], num_runs: int) -> Iterator[Row]:
    """Sum up what became of the disturbed runs, of which there should be `num_runs`."""
    survived = Counter(kind for outcome in outcomes for kind in outcome.recovery_s)

    row = partial(Row, suite="chaos")
    goal = num_runs * len(KINDS)
    yield row(name="kills survived", value=survived.total(), goal=goal, sense=">=")
    for kind in KINDS:
        yield row(name=f"kills survived: {kind}", value=survived[kind])
    yield row(
        name="runs that end with the weights of an undisturbed one",
        value=sum(outcome.is_identical for outcome in outcomes),
        goal=num_runs,
        sense=">=",
    )
    yield row(
        name="steps repeated",
        value=sum(outcome.seen.num_repeated for outcome in outcomes),
        note=f"of {sum(o.num_steps for o in outcomes)} steps in {len(outcomes)} runs",
    )
    for name, count in (
        ("lost", sum(outcome.seen.num_lost for outcome in outcomes)),
        ("duplicated", sum(outcome.seen.num_duplicated for outcome in outcomes)),
    ):
        yield row(name=f"sequences {name}", value=count, goal=0)
    recovery_s = [seconds for outcome in outcomes for seconds in outcome.recovery_s.values()]
    if recovery_s:
        median = statistics.median(recovery_s)
        yield row(name="a kill to the next new step, median", value=median, unit="s")


def _disturbed(folder: Path, strategy: str, root: str, cluster: ClusterProcess) -> list[Outcome]:
    """Run once undisturbed and then with kills; return what became of the latter."""
    flags = [
        *("--base", "tiny", "--data.root", root, "--train.strategy", strategy),
        *("--data.lanes", "4", "--data.unit_rows", "2000", "--data.min_count", "2"),
        *("--train.epochs", "6", "--train.batch_sequences", "16"),
        *("--checkpoint.every_steps", "7", "--scaling.num_workers", "2"),
        # A worker fills a node but for the CPU of its reads: each loss of a node costs a worker.
        *("--scaling.cpus_per_worker", str(CPUS_A_NODE - 1), "--scaling.max_failures", "20"),
    ]
    progress("chaos: %s undisturbed", strategy)
    calm = Watched(folder / "calm", flags, cluster, NUM_NODES)
    calm.finish()
    fitted = calm.folder / "statistics"
    expected = expected_steps(load(flags), fitted)
    flags += ["--data.statistics", str(fitted)]
    rng = np.random.default_rng([SEED, STRATEGIES.index(strategy)])
    outcomes = []
    for number in range(1, RUNS_A_STRATEGY + 1):
        run = Watched(folder / f"run{number}", flags, cluster, NUM_NODES)
        recovery_s: dict[str, float] = {}
        try:
            for planned in draw_kills(rng, len(expected)):
                step, recovery_s[planned.kind] = run.suffer(planned)
                progress(
                    "chaos: %s, run %d of %d, kill %d of %d: %s at step %d of %d, on after %.0f s",
                    *(strategy, number, RUNS_A_STRATEGY, len(recovery_s), len(KINDS)),
                    *(planned.kind, step, len(expected), recovery_s[planned.kind]),
                )
            run.finish()
            is_identical = _same_state(calm.folder, run.folder)
        except (ChildProcessError, TimeoutError) as error:
            progress("chaos: %s", error)
            run.abandon()
            is_identical = False
        seen = lineage(run.logs(), expected)
        outcomes.append(
            Outcome(
                recovery_s=recovery_s, num_steps=len(expected), is_identical=is_identical, seen=seen
            )
        )
    return outcomes


def _same_state(ours: Path, theirs: Path) -> bool:
    """Tell whether two runs have ended with the same weights and optimiser state."""
    (_, *a), (_, *b) = (load_state(find_checkpoint(run)) for run in (ours, theirs))
    return all(
        left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
        for left, right in zip(a, b, strict=True)
    )


def _hospital(folder: Path) -> str:
    root = folder / "hospital_chaos"
    if not root.is_dir():
        progress("chaos: writing a synthetic hospital to %s", root)
        aside = root.with_name(f"{root.name}.aside")
        write_hospital(
            SyntheticConfig(root=str(aside), num_subjects=1000, num_codes=20, num_shards=4)
        )
        aside.rename(root)
    return str(root)
