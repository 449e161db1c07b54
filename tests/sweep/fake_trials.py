"""What pretraining leaves in a trial's folder, without any training."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from cvmae.checkpoint import FORMAT
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.storage.manifest import write_manifest
from cvmae.sweep.summary import TrialRecord

NUM_CODES = 8


def write_checkpoint(config, epochs_done, errors=None):
    """Leave what a pretraining leaves after some epochs, by default with errors of 2, 1, 2, ..."""
    folder = Path(config.output_dir) / "checkpoints" / f"step_{epochs_done:08d}"
    (folder / "statistics").mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "model.safetensors", "optimizer.safetensors"):
        (folder / name).touch()
    progress = {
        "epoch": epochs_done,
        "global_step": epochs_done,
        "history": history_of(errors or [1.0 + abs(e - 1) for e in range(epochs_done)]),
        "last_codes": codes_of() if epochs_done else None,
    }
    (folder / "progress.json").write_text(json.dumps(progress))
    write_manifest(folder, FORMAT)


def history_of(errors):
    return [
        {
            "epoch": epoch,
            "step": epoch,
            "train_loss": 0.5,
            "tuning_mse": float(error),
            "tuning_r2": 1.0 - float(error) / 2,
            "measurements_per_s": 100.0 * epoch,
            "data_wait_share": 0.1,
            "train_s": 2.0,
        }
        for epoch, error in enumerate(errors, start=1)
    ]


def codes_of(tuning_mse=None):
    """Return the last figures of codes: errors of 0, 1, 2, ..., of 10 values each."""
    columns = {"mask_rate": [0.25] * NUM_CODES, "train_mse": [1.0] * NUM_CODES}
    errors = list(map(float, range(NUM_CODES))) if tuning_mse is None else tuning_mse
    columns |= {"tuning_mse": errors, "tuning_r2": [0.5] * NUM_CODES}
    return columns | {"tuning_count": [10.0] * NUM_CODES}


def statistics_of(cv=None) -> CodeStatistics:
    """Return statistics of codes whose CV rises from the last to the first."""
    cv = np.linspace(0.8, 0.1, NUM_CODES) if cv is None else np.array(cv)
    ones = np.ones(len(cv))
    arrays = {field.name: ones for field in fields(CodeStatistics)}
    codes = tuple(f"LAB//{number}" for number in range(len(cv)))
    return CodeStatistics(
        **arrays | {"codes": codes, "members": tuple((code,) for code in codes), "std": cv}
    )


def record(policy, errors, *, seed=0, status="finished", codes=None, **changes) -> TrialRecord:
    """Return what a trial has shown."""
    history = history_of(errors)
    found = TrialRecord(
        trial=f"{policy}_epochs{len(errors)}_seed{seed}",
        label=policy,
        policy=policy,
        epochs=len(errors),
        seed=seed,
        axes={},
        status=status,
        curve={name: tuple(entry[name] for entry in history) for name in history[0]},
        codes={name: tuple(values) for name, values in (codes or codes_of()).items()},
        run_dir="/somewhere/trials",
    )
    return replace(found, **changes)
