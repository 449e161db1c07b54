"""A training step of meds-torch's triplet encoder on the same sequences, beside ours."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.clock import cpu_seconds, median_ratio, progress
from benchmarks.peers.suite import ONE_THREAD
from benchmarks.rows import Row
from benchmarks.step.batches import draw_steps, to_batch
from benchmarks.step.model import STEP_MEASUREMENTS, cpu_engine, one_thread, paper_config
from cvmae.batches.batch import Batch

__all__ = ["peer_rows", "ratio_rows", "step_columns"]

# What its encoder and transformer import, and no more: all that meds-torch can do asks for
# gigabytes. torch is that of this environment, so that both have the same products of matrices.
REQUIREMENTS = (
    "PyYAML==6.0.3",
    "antlr4-python3-runtime==4.9.3",
    "einops==0.8.1",
    "meds-torch==0.0.8",
    "omegaconf==2.3.0",
    "x-transformers==1.34.0",
)
# Peer -> size of a head (0: x-transformers' own, 64), and how many times its speed ours shall be.
PEERS: dict[str, tuple[int, float | None]] = {
    "meds-torch's triplet encoder": (0, 4.5),
    "the same with our size of heads": (32, None),
}
MOST_ROUNDS = 3  # a step of theirs takes a quarter of a minute


def peer_rows(folder: Path, num_rows: int, rounds: int) -> Iterator[Row]:
    """Let steps of ours and theirs take turns; a row without a value where theirs cannot run."""
    rounds = min(rounds, MOST_ROUNDS)
    one_thread()
    try:
        packages = _environment(folder / "meds_torch")
        seconds, measurements, sizes = _measure(folder, packages, rounds)
    except (ValueError, OSError) as error:
        for name, (_, goal) in PEERS.items():
            yield _ratio_row(name, None, goal, f"not run: {str(error).splitlines()[-1]}")
        return
    yield from ratio_rows(seconds, measurements, sizes)


def ratio_rows(
    seconds: Mapping[str, Sequence[float]], measurements: Sequence[int], sizes: Mapping[str, int]
) -> Iterator[Row]:
    """Yield how many times the speed of each peer ours is, and what a measurement costs each.

    Args:
        seconds: CPU seconds of each round's step, of `ours` and of each of `PEERS`.
        measurements: Of each round's step.
        sizes: Parameters of each of `PEERS`.
    """
    for name, (_, goal) in PEERS.items():
        ratio = median_ratio(seconds[name], seconds["ours"])
        note = f"{sizes[name] / 1e6:.1f} M parameters; same sequences, padded to their longest"
        yield _ratio_row(name, ratio, goal, note)
    for name, taken in seconds.items():
        yield Row(
            suite="step",
            name=f"peer: {name}, CPU a measurement",
            value=median_ratio(taken, measurements) * 1e6,
            unit="us",
        )


def step_columns(batch: Batch) -> dict[str, npt.NDArray[Any]]:
    """Return a step's sequences as plain columns, which need nothing of cvmae to be read."""
    hidden_N = np.zeros(batch.num_measurements, np.bool_)
    hidden_N[batch.hidden_M.numpy()] = True
    return {
        "length": np.diff(batch.offsets_B.numpy()),
        "code": batch.code_index_N.numpy(),
        "hours": batch.hours_N.numpy(),
        "value": batch.value_N.numpy(),
        "hidden": hidden_N,
    }


def _measure(
    folder: Path, packages: Path, rounds: int
) -> tuple[dict[str, list[float]], list[int], dict[str, int]]:
    """Return CPU seconds of each round by name, measurements of each, and sizes of the peers."""
    draws = zip(range(rounds + 1), draw_steps(STEP_MEASUREMENTS, seed=1), strict=False)
    batches = [to_batch(step, seed=number) for number, step in draws]
    columns = {
        f"{name}_{number}": column
        for number, batch in enumerate(batches)
        for name, column in step_columns(batch).items()
    }
    steps_file = folder / "meds_torch_steps.npz"
    np.savez(steps_file, **columns)  # type: ignore[arg-type]  # numpy's stub mistakes the names
    engine = cpu_engine(paper_config())
    seconds: dict[str, list[float]] = {"ours": [], **{name: [] for name in PEERS}}
    with contextlib.ExitStack() as stack:
        peers = {
            name: stack.enter_context(_Peer(packages, steps_file, head_size))
            for name, (head_size, _) in PEERS.items()
        }
        for number, batch in enumerate(batches):
            taken = {"ours": _own_step(engine, batch, number)}
            taken |= {name: float(peer.ask(str(number))) for name, peer in peers.items()}
            shown = ", ".join(f"{name} {value:.2f}" for name, value in taken.items())
            progress("peer: round %d of %d, CPU s: %s", number, rounds, shown)
            for name, value in taken.items() if number else ():
                seconds[name].append(value)
        sizes = {name: peer.num_parameters for name, peer in peers.items()}
    return seconds, [batch.num_measurements for batch in batches[1:]], sizes


def _own_step(engine: Any, batch: Batch, number: int) -> float:
    return cpu_seconds(lambda: engine.step([batch], number))


@dataclass
class _Peer:
    """A process that takes the peer's steps when it is asked to."""

    packages: Path
    steps_file: Path
    head_size: int
    num_parameters: int = 0
    _process: "subprocess.Popen[str]" = field(init=False)

    def __enter__(self) -> Self:
        script = Path(__file__).with_name("meds_torch_step.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(self.steps_file), str(self.head_size)],
            env=os.environ | ONE_THREAD | {"PYTHONPATH": str(self.packages)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.num_parameters = int(self._answer())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, line: str) -> str:
        """Send a line and return the answer.

        Raises:
            ValueError: The process has ended.
        """
        assert self._process.stdin is not None, "opened with a pipe"
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None, "opened with a pipe"
        line = self._process.stdout.readline()
        if not line:
            raise ValueError(f"meds-torch's model ended with {self._process.wait()}")
        return line.strip()


def _environment(folder: Path) -> Path:
    """Install the peer's packages into a folder of their own unless they are there; return it.

    Raises:
        ValueError: They cannot be installed.
    """
    done, wanted = folder / "requirements.txt", "\n".join(REQUIREMENTS)
    if not done.is_file() or done.read_text(encoding="utf-8") != wanted:
        progress("peer: installing %s into %s", ", ".join(REQUIREMENTS), folder)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        found = subprocess.run(
            [*pip, "--target", str(folder), *REQUIREMENTS],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode:
            said = (found.stdout + found.stderr).strip().splitlines()
            raise ValueError(f"pip install failed: {said[-1] if said else found.returncode}")
        done.write_text(wanted, encoding="utf-8")
    return folder


def _ratio_row(name: str, value: float | None, goal: float | None, note: str) -> Row:
    return Row(
        suite="step",
        name=f"peer: ours over {name}",
        value=value,
        unit="x",
        goal=goal,
        sense=">=",
        note=f"{note}; torch {torch.__version__}",
    )
