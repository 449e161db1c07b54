"""Peers on the same files: measurements a second of one core, each from its own package.

    python -m benchmarks.peers --output peers.json

makes an environment of its own for them (a few hundred MB; torch from PyPI may bring gigabytes
of CUDA), writes a hospital of measurements only, and lets ours and theirs take turns. Folder and
environment are kept: a second run measures at once.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from benchmarks.clock import cpu_seconds, progress
from benchmarks.epochs import TRAIN, Prepared, prepare
from benchmarks.hospitals import labs_only, synthetic_hospital
from benchmarks.processes import in_fresh_process
from benchmarks.rows import Row, format_table, machine_rows, write_rows
from cvmae.batches.policies import mask_weights
from cvmae.config import resolved_path
from cvmae.meds.dataset import open_dataset
from cvmae.runtime.logs import setup_logging
from cvmae.settings import MaskConfig
from cvmae.statistics.fit import fit
from cvmae.train.streams import make_plan

__all__ = ["PeersConfig", "compare", "main"]

REQUIREMENTS = (
    "meds-torch-data==0.9.0",
    "meds_reader==0.2.0",
    "numpy==2.4.6",
    "pandas==3.1.1",
    "polars==1.44.2",
    "pyarrow==25.0.1",
    "torch==2.13.0",
)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "ARROW_NUM_THREADS": "1"}
# Peer -> how many times its measurements/s ours shall give.
GOALS: dict[str, float | None] = {
    "meds-torch-data, random crop": 30,
    "meds-torch-data, all windows": None,
    "meds_reader": 3,
    "pandas group-by": 30,
}
OURS, OURS_CROP = "cvmae, all windows", "cvmae, random crop"


@dataclass(frozen=True, kw_only=True)
class PeersConfig:
    """Compare cvmae with other loaders of MEDS data on the same files."""

    output: str = ""
    """File to write the rows to as JSON; empty: only the table."""
    folder: str = ".venv-peers"
    """Folder to keep the peers' environment and the data in."""
    num_rows: int = 4_600_000
    """Rows of the synthetic hospital, about, of which the measurements are kept."""
    rounds: int = 3
    """Rounds in which ours and theirs take turns; medians are over them."""


def main(argv: Sequence[str]) -> str:
    """Compare with command-line flags; user errors end the process with one line."""
    setup_logging()
    config = tyro.cli(PeersConfig, args=list(argv), use_underscores=True)
    try:
        facts, rows = machine_rows(), list(compare(config))
    except (ValueError, OSError) as error:
        raise SystemExit(f"cvmae: {error}") from None
    facts.append(Row(suite="machine", name="peers", value=", ".join(REQUIREMENTS)))
    if config.output:
        write_rows(config.output, [*facts, *rows])
    return format_table(rows)


def compare(config: PeersConfig) -> Iterator[Row]:
    """Yield speeds, ratios and costs of preparation.

    Raises:
        ValueError: The peers' environment cannot be made, or a peer fails.
    """
    folder = Path(resolved_path(config.folder))
    python = _environment(folder / "environment")
    hospital = synthetic_hospital(folder, config.num_rows)
    codes = prepare(hospital).fitted.statistics.codes
    labs = labs_only(hospital, Path(f"{hospital}_labs"), codes)
    prepared = prepare(labs)
    settings, costs = _prepare_peers(prepared, folder, python)
    speeds: dict[str, list[float]] = {}
    for number in range(config.rounds):
        for name in (OURS, OURS_CROP, *GOALS):
            if name in GOALS:
                speed = _peer_speed(python, name, settings)
            else:
                speed = in_fresh_process(own_speed, labs, name == OURS_CROP)
            progress(
                "round %d of %d: %s %.3g measurements/s", number + 1, config.rounds, name, speed
            )
            speeds.setdefault(name, []).append(speed)
    yield from speed_rows(speeds)
    rows = prepared.num_rows
    for name, seconds in costs.items():
        yield Row(suite="peers", name=f"{name}, CPU", value=seconds, unit="s")
        yield Row(suite="peers", name=f"{name}, CPU a row", value=seconds / rows * 1e9, unit="ns")


def speed_rows(speeds: dict[str, list[float]]) -> Iterator[Row]:
    """Yield medians, and the ratios of ours to each peer's in the same round."""
    for name, values in speeds.items():
        speed = statistics.median(values)
        yield Row(suite="peers", name=f"{name}", value=speed, unit="measurements/s of a core")
    for name, goal in GOALS.items():
        for own in (OURS, OURS_CROP):
            ratios = [a / b for a, b in zip(speeds[own], speeds[name], strict=True)]
            yield Row(
                suite="peers",
                name=f"{own} over {name}",
                value=statistics.median(ratios),
                unit="x",
                goal=goal if own == OURS else None,
                sense=">=",
            )


def own_speed(root: str, crop: bool) -> float:
    """Stream an epoch of ours on one core of a fresh process; return measurements a second."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    prepared = _cropped(prepare(root)) if crop else prepare(root)
    prepared.stream(0)  # files and code are met for the first time
    return prepared.num_measurements / cpu_seconds(lambda: prepared.stream(1))


def _cropped(prepared: Prepared) -> Prepared:
    config = replace(prepared.config, data=replace(prepared.config.data, crop=True))
    prepared = replace(prepared, config=config, fitted=fit(config, prepared.dataset))
    return replace(prepared, plan=make_plan(config, prepared.data))


def _environment(folder: Path) -> Path:
    """Make the peers' environment unless it is there; return its Python."""
    python = folder / "bin" / "python"
    done = folder / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS)
    if not done.is_file() or done.read_text(encoding="utf-8") != wanted:
        progress("installing %s into %s", ", ".join(REQUIREMENTS), folder)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS])
        done.write_text(wanted, encoding="utf-8")
    return python


def _prepare_peers(prepared: Prepared, folder: Path, python: Path) -> tuple[Path, dict[str, float]]:
    """Let the peers convert the data, unless they did; return settings and CPU seconds of that."""
    settings, costs = folder / "settings.json", folder / "costs.json"
    name = Path(prepared.root).name
    tensorized, database = folder / f"{name}_tensorized", folder / f"{name}_database"
    statistics_ = prepared.fitted.statistics
    codes = {
        "code": list(statistics_.codes),
        "index": list(range(statistics_.num_codes)),
        "mean": statistics_.mean.tolist(),
        "std": statistics_.std.tolist(),
        "weight": mask_weights(statistics_, MaskConfig(policy="cv")).tolist(),
    }
    chosen: dict[str, Any] = {
        "tensorized": str(tensorized),
        "database": str(database),
        "train_subjects": prepared.dataset.members[TRAIN].tolist(),
        "train_shards": [f"{prepared.root}/{path}" for path in prepared.train_shards],
        "codes": codes,
    }
    settings.write_text(json.dumps(chosen), encoding="utf-8")
    if not costs.is_file():
        config = prepared.config
        convert = [str(python.with_name("meds_reader_convert")), prepared.root, str(database)]
        tensorize = [
            str(python.with_name("MTD_preprocess")),
            f"MEDS_dataset_dir={prepared.root}",
            f"output_dir={tensorized}",
        ]
        found = {
            "preparing: cvmae fit_statistics": cpu_seconds(
                lambda: fit(config, open_dataset(prepared.root))
            ),
            "preparing: MTD_preprocess": _child_cpu_seconds(tensorize, python),
            "preparing: meds_reader_convert": _child_cpu_seconds(convert, python),
        }
        costs.write_text(json.dumps(found), encoding="utf-8")
    return settings, json.loads(costs.read_text(encoding="utf-8"))


def _peer_speed(python: Path, name: str, settings: Path) -> float:
    script = Path(__file__).with_name("loaders.py")
    found = json.loads(_run([str(python), str(script), name, str(settings)]).splitlines()[-1])
    return float(found["measurements"] / found["cpu_s"])


def _child_cpu_seconds(command: list[str], python: Path) -> float:
    """Run a command; return the CPU seconds of it and of all that it started."""
    progress("running %s", " ".join(command))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(command, {"PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Run a command in one thread; return its output.

    Raises:
        ValueError: It failed; the message ends with what it said.
    """
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command,
        env=kept | ONE_THREAD | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise ValueError(f"{' '.join(command[:4])} failed with {done.returncode}:\n{said}")
    return done.stdout
