"""One row per trial of a sweep, read from the trials' own folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.checkpoint import Progress, find_checkpoint, has_checkpoints, read_progress
from cvmae.config import Config
from cvmae.storage.folders import is_file

__all__ = ["Trial", "format_table", "summarise", "trial_status", "write_rows"]

Status = Literal["finished", "unfinished", "failed", "new"]

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


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One cell of a sweep's grid: a name that only the cell decides, and its settings."""

    name: str
    config: Config


def _progress_of(run_dir: str) -> Progress:
    """Return the progress of a run's newest checkpoint; nothing done where there is none yet."""
    try:
        return read_progress(find_checkpoint(run_dir))
    except FileNotFoundError:
        return Progress()


def trial_status(trial: Trial) -> Status:
    """Tell from the trial's folder alone how far it has come."""
    folder = Path(trial.config.output_dir)
    if not folder.is_dir() or not (is_file(folder / "config.yaml") or has_checkpoints(folder)):
        return "new"
    return "finished" if _progress_of(str(folder)).is_finished(trial.config) else "unfinished"


def summarise(trials: Sequence[Trial], errors: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the table's rows; `errors` names the trials that failed in this attempt."""
    return [_row(trial, errors.get(trial.name, "")) for trial in trials]


def write_rows(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write the rows as parquet."""
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA), path)


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as text, a column per quantity."""
    cells = [list(PRINTED)]
    for row in rows:
        values = [row[name] for name in PRINTED]
        cells.append(
            [
                "-" if value is None else form.format(value)
                for value, form in zip(values, PRINTED.values(), strict=True)
            ]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    return "\n".join(lines)


def _row(trial: Trial, error: str) -> dict[str, Any]:
    history = _progress_of(trial.config.output_dir).history
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
