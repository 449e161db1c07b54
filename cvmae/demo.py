"""Everything, small: a synthetic hospital, three masking policies, one comparison.

The data are made up, so nothing here says which policy is better on patients; what it shows is
that every part of the program works on this machine, and how close the models come to the best
reconstruction that is possible, which only synthetic data can tell.
"""

import itertools
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cvmae.batches.evaluation import evaluation_batches
from cvmae.checkpoint import load_model
from cvmae.config import PRESETS, Config, without_password
from cvmae.evaluate.evaluate import compare_models
from cvmae.evaluate.parts import require_all
from cvmae.evaluate.report import wording
from cvmae.evaluate.summary import SummaryRow, summary
from cvmae.meds.dataset import open_dataset
from cvmae.meds.units import plan_units
from cvmae.runtime.tables import text_table
from cvmae.storage.output import output_folder, require_new
from cvmae.sweep.driver import sweep
from cvmae.sweep.trials import plan_trials
from cvmae.synthetic.hospital import SyntheticConfig, read_synthetic_config, write_hospital
from cvmae.synthetic.reference import Attainable, attainable_r2
from cvmae.tracking.sqlite import sqlite_path
from cvmae.tracking.store import experiment_page, name_store, store_uri

__all__ = [
    "DemoConfig",
    "demo",
    "demo_hospital",
    "demo_sweep",
    "hospital_attainable",
    "require_no_demo",
]

logger = logging.getLogger("cvmae")

HEADER = (
    "policy",
    "held-out R2",
    "macro R2",
    "labs won against random",
    "epochs to 1% of random's best",
    "measurements/s",
)
SYNTHETIC_NOTE = (
    "The data are synthetic, made up by this program: the figures say that everything works\n"
    "here, not which policy is better on patients. For that: a sweep on your own data."
)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Pretrain and compare three masking policies on a synthetic hospital, in minutes."""

    output_dir: str = "demo-run"
    """New folder for everything that the demo writes."""
    num_subjects: int = 1000
    """Subjects of the synthetic hospital."""
    epochs: int = 20
    """Passes over the training data, for each policy."""
    num_workers: int = 2
    """Training workers of each policy on a local Ray; 0: in this process, without Ray."""
    seed: int = 0
    """Seed of the hospital and of training."""


def demo(config: DemoConfig) -> str:
    """Write a hospital, sweep three policies, evaluate them; return the table and the places.

    Raises:
        ValueError: The output folder is not new, a setting is not allowed, or a part of the
            evaluation failed (after the others have ended; the message holds the table).
    """
    with output_folder(
        config.output_dir,
        "demo",
        check=require_no_demo,
        only_local="the demo needs a folder of this machine",
    ) as folder:
        return _demo(replace(config, output_dir=folder))


def require_no_demo(folder: str) -> None:
    """Refuse a folder in which there is something."""
    advice = (
        ": remove it, or give another folder with --output_dir (make demo "
        'ARGS="--output_dir FOLDER")'
    )
    require_new(folder, advice=lambda _: advice)


def _demo(config: DemoConfig) -> str:
    folder = Path(config.output_dir)
    start = time.monotonic()
    root = write_hospital(demo_hospital(config))
    logger.info("1 of 3: wrote a synthetic hospital of %d subjects", config.num_subjects)
    sweep_config = demo_sweep(config, root)
    trials = plan_trials(sweep_config)
    logger.info(
        "2 of 3: pretraining %d policies, one after another: some minutes on two cores", len(trials)
    )
    sweep(sweep_config)
    logger.info("3 of 3: evaluating them on the same hidden values of held_out")
    runs = {trial.config.mask.policy: trial.config.output_dir for trial in trials}
    evaluation = replace(
        sweep_config,
        output_dir=str(folder / "evaluation"),
        evaluate=replace(
            sweep_config.evaluate, checkpoints=tuple(f"{name}={run}" for name, run in runs.items())
        ),
    )
    results = compare_models(evaluation)
    best = hospital_attainable(evaluation, runs["random"])
    counted_C = np.array([code.counted for code in results.codes])  # the mean is over the same
    if counted_C.any():
        best = replace(best, r2_macro=float(best.r2_C[counted_C].mean()))
    minutes = (time.monotonic() - start) / 60
    told = "\n\n".join(
        [
            format_table(summary(results), best),
            f"{SYNTHETIC_NOTE}\nThis took {minutes:.1f} minutes.",
            _places(sweep_config, folder),
        ]
    )
    require_all(results, told)
    return told


def hospital_attainable(config: Config, run_dir: str) -> Attainable:
    """Return the best R2 on the hidden values that `evaluate` scores, from the known truth."""
    root = config.data.root
    loaded = load_model(run_dir)

    def sequences() -> Iterator[tuple[Any, Any, Any]]:
        dataset = open_dataset(root)
        for unit in plan_units(dataset, config.data.unit_rows):
            for batch in evaluation_batches(
                dataset,
                unit,
                loaded.fitted.statistics,
                split=config.evaluate.split,
                sequence_length=config.evaluate.sequence_length,
                ratio=config.evaluate.mask_ratio,
                seed=config.evaluate.seed,
            ):
                hidden_N = np.zeros(batch.batch.num_measurements, dtype=np.bool_)
                hidden_N[batch.batch.hidden_M.numpy()] = True
                for first, last in itertools.pairwise(batch.batch.offsets_B.tolist()):
                    own = slice(first, last)
                    yield batch.code_index_N[own], batch.time_us_N[own], hidden_N[own]

    return attainable_r2(
        read_synthetic_config(root),
        loaded.fitted.statistics.codes,
        sequences(),
        min_scored=config.evaluate.min_scored,
    )


def format_table(rows: Sequence[SummaryRow], best: Attainable) -> str:
    """Return the comparison as text: models, what is attainable, simple baselines."""
    reference = (best.name, f"{best.r2_pooled:.3f}", f"{best.r2_macro:.3f}", "", "", "")
    models = [row for row in rows if row.kind != "baseline"]
    baselines = [row for row in rows if row.kind == "baseline"]
    return text_table(HEADER, [*map(_cells, models), reference, *map(_cells, baselines)])


def _cells(row: SummaryRow) -> tuple[str, ...]:
    trained = row.kind != "baseline"
    return (
        row.policy,
        wording.number(row.r2_pooled),
        wording.number(row.r2_macro),
        row.codes_won,
        row.epochs_needed,
        wording.count(row.measurements_per_s) if trained else "",
    )


def demo_hospital(config: DemoConfig) -> SyntheticConfig:
    """Return a hospital that two cores can learn from in minutes."""
    return SyntheticConfig(
        root=str(Path(config.output_dir) / "hospital"),
        num_subjects=config.num_subjects,
        num_codes=100,
        median_measurements=60,
        max_measurements=256,
        other_row_share=0.2,
        # More than usual are held out: each of 100 codes needs values to be scored.
        split_shares=(0.7, 0.1, 0.2),
        num_shards=4,
        seed=config.seed,
    )


def demo_sweep(config: DemoConfig, root: str) -> Config:
    """Return the settings of the demo's sweep over a hospital."""
    base = PRESETS["small"]
    return replace(
        base,
        output_dir=str(Path(config.output_dir) / "sweep"),
        seed=config.seed,
        # Small batches and a high rate, since so small a data set gives few steps. Tuning R2 was
        # 0.06 after 200 of 440 steps with 32 sequences at 1e-3 (and 4 layers), and 0.30 after
        # 880 steps with 16 at 3e-3.
        model=replace(base.model, num_layers=2),
        optim=replace(base.optim, lr=3e-3),
        # So small a data set gives many units only if units are small.
        data=replace(base.data, root=root, sequence_length=256, unit_rows=10_000),
        train=replace(base.train, epochs=config.epochs, batch_sequences=16),
        scaling=replace(base.scaling, num_workers=config.num_workers),
        sweep=replace(base.sweep, policies=("random", "variance", "cv")),
        evaluate=replace(base.evaluate, min_scored=20, sequence_length=256, leave_one_out=2_000),
    )


def _places(config: Config, folder: Path) -> str:
    """Say where the report and the runs are, with the commands that open them."""
    report = folder / "evaluation" / "report.html"
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    lines = [f"report: {report}", f"  {opener} {shlex.quote(str(report))}"]
    if config.scaling.num_workers == 0:
        return "\n".join([*lines, f"metrics: {config.output_dir}/trials/*/metrics.parquet"])
    mlflow = os.path.relpath(Path(sys.executable).parent / "mlflow")
    config = name_store(config)
    uri = without_password(store_uri(config))
    lines.append(f"MLflow store: {uri}")
    if sqlite_path(uri):
        lines += [
            f"  {shlex.quote(mlflow)} ui --backend-store-uri {shlex.quote(uri)}",
            f"  then {experiment_page(config)} in a browser",
        ]
    return "\n".join(lines)
