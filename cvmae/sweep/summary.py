"""One row per trial of a sweep, read from the trials' own folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.runtime.tables import text_table
from cvmae.sweep.trials import Trial, progress_of, trial_status

__all__ = ["format_table", "summarise", "write_rows"]

SCHEMA = pa.schema(
    [
        ("trial", pa.string()),
        ("policy", pa.string()),
        ("epochs", pa.int64()),
        ("seed", pa.int64()),
        ("status", pa.string()),
        ("epochs_done", pa.int64()),
        ("best_tuning_mse", pa.float64()),
        ("last_tuning_mse", pa.float64()),
        ("measurements_per_s", pa.float64()),
        ("data_wait_share", pa.float64()),
        ("train_s", pa.float64()),
        ("run_dir", pa.string()),
        ("error", pa.string()),
    ]
)
PRINTED = {
    "policy": "{}",
    "epochs": "{}",
    "seed": "{}",
    "status": "{}",
    "best_tuning_mse": "{:.4f}",
    "last_tuning_mse": "{:.4f}",
    "measurements_per_s": "{:,.0f}",
    "data_wait_share": "{:.1%}",
    "run_dir": "{}",
}


def summarise(trials: Sequence[Trial], errors: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the table's rows; `errors` names the trials that failed in this attempt."""
    return [_row(trial, errors.get(trial.name, "")) for trial in trials]


def write_rows(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write the rows as parquet."""
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA), path)


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as text, a column per quantity."""
    cells = [
        ["-" if row[name] is None else form.format(row[name]) for name, form in PRINTED.items()]
        for row in rows
    ]
    return text_table(list(PRINTED), cells, align="<")


def _row(trial: Trial, error: str) -> dict[str, Any]:
    history = progress_of(trial.config.output_dir).history
    last: Mapping[str, Any] = history[-1] if history else {}
    return {
        "trial": trial.name,
        "policy": trial.config.mask.policy,
        "epochs": trial.config.train.epochs,
        "seed": trial.config.seed,
        "status": "failed" if error else trial_status(trial),
        "epochs_done": len(history),
        "best_tuning_mse": min((epoch["tuning_mse"] for epoch in history), default=None),
        "last_tuning_mse": last.get("tuning_mse"),
        "measurements_per_s": _mean(history, "measurements_per_s"),
        "data_wait_share": _mean(history, "data_wait_share"),
        "train_s": sum(epoch["train_s"] for epoch in history) if history else None,
        "run_dir": trial.config.output_dir,
        "error": error or None,
    }


def _mean(history: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Average over epochs, without the first where there are others: it warms up."""
    values = [epoch[name] for epoch in history if name in epoch]
    values = values[1:] or values
    return sum(values) / len(values) if values else None
