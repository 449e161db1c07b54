"""A sweep as tables for other programs: a row per trial, per epoch and per code of a trial."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.evaluate.seeds import Estimate
from cvmae.sweep.ranking import Ranked
from cvmae.sweep.summary import Summary, TrialRecord

__all__ = ["ranked_tables", "write_tables"]


# Of the codes' coefficient of variation, and the codes that have no rank in it.
QUARTILES = ("1_most_stable", "2", "3", "4_most_volatile", "mean_near_0")


def write_tables(summary: Summary, folder: str | Path) -> list[Path]:
    """Write ``trials.parquet``, ``results.parquet`` and ``code_results.parquet``; return them."""
    tables = {
        "trials.parquet": [_trial_row(summary, trial) for trial in summary.trials],
        "results.parquet": [row for trial in summary.trials for row in _epoch_rows(trial)],
        "code_results.parquet": [
            row for trial in summary.trials for row in _code_rows(summary, trial)
        ],
    }
    paths = []
    for name, rows in tables.items():
        paths.append(Path(folder) / name)
        pq.write_table(_table(rows), paths[-1])
    return paths


def ranked_tables(ranked: Sequence[Ranked]) -> dict[str, dict[str, list[Any]]]:
    """Return the ranking, convergence and errors by quartile as columns, by a table's name."""
    tables: dict[str, list[dict[str, Any]]] = {"ranking": [], "convergence": [], "quartiles": []}
    for one in ranked:
        cell, curve = {"label": one.label, "policy": one.policy, "epochs": one.epochs}, one.curve
        tables["ranking"].append(
            cell
            | {"seeds": one.last_tuning_mse.num_seeds}
            | _estimate("tuning_mse", one.last_tuning_mse)
            | _estimate("minus_random", one.minus_random)
            | _estimate("tuning_r2", one.last_tuning_r2)
            | {"best_tuning_mse": one.best_tuning_mse}
        )
        own = [epochs for epochs in curve.epochs_to_own_best_per_run if epochs is not None]
        tables["convergence"].append(
            cell
            | {"target_of": one.reference, "reached": curve.num_reached, "runs": curve.num_runs}
            | {
                "epochs_to_target": curve.epochs_to_reference_best,
                "measurements_to_target": curve.measurements_to_reference_best,
                "hours_to_target": curve.hours_to_reference_best,
                "epochs_to_own_best": curve.epochs_to_own_best,
                "runs_with_own_best": len(own),
                "last_slope": curve.final_slope,
            }
        )
        errors = zip(QUARTILES, one.tuning_mse_by_quartile, strict=True)
        tables["quartiles"].append(cell | dict(errors))
    return {
        name: {column: [row[column] for row in rows] for column in (rows[0] if rows else ())}
        for name, rows in tables.items()
        if rows
    }


def _estimate(name: str, found: Estimate | None) -> dict[str, float | None]:
    values = (found.mean, found.low, found.high) if found else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the rows with the columns of all of them, each of one type."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _cell(trial: TrialRecord) -> dict[str, Any]:
    own = {"trial": trial.trial, "policy": trial.policy, "epochs": trial.epochs}
    return own | {"seed": trial.seed} | trial.axes


def _trial_row(summary: Summary, trial: TrialRecord) -> dict[str, Any]:
    errors = trial.curve.get("tuning_mse", ())
    row = _cell(trial) | {
        "label": trial.label,
        "status": trial.status,
        "epochs_done": trial.num_epochs,
        "best_tuning_mse": min(errors, default=None),
        "last_tuning_mse": errors[-1] if errors else None,
        "last_tuning_r2": trial.curve["tuning_r2"][-1] if errors else None,
    }
    for quartile in (1, 2, 3, 4):
        error = trial.of_codes("tuning_mse", summary.quartile_C == quartile)
        row[f"tuning_mse_cv_quartile_{quartile}"] = None if np.isnan(error) else error
    return row | {
        "measurements_per_s": _settled(trial, "measurements_per_s"),
        "data_wait_share": _settled(trial, "data_wait_share"),
        "train_s": sum(trial.curve["train_s"]) if errors else None,
        "run_dir": trial.run_dir,
        "error": trial.error or None,
    }


def _epoch_rows(trial: TrialRecord) -> list[dict[str, Any]]:
    return [
        _cell(trial)
        | {name: value for name, value in entry.items() if name != "epoch"}
        | {"epoch": int(entry["epoch"])}
        for entry in trial.history
    ]


def _code_rows(summary: Summary, trial: TrialRecord) -> list[dict[str, Any]]:
    return [
        _cell(trial)
        | {"code": code.code, "cv": code.cv, "cv_quartile": code.quartile}
        | {name: values[place] for name, values in trial.codes.items()}
        for place, code in enumerate(summary.codes if trial.codes else ())
    ]


def _settled(trial: TrialRecord, name: str) -> float | None:
    """Average over epochs, without the first where there are others: it warms up."""
    values = trial.curve.get(name, ())
    values = values[1:] or values
    return sum(values) / len(values) if values else None
